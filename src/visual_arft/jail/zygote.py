"""The process that forks the children, reaps them and says how each ended.

It has one thread, loads the libraries once, and ends with its control socket, taking all children
along. It does what it is told, and watches nothing but the quota of the scratch folders: time is
the trainer's to keep. When anything unforeseen happens it dies, and the trainer starts another.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from . import child, scratch
from .clock import cpu_s
from .confine import Plan
from .messages import BORN, ENDED, FORK, HELLO, NUMBER, Report

if TYPE_CHECKING:
    from collections.abc import Mapping

_QUOTA_MS = 50
_STANDARD_LIBRARY = str(Path(os.__file__).parent)
_PRELOADED = (
    "argparse ast asyncio base64 bisect bz2 calendar cmath collections colorsys concurrent.futures "
    "configparser copy csv ctypes.util dataclasses datetime decimal difflib encodings.ascii "
    "encodings.cp1252 encodings.idna encodings.latin_1 encodings.utf_16 enum fractions glob gzip "
    "hashlib heapq html inspect itertools logging lzma math numpy.fft numpy.ma numpy.polynomial "
    "numpy.random operator pathlib pickle platform pprint queue re secrets shutil statistics "
    "string subprocess tarfile tempfile textwrap threading timeit traceback typing unicodedata "
    "urllib.request uuid warnings weakref xml.etree.ElementTree zipfile zlib "
    "PIL.ImageChops PIL.ImageColor PIL.ImageDraw PIL.ImageEnhance PIL.ImageFilter PIL.ImageFont "
    "PIL.ImageOps PIL.ImageStat PIL.ImageTransform"
)
"""What code is likely to import; where no file can be opened, nothing else can be."""


def main() -> None:
    """Serves until the control socket closes; the argument is what `sandbox.process` sends."""
    settings = json.loads(sys.argv[1])
    try:
        control = socket.socket(fileno=settings["control_fd"])
        zygote = _Zygote(control, settings)
        control.send(HELLO + NUMBER.pack(zygote.landlock_abi))
        zygote.serve()
    finally:
        if not settings["is_private"]:
            scratch.wipe(settings["scratch"])


@dataclass
class _Child:
    number: int
    pid: int
    folder: str | None
    """What is to be watched and removed; None where it goes by itself."""
    is_over_quota: bool = False
    looked_at_s: float = 0.0
    """The CPU time it had when its folder was last looked at."""


class _Zygote:
    def __init__(self, control: socket.socket, settings: Mapping[str, Any]) -> None:
        self._control = control
        self._root: str = settings["scratch"]
        self._memory_mb: int = settings["limits"]["memory_mb"]
        self._is_private: bool = settings["is_private"]
        self._children: dict[int, _Child] = {}
        self._forked = 0
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        _prepare(settings["imports"])
        self._plan = None
        if settings["confined"]:
            libraries = [*settings["libraries"], _STANDARD_LIBRARY]
            self._plan = Plan.make(libraries, settings["limits"], is_private=self._is_private)
        gc.freeze()

    @property
    def landlock_abi(self) -> int:
        return self._plan.landlock_abi if self._plan else 0

    def serve(self) -> None:
        """Forks and reaps until the control socket closes."""
        try:
            while True:
                for fd, _ in self._poll.poll(self._patience_ms()):
                    if fd in self._children:
                        self._reap(fd)
                    elif self._control.recv(1) == FORK:
                        self._fork()
                    else:
                        return
                self._enforce_quota()
        finally:
            for each in self._children.values():
                os.kill(each.pid, signal.SIGKILL)
            for each in self._children.values():
                os.waitpid(each.pid, 0)

    def _fork(self) -> None:
        self._forked += 1
        folder = self._root
        if not self._is_private:
            folder = f"{self._root}/{self._forked}"
            os.mkdir(folder, 0o700)  # noqa: PTH102
        ours, theirs = socket.socketpair()
        zygote = os.getpid()
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                child.main(theirs.fileno(), zygote, self._plan, folder, self._memory_mb)
            pidfd = os.pidfd_open(pid)
            message = BORN + NUMBER.pack(self._forked)
            socket.send_fds(self._control, [message], [ours.fileno(), pidfd])
        watched = None if self._is_private else folder
        self._children[pidfd] = _Child(self._forked, pid, watched)
        self._poll.register(pidfd, select.POLLIN)

    def _reap(self, pidfd: int) -> None:
        ended = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, wait_status, usage = os.wait4(ended.pid, 0)
        if ended.folder is not None:
            scratch.wipe(ended.folder)
        report = Report(
            number=ended.number,
            wait_status=wait_status,
            is_over_quota=ended.is_over_quota,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_mb=usage.ru_maxrss / 1024,
        )
        with suppress(BrokenPipeError, ConnectionResetError):  # the trainer is gone
            self._control.send(ENDED + report.pack())

    def _enforce_quota(self) -> None:
        for each in self._children.values():
            if each.folder is None or each.is_over_quota:
                continue
            used_s = cpu_s(each.pid)
            if used_s != each.looked_at_s and scratch.is_over_quota(each.folder):
                each.is_over_quota = True
                os.kill(each.pid, signal.SIGKILL)
            each.looked_at_s = used_s

    def _patience_ms(self) -> int | None:
        return None if self._is_private or not self._children else _QUOTA_MS


def _prepare(imports: list[str]) -> None:
    for name in _PRELOADED.split():
        importlib.import_module(name)
    ctypes.CFUNCTYPE(None)(_nothing)()  # the first callback opens files
    Image.init()
    # Modes and times cannot be set, and a copy is none the worse for it.
    shutil.copymode = shutil.copystat = _nothing
    cv2.setNumThreads(0)
    # Every child inherits the same state, so the same code gives the same image in every run.
    random.seed(0)
    np.random.seed(0)
    cv2.setRNGSeed(0)
    sys.path[:] = [path for path in sys.path if path not in imports]


def _nothing(*_: object, **__: object) -> None: ...
