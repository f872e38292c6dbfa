"""Calls of the C library that Python has no function for, with errors raised."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Calls a function that returns -1 on failure; raises `OSError` that names it."""
    # As long as a register: `prctl` and `syscall` read the whole of it.
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = getattr(_LIBC, name)(*wide)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int, more: object = 0) -> None:
    """Sets an attribute of this process."""
    call("prctl", option, value, more, 0, 0)
