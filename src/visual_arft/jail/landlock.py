"""Which files code may reach, by the kernel's Landlock; see landlock(7).

Everything that this kernel's Landlock knows how to forbid is forbidden, but for the rules given. It
does not cover looking up whether a file exists and how large it is: only a namespace hides that.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from . import libc

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(1, 6))
_MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14

READ = _READ_FILE | _READ_DIR
"""Of a folder and all below it."""
READ_WRITE_FILE = _READ_FILE | _WRITE_FILE
"""Of a file that is no folder."""
SCRATCH = (
    READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
)
"""All that ordinary files and folders need; neither links nor sockets nor devices."""

_KNOWN_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights on files a version knows; 16 from version 5 on."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """The version of this kernel's Landlock; 0 where there is none."""
    try:
        return libc.call("syscall", _CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(abi: int, rules: Mapping[int, int]) -> None:
    """Leaves this process the given rights on each descriptor of a path; raises `OSError`."""
    known = (1 << _KNOWN_RIGHTS.get(abi, 16)) - 1
    # Binding and connecting TCP; signals and abstract sockets to the outside.
    what = _Ruleset(known, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0)
    size = 8 + 8 * (abi >= 4) + 8 * (abi >= 6)
    ruleset = libc.call("syscall", _CREATE, ctypes.byref(what), size, 0)
    for fd, rights in rules.items():
        rule = _PathBeneath(rights & known, fd)
        libc.call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    libc.call("syscall", _RESTRICT, ruleset, 0)
    os.close(ruleset)
