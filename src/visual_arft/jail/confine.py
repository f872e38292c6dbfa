"""What a child does to itself before it runs code: every step holds, or it raises.

No step needs a privilege. Afterwards the process can compute, talk over its channel and, where
Landlock guards the file system, use its scratch folder and read the libraries.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import landlock, libc, scratch, seccomp
from .clock import lifetime_cpu_s

CHANNEL_FD = 3

_FILE_BYTES = 64 * 2**20
_OPEN_FILES = 32
_CLONE_NEWNS, _MS_NOSUID, _MS_NODEV = 0x00020000, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 38, 47
_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Plan:
    """What the zygote prepared for all its children, so that each has little to do."""

    landlock_abi: int
    """0: no Landlock, so no system call that names a file, either."""
    rights: Mapping[str, int]
    """By path: what Landlock leaves, beside the scratch folder."""
    filter: list[seccomp.Instruction]
    address_space: int
    """Bytes, the zygote's own included."""
    cpu_s: int
    """For all the life of a child."""
    is_private: bool
    """The zygote has namespaces of its own: the scratch folder becomes a file system of its own."""

    @classmethod
    def make(cls, libraries: list[str], limits: Mapping[str, float], *, is_private: bool) -> Plan:
        """The plan for this machine; raises `OSError` where a filter cannot be had."""
        abi = landlock.version()
        rights = dict.fromkeys(libraries, landlock.READ)
        return cls(
            landlock_abi=abi,
            rights=rights | {os.devnull: landlock.READ_WRITE_FILE},
            filter=seccomp.compiled(paths=abi > 0),
            address_space=_own_address_space() + int(limits["memory_mb"] * 2**20),
            cpu_s=lifetime_cpu_s(limits["cpu_s"]),
            is_private=is_private,
        )


def let_go(channel_fd: int, zygote: int) -> None:
    """Leaves the zygote's descriptors and its session; ends with the zygote."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(0)  # it died before the line above
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.dup2(channel_fd, CHANNEL_FD)
    os.closerange(CHANNEL_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def confine(plan: Plan, folder: str) -> None:
    """Gives up all that code does not need, for good; raises `OSError` where a step fails."""
    if plan.is_private and plan.landlock_abi:
        _mount_private(folder)
    os.chdir(folder)
    _set_limits(plan)
    _drop_capabilities()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    libc.prctl(_PR_SET_DUMPABLE, 0)
    if plan.landlock_abi:
        _restrict_files(plan, folder)
    seccomp.load(plan.filter)


def _mount_private(folder: str) -> None:
    libc.call("unshare", _CLONE_NEWNS)
    options = f"size={scratch.MOST_MB}m,nr_inodes={scratch.MOST_FILES},mode=700"
    flags = _MS_NOSUID | _MS_NODEV
    libc.call("mount", b"scratch", folder.encode(), b"tmpfs", flags, options.encode())


def _set_limits(plan: Plan) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, plan.address_space),
        (resource.RLIMIT_CPU, plan.cpu_s),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            most = min(most, ceiling)
        resource.setrlimit(kind, (most, most))


def _drop_capabilities() -> None:
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc.call("capset", ctypes.byref(header), ctypes.byref(nothing))


def _restrict_files(plan: Plan, folder: str) -> None:
    rules = {os.open(path, os.O_PATH): rights for path, rights in plan.rights.items()}
    rules[os.open(folder, os.O_PATH)] = landlock.SCRATCH
    landlock.restrict(plan.landlock_abi, rules)
    for fd in rules:
        os.close(fd)


def _own_address_space() -> int:
    """Bytes mapped by this process, to a megabyte, found by where a limit begins to bite.

    /proc would say it, but inside a namespace there is none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 2**27 if hard == resource.RLIM_INFINITY else hard // 2**20  # megabytes
    try:
        while high - low > 1:
            middle = (low + high) // 2
            resource.setrlimit(resource.RLIMIT_AS, (middle * 2**20, hard))
            if _can(lambda: mmap.mmap(-1, mmap.PAGESIZE).close()):
                high = middle
            else:
                low = middle
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return high * 2**20


def _can(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, MemoryError):
        return False
    return True
