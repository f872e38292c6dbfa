"""The filter, run as the kernel would run it."""

from __future__ import annotations

import pytest

from visual_arft.jail import seccomp
from visual_arft.jail.seccomp import Instruction, assemble

ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050001
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
BOTH = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def verdict(program: list[Instruction], architecture: int, number: int, *arguments: int) -> int:
    """What the filter says of a call: classic BPF over struct seccomp_data."""
    words = {0: number, 4: architecture}
    for place, argument in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6]):
        words[16 + 8 * place] = argument & 0xFFFFFFFF
        words[20 + 8 * place] = argument >> 32
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:
            accumulator = words[constant]
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x15:
            at += if_true if accumulator == constant else if_false
        elif code == 0x35:
            at += if_true if accumulator >= constant else if_false
        else:
            assert code == 0x06
            return constant


@BOTH
@pytest.mark.parametrize("paths", [True, False])
def test_a_call_gets_through_only_if_it_is_listed(machine: str, paths: bool):
    program = assemble(machine, paths=paths)
    listed = seccomp.allowed(machine, paths=paths)
    for number in range(1200):
        found = verdict(program, ARCHITECTURE[machine], number)
        assert found == (ALLOW if number in listed else EPERM) or listed[number]


@BOTH
def test_other_tables_end_the_process(machine: str):
    program = assemble(machine, paths=True)
    for architecture in (0x40000003, 0x40000028, *ARCHITECTURE.values()):
        if architecture != ARCHITECTURE[machine]:
            assert verdict(program, architecture, 0) == KILL
    assert verdict(program, ARCHITECTURE[machine], 0x40000000 + 39) == KILL


@BOTH
def test_without_paths_no_call_names_a_file(machine: str):
    listed = seccomp.allowed(machine, paths=False)
    opens = {
        "x86_64": {2, 4, 6, 21, 59, 80, 82, 83, 85, 87, 257, 262, 322, 437, 439},
        "aarch64": {34, 35, 48, 49, 56, 79, 221, 276, 281, 437, 439},
    }
    assert not opens[machine] & listed.keys()


FCNTL, FUTEX, PRLIMIT, OPENAT, IOCTL = (
    {"x86_64": 72, "aarch64": 25},
    {"x86_64": 202, "aarch64": 98},
    {"x86_64": 302, "aarch64": 261},
    {"x86_64": 257, "aarch64": 56},
    {"x86_64": 16, "aarch64": 29},
)


@BOTH
@pytest.mark.parametrize(
    ("call", "arguments", "right"),
    [
        (FCNTL, (3, 0), ALLOW),
        (FCNTL, (3, 1030, 5), ALLOW),
        (FCNTL, (3, 8, 1), EPERM),  # F_SETOWN
        (FCNTL, (3, 10, 9), EPERM),  # F_SETSIG
        (FCNTL, (3, 1024, 1), EPERM),  # F_SETLEASE
        (FUTEX, (0, 128), ALLOW),
        (FUTEX, (0, 128 | 256 | 9), ALLOW),
        (FUTEX, (0, 6), EPERM),  # FUTEX_LOCK_PI
        (PRLIMIT, (0, 7, 0, 4096), ALLOW),
        (PRLIMIT, (0, 7, 4096, 0), EPERM),
        (PRLIMIT, (0, 7, 1 << 32, 0), EPERM),
        (PRLIMIT, (77, 7, 0, 4096), EPERM),
        (OPENAT, (0, 0, 0o101), ALLOW),
        (OPENAT, (0, 0, 0o10000000), EPERM),  # O_PATH
        (OPENAT, (0, 0, 0o20200002), EPERM),  # O_TMPFILE
        (IOCTL, (3, 0x5451), ALLOW),
        (IOCTL, (3, 0x5401), EPERM),
        (IOCTL, (3, 0x5412), EPERM),  # TIOCSTI
    ],
)
def test_some_calls_depend_on_their_arguments(
    machine: str, call: dict[str, int], arguments: tuple[int, ...], right: int
):
    program = assemble(machine, paths=True)
    assert verdict(program, ARCHITECTURE[machine], call[machine], *arguments) == right


def test_a_machine_without_a_table_is_refused():
    with pytest.raises(
        OSError, match="no seccomp filter for riscv64; there are x86_64 and aarch64"
    ):
        assemble("riscv64", paths=True)
