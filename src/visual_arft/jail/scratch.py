"""Folders that code writes to: whether one holds too much, and how one is removed.

Both must withstand what hostile code can build: a hundred thousand files, or folders nested deeper
than a path can name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

MOST_FILES = 256
MOST_MB = 128

_PREFIX = "arft-sandbox-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def create_root() -> tuple[str, int]:
    """A new folder for the scratch of many children, and a descriptor that holds its lock.

    The kernel lets go of the lock with the last process that holds the descriptor, so that
    `sweep` can tell a folder in use from one left behind.
    """
    root = tempfile.mkdtemp(prefix=_PREFIX)
    fd = os.open(root, _FOLDER)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return root, fd


def sweep() -> None:
    """Removes what killed runs of this user left in the temporary folder."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_unlocked(root)


def is_over_quota(folder: str) -> bool:
    """Whether a folder holds too many files or too many bytes; one that hides them does."""
    count, size, folders = 0, 0, [folder]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    size += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if count > MOST_FILES or size > MOST_MB * 2**20:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    except FileNotFoundError:
        return False  # just removed: the next look will see
    except OSError:
        return True  # not readable, or deeper than a path can name
    return False


def wipe(folder: str) -> None:
    """Removes a folder and all in it, in constant depth; no process may be writing there."""
    fd = os.open(folder, _FOLDER)
    try:
        while entries := _entries(fd):
            for name, is_folder in entries:
                if is_folder:
                    _dissolve(name, fd)
                else:
                    os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    Path(folder).rmdir()


def _remove_unlocked(root: Path) -> None:
    if root.stat(follow_symlinks=False).st_uid != os.geteuid():
        return
    fd = os.open(root, _FOLDER)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is in use
        wipe(str(root))
    finally:
        os.close(fd)


def _entries(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _dissolve(name: str, parent: int) -> None:
    """Moves what a folder holds up to its parent, and removes it."""
    os.chmod(name, 0o700, dir_fd=parent)
    fd = os.open(name, _FOLDER, dir_fd=parent)
    try:
        for inner, _ in _entries(fd):
            os.rename(inner, secrets.token_hex(8), src_dir_fd=fd, dst_dir_fd=parent)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
