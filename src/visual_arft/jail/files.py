"""Where code finds its pictures and leaves its own.

`ScratchFiles` are real files, in the folder that the process stands in. Where Landlock is missing
no system call may name a file; `MemoryFiles` then give the common ways of opening one by plain name
the same meaning.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Protocol

import cv2
import numpy as np


class Files(Protocol):
    """Files by plain name."""

    def write(self, name: str, data: bytes | bytearray) -> None:
        """Makes a file, or replaces it."""
        ...

    def version(self, name: str) -> object:
        """Something that changes when the file is written; None where there is no file."""
        ...


class ScratchFiles:
    """Files in the folder that the process stands in."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def write(self, name: str, data: bytes | bytearray) -> None:
        """Makes a file, or replaces it."""
        with open(f"{self._folder}/{name}", "wb") as file:  # noqa: PTH123
            file.write(data)

    def version(self, name: str) -> object:
        """What identifies the present content of a file; None where there is no file."""
        try:
            found = os.stat(f"{self._folder}/{name}")  # noqa: PTH116
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class MemoryFiles:
    """Files that are bytes in memory; `install` puts them behind `open`, OpenCV and Pillow."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def write(self, name: str, data: bytes | bytearray) -> None:
        """Makes a file, or replaces it."""
        self._data[name] = bytes(data)

    def version(self, name: str) -> object:
        """The identity of the present content; None where there is no file."""
        return id(self._data[name]) if name in self._data else None

    def install(self) -> None:
        """Lets code use them without knowing; Pillow, numpy and pathlib go by `open`."""
        builtins.open = io.open = self._open
        os.path.exists = os.path.isfile = self._exists
        os.remove = os.unlink = self._remove
        cv2.imread, cv2.imwrite = self._imread, self._imwrite

    def _open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        **_: Any,
    ) -> Any:
        name = _plain(file)
        if "x" in mode and name in self._data:
            raise FileExistsError(errno.EEXIST, "the file exists", name)
        if "r" in mode and name not in self._data:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        content = self._data[name] if name in self._data and "w" not in mode else b""
        raw = _MemoryFile(self, name, content)
        if mode[0] != "r":
            raw.flush()
        if "a" in mode:
            raw.seek(0, io.SEEK_END)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)

    def _exists(self, path: Any) -> bool:
        try:
            return _plain(path) in self._data
        except PermissionError:
            return False

    def _remove(self, path: Any) -> None:
        name = _plain(path)
        if self._data.pop(name, None) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)

    def _imread(self, path: Any, flags: int = cv2.IMREAD_COLOR) -> Any:
        data = self._data.get(_plain(path))
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None

    def _imwrite(self, path: Any, image: Any, params: Sequence[int] = ()) -> bool:
        name = _plain(path)
        done, data = cv2.imencode(PurePath(name).suffix, image, params)
        if done:
            self.write(name, data.tobytes())
        return done


class _MemoryFile(io.BytesIO):
    def __init__(self, files: MemoryFiles, name: str, content: bytes) -> None:
        super().__init__(content)
        self._files, self._content = files, content
        self.name = name

    def flush(self) -> None:
        content = self.getvalue()
        if content != self._content or not content:
            self._files.write(self.name, content)
            self._content = content

    def close(self) -> None:
        if not self.closed:
            self.flush()
        super().close()


def _plain(path: Any) -> str:
    """The name of a file in the one folder there is; raises `OSError` for any other."""
    name = os.path.normpath(os.fspath(path)) if isinstance(path, str | os.PathLike) else ""
    if not name or "/" in name:
        raise PermissionError(errno.EPERM, "there are only plain file names here", str(path))
    return name
