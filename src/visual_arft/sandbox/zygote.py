"""The process that forks the children: starts them, kills what overruns, reports how each ended.

It has one thread, loads the libraries once, and ends with its control socket, taking all children
along. When anything unforeseen happens it dies: the trainer starts another.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from visual_arft.sandbox import child, frames

READY = b"ready"
_PR_SET_CHILD_SUBREAPER = 36
_SWEEPS = 100


def main() -> None:
    """Serves until the control socket closes; the arguments are its fd and the scratch root."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _prepare()
    control.send(READY)
    _Zygote(control, sys.argv[2]).serve()


def _prepare() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans come to us, to be killed
    cv2.setNumThreads(0)
    # Every child inherits the same state, so the same code gives the same image in every run.
    random.seed(0)
    np.random.seed(0)
    cv2.setRNGSeed(0)
    gc.freeze()


@dataclass
class _Execution:
    pid: int
    report: socket.socket
    scratch: str
    started: float
    wall_s: float
    overran: bool = False

    @property
    def left_s(self) -> float:
        return self.started + self.wall_s - time.monotonic()


class _Zygote:
    def __init__(self, control: socket.socket, root: str) -> None:
        self._control = control
        self._root = root
        self._running: dict[int, _Execution] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Starts, watches and reaps children until the control socket closes."""
        try:
            while True:
                for fd, _ in self._poll.poll(self._patience_ms()):
                    if fd in self._running:
                        self._reap(fd)
                    elif not self._start():
                        return
                self._kill_overdue()
        finally:
            for execution in self._running.values():
                os.kill(execution.pid, signal.SIGKILL)
            self._running.clear()
            self._kill_strays()
            shutil.rmtree(self._root, ignore_errors=True)

    def _start(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, 4096, 2)
        if not message:
            return False
        limits = json.loads(message)
        scratch = tempfile.mkdtemp(dir=self._root)
        zygote = os.getpid()
        channel_fd, report_fd = fds
        pid = os.fork()
        if pid == 0:
            child.main(channel_fd, scratch, limits, zygote)
        os.close(channel_fd)
        report = socket.socket(fileno=report_fd)
        pidfd = os.pidfd_open(pid)
        self._running[pidfd] = _Execution(pid, report, scratch, time.monotonic(), limits["wall_s"])
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _reap(self, pidfd: int) -> None:
        execution = self._running.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, wait_status, usage = os.wait4(execution.pid, 0)
        self._kill_strays()
        shutil.rmtree(execution.scratch, ignore_errors=True)
        report = frames.Report(
            wait_status=wait_status,
            overran=execution.overran,
            cpu_s=usage.ru_utime + usage.ru_stime,
            wall_s=time.monotonic() - execution.started,
            peak_mb=usage.ru_maxrss / 1024,
        )
        with execution.report, suppress(BrokenPipeError):  # the trainer may not wait for it
            execution.report.send(report.pack())

    def _kill_overdue(self) -> None:
        for execution in self._running.values():
            if execution.left_s <= 0 and not execution.overran:
                os.kill(execution.pid, signal.SIGKILL)
                execution.overran = True

    def _kill_strays(self) -> None:
        # What a child started and left behind has become our own child: nothing else has.
        for _ in range(_SWEEPS):
            ours = {execution.pid for execution in self._running.values()}
            strays = _children() - ours
            if not strays:
                return
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _patience_ms(self) -> float | None:
        left = [execution.left_s for execution in self._running.values() if not execution.overran]
        return max(0.0, min(left)) * 1000 + 1 if left else None


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
