"""The system calls that code may make, as a filter for the kernel.

An allowlist: what is not named fails with EPERM, and calls of another architecture's table end the
process. The program is assembled here, so no library is needed; see seccomp(2) and the kernel's
Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

from . import libc

Machine = str
"""`x86_64` or `aarch64`, as `platform.machine` says it."""

_PLAIN: dict[str, tuple[int | None, int | None]] = {
    # name: number on x86_64, on aarch64
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "lseek": (8, 62),
    "close": (3, 57),
    "fstat": (5, 80),
    "ftruncate": (77, 46),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "msync": (26, 227),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getpgrp": (111, None),
    "uname": (63, 160),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getrlimit": (97, 163),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
}
_PATHS: dict[str, tuple[int | None, int | None]] = {
    # Only where Landlock says which paths.
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "getdents64": (217, 61),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
}


class Check(NamedTuple):
    """A condition on one 32-bit half of an argument: its masked value is one of `values`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    high: bool = False


class _Checked(NamedTuple):
    numbers: tuple[int | None, int | None]
    checks: tuple[Check, ...]


# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN: it makes the kernel
# signal another process.
_FCNTL = Check(1, (0, 1, 2, 3, 4, 1030))
# WAIT, WAKE and their BITSET forms, private or not, on either clock.
_FUTEX = Check(1, (0, 1, 9, 10), mask=0xFFFFFFFF & ~(128 | 256))
# Neither O_PATH, which Landlock does not see, nor O_TMPFILE, which the quota does not.
_NO_HANDLE = 0o10000000 | 0o20000000
# One's own limits may be read (the new ones are NULL), not set.
_PRLIMIT = (Check(0, (0,)), Check(2, (0,)), Check(2, (0,), high=True))

# FIONCLEX and FIOCLEX, which say what becomes of a descriptor at an exec.
_IOCTL = Check(1, (0x5450, 0x5451))

_CHECKED: dict[str, _Checked] = {
    "fcntl": _Checked((72, 25), (_FCNTL,)),
    "ioctl": _Checked((16, 29), (_IOCTL,)),
    "futex": _Checked((202, 98), (_FUTEX,)),
    "prlimit64": _Checked((302, 261), _PRLIMIT),
}
_CHECKED_PATHS: dict[str, _Checked] = {
    "open": _Checked((2, None), (Check(1, (0,), mask=_NO_HANDLE),)),
    "openat": _Checked((257, 56), (Check(2, (0,), mask=_NO_HANDLE),)),
}

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
"""Set in the numbers of x86_64's second table."""

_LD, _AND, _JEQ, _JGE, _RET = 0x20, 0x54, 0x15, 0x35, 0x06
_KILL, _ALLOW, _EPERM = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def allowed(machine: Machine, *, paths: bool) -> dict[int, tuple[Check, ...]]:
    """The numbers of the calls that may be made, each with the conditions on its arguments."""
    column, _ = _ARCHITECTURES[machine]
    plain = _PLAIN | (_PATHS if paths else {})
    checked = _CHECKED | (_CHECKED_PATHS if paths else {})
    calls: list[tuple[int | None, tuple[Check, ...]]] = [
        *((numbers[column], ()) for numbers in plain.values()),
        *((each.numbers[column], each.checks) for each in checked.values()),
    ]
    return {number: checks for number, checks in calls if number is not None}


def assemble(machine: Machine, *, paths: bool) -> list[Instruction]:
    """The filter; `paths` also lets calls through that name a file. Raises `OSError`."""
    if machine not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}; there are {known}")
    _, architecture = _ARCHITECTURES[machine]
    program: list[Instruction] = [
        (_LD, 0, 0, _ARCHITECTURE),
        (_JEQ, 1, 0, architecture),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NUMBER),
        (_JGE, 0, 1, _X32),
        (_RET, 0, 0, _KILL),
    ]
    for number, checks in allowed(machine, paths=paths).items():
        body = [instruction for check in checks for instruction in _test(check)]
        program += [(_JEQ, 0, len(body) + 1, number), *body, (_RET, 0, 0, _ALLOW)]
    return [*program, (_RET, 0, 0, _EPERM)]


def load(program: list[Instruction]) -> None:
    """Puts this process under the filter, for good."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    what = _Program(len(program), code)
    libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(what))


def compiled(*, paths: bool) -> list[Instruction]:
    """The filter for this machine."""
    return assemble(platform.machine(), paths=paths)


def _test(check: Check) -> Iterator[Instruction]:
    """Goes on where the condition holds and returns EPERM where not."""
    offset = _ARGUMENTS + 8 * check.argument + (4 if check.high else 0)  # little-endian both
    yield (_LD, 0, 0, offset)
    yield (_AND, 0, 0, check.mask)
    for left in range(len(check.values), 0, -1):
        # To behind the return below; the number of the call is not needed any more.
        yield (_JEQ, left, 0, check.values[-left])
    yield (_RET, 0, 0, _EPERM)
