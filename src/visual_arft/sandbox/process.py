"""A zygote as the trainer holds it: a process, its control socket, its waiting children."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections import deque
from contextlib import suppress
from dataclasses import asdict

from visual_arft.jail import scratch
from visual_arft.jail.messages import BORN, ENDED, FORK, HELLO, NUMBER, Report
from visual_arft.sandbox.launch import SCRATCH, Layers, command
from visual_arft.sandbox.outcome import Limits
from visual_arft.sandbox.running import Child, Unconfined, ZygoteDied

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_START_S = 120.0
_GRACE_S = 10.0


class Zygote:
    """A running zygote; any number of threads may take children from it."""

    def __init__(self, limits: Limits, layers: Layers, spares: int) -> None:
        """Starts it; raises `Unconfined` with the reason when this machine cannot.

        Args:
            limits: of each execution.
            layers: what the confinement is made of.
            spares: children to have ready before anyone asks.
        """
        self.landlock_abi = 0
        self._spares = spares
        self._ready: deque[Child] = deque()
        self._children: dict[int, Child] = {}
        self._ordered = self._waiting = 0
        self._is_dead = False
        self._changed = threading.Condition()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._root, self._lock_fd = None, None
        if not layers.bubblewrap:
            self._root, self._lock_fd = scratch.create_root()
        with theirs:
            self._process = self._start(limits, layers, theirs.fileno())
        self._hear_hello()
        self._listener = threading.Thread(target=self._listen, name="sandbox-zygote", daemon=True)
        self._listener.start()

    def take(self) -> Child:
        """A child that waits for code; raises `ZygoteDied` or `Unconfined`."""
        with self._changed:
            if self._is_gone():
                raise ZygoteDied("it is gone")
            while self._ready and self._ready[0].has_ended():
                self._ready.popleft().end()  # killed while it waited
            self._waiting += 1
            try:
                if len(self._ready) + self._ordered < self._waiting:
                    self._order()
                if not self._changed.wait_for(lambda: self._ready or self._is_dead, _START_S):
                    raise ZygoteDied("it does not fork any more")
                if self._is_dead:
                    raise ZygoteDied("it is gone")
                child = self._ready.popleft()
            finally:
                self._waiting -= 1
        try:
            child.wait_until_confined()
        except BaseException:
            child.end()
            raise
        return child

    def top_up(self) -> None:
        """Has it fork until enough children are ready."""
        with self._changed, suppress(ZygoteDied):
            while len(self._ready) + self._ordered < self._spares:
                self._order()

    def stop(self) -> str:
        """Ends it, its children and their files; the last line that it complained."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            _, complaint = self._process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, complaint = self._process.communicate()
        self._control.close()
        for child in self._ready:  # the others are their sessions' to end
            child.end()
        if self._root is not None and self._lock_fd is not None:
            with suppress(FileNotFoundError):
                scratch.wipe(self._root)
            os.close(self._lock_fd)
            self._lock_fd = None
        return complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]

    def _start(self, limits: Limits, layers: Layers, control_fd: int) -> subprocess.Popen[bytes]:
        settings = {"control_fd": control_fd, "limits": asdict(limits)}
        kept = [control_fd] if self._lock_fd is None else [control_fd, self._lock_fd]
        return subprocess.Popen(
            command(layers, {**settings, "scratch": self._root or SCRATCH}),
            pass_fds=kept,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the trainer, which then closes us
        )

    def _hear_hello(self) -> None:
        self._control.settimeout(_START_S)
        message = b""
        with suppress(OSError):
            message = self._control.recv(16)
        if not message.startswith(HELLO):
            raise Unconfined(self.stop() or "its Python does not start")
        self._control.settimeout(None)
        [self.landlock_abi] = NUMBER.unpack(message[1:])

    def _is_gone(self) -> bool:
        """Whether it has died, also where its children do not know yet."""
        with suppress(BlockingIOError):
            return not self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def _order(self) -> None:
        try:
            self._control.send(FORK)
        except OSError as error:
            raise ZygoteDied(f"it is gone: {error}") from error
        self._ordered += 1

    def _listen(self) -> None:
        """Takes in what it says, until it is gone."""
        try:
            while True:
                message, fds, _, _ = socket.recv_fds(self._control, 64, 2)
                if not message:
                    return
                with self._changed:
                    self._hear(message, fds)
                    self._changed.notify_all()
        except OSError:
            pass  # we closed it
        finally:
            with self._changed:
                self._is_dead = True
                for child in self._children.values():
                    child.report.set_exception(ZygoteDied("it died while the code ran"))
                self._changed.notify_all()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)

    def _hear(self, message: bytes, fds: list[int]) -> None:
        kind, payload = message[:1], message[1:]
        if kind == BORN:
            [number] = NUMBER.unpack(payload)
            channel, pidfd = fds
            self._children[number] = child = Child(socket.socket(fileno=channel), pidfd)
            self._ready.append(child)
            self._ordered -= 1
        elif kind == ENDED:
            report = Report.unpack(payload)
            self._children.pop(report.number).report.set_result(report)
