"""One child as the trainer holds it: its channel, its pidfd, and how it will have ended."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from visual_arft.errors import ToolFailure
from visual_arft.jail import frames, scratch
from visual_arft.jail.clock import lifetime_cpu_s
from visual_arft.jail.messages import Report
from visual_arft.sandbox.answer import Answer
from visual_arft.sandbox.bitmap import bitmap
from visual_arft.sandbox.outcome import Limits, Outcome, Status
from visual_arft.sandbox.watch import Overran, Watch

if TYPE_CHECKING:
    from visual_arft.images import Pixels

_GRACE_S = 30.0
"""For what only a machine in trouble takes long to do."""
_EXIT_S = 2.0
"""For giving back memory at its end."""


class ZygoteDied(Exception):
    """The process that forks the children is gone."""


class Unconfined(Exception):
    """A child could not confine itself; the message says which step failed, and why."""


class Child:
    """A confined process that waits for code.

    It is stopped between steps, so that code which only claims to have ended gets no time. Not for
    several threads at once, but for `kill`.
    """

    def __init__(self, channel: socket.socket, pidfd: int) -> None:
        """Takes over both descriptors."""
        self.report: Future[Report] = Future()
        """How it ended; fails with `ZygoteDied` where nobody can say."""
        self.pid = _pid_of(pidfd)
        self.is_over = False
        """It runs no further step."""
        self._pidfd: int | None = pidfd
        self._pidfd_lock = threading.Lock()
        self._channel = channel
        self._channel.setblocking(False)
        self._events = select.poll()

    def wait_until_confined(self) -> None:
        """Returns when code may be sent; raises `Unconfined` or `ZygoteDied`."""
        deadline = time.monotonic() + _GRACE_S
        try:
            kind, payload = self._receive(lambda: _left_s(deadline))
        except EOFError:
            raise Unconfined(f"a child ended at once ({_ending(self._ended())})") from None
        if kind != frames.STARTED:
            raise Unconfined(payload.decode("utf-8", "replace"))

    def step(self, code: str, images: Mapping[str, Pixels], limits: Limits) -> Outcome:
        """Runs code in the child's namespace; `is_over` says whether there may be a next step.

        Raises:
            Starved: the machine was too busy to judge the code.
            ToolFailure: something from outside killed the child.
            ZygoteDied: its zygote died meanwhile.
        """
        answer, watch = Answer(), Watch(self.pid, limits)
        try:
            status, error = self._converse(code, images, answer, watch)
            wall_s = watch.wall_s
            cpu_s, peak_mb = self._used(watch)
        except BaseException:
            self.end()
            raise
        if status in ("timeout", "crashed", "rejected"):
            self.end()
        else:
            self._signal(signal.SIGSTOP)
        return Outcome(
            status=status,
            stdout=answer.stdout.decode("utf-8", "replace"),
            error=error,
            images=tuple(answer.images),
            cpu_s=cpu_s,
            wall_s=wall_s,
            peak_mb=peak_mb,
        )

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        ended = select.poll()
        with self._pidfd_lock:
            if self._pidfd is None:
                return True
            ended.register(self._pidfd, select.POLLIN)
            return bool(ended.poll(0))

    def end(self) -> None:
        """Kills it, if it lives, and lets go of it; its zygote cleans up behind it."""
        self.is_over = True
        self.kill()
        with self._pidfd_lock:
            if self._pidfd is not None:
                os.close(self._pidfd)
            self._pidfd = None
        self._channel.close()

    def kill(self) -> None:
        """Kills it: whoever waits for it, in another thread, is told that it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._pidfd_lock, suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)

    def _converse(
        self, code: str, images: Mapping[str, Pixels], answer: Answer, watch: Watch
    ) -> tuple[Status, str | None]:
        try:
            self._check_silence()
            self._signal(signal.SIGCONT)
            self._ask(code, images, watch)
            while not answer.is_done:
                answer.add(*self._receive(watch.patience_s))
        except Overran as limit:
            return "timeout", str(limit)
        except frames.BadFrame as bad:
            return "rejected", f"the code broke the result channel: {bad}"
        except (EOFError, ConnectionError):
            return self._post_mortem(watch.limits)
        if answer.kind is None:
            return "ok", None
        return ("memory" if answer.kind == frames.MEMORY else "error"), answer.error

    def _used(self, watch: Watch) -> tuple[float, float]:
        """CPU seconds of the step and peak memory in MB, living or dead."""
        if peak_mb := watch.peak_mb:
            return watch.cpu_s, peak_mb
        report = self._ended()
        return report.cpu_s - watch.start_cpu_s, report.peak_mb

    def _check_silence(self) -> None:
        """Raises `BadFrame` where a step before has already answered for this one."""
        with suppress(BlockingIOError):
            if self._channel.recv(1, socket.MSG_PEEK):
                raise frames.BadFrame("an answer before the question")

    def _ask(self, code: str, images: Mapping[str, Pixels], watch: Watch) -> None:
        request = {"code": code, "names": list(images)}
        parts = [frames.frame(frames.REQUEST, json.dumps(request).encode())]
        parts += [frames.frame(frames.FILE, bitmap(pixels)) for pixels in images.values()]
        for part in parts:
            view = memoryview(part)
            while view:
                try:
                    view = view[self._channel.send(view) :]
                except BlockingIOError:
                    self._wait(select.POLLOUT, watch.patience_s)

    def _receive(self, patience_s: Callable[[], float]) -> tuple[bytes, bytearray]:
        kind, length = frames.bounded(self._exactly(frames.HEADER.size, patience_s))
        return kind, self._exactly(length, patience_s)

    def _exactly(self, count: int, patience_s: Callable[[], float]) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                received = self._channel.recv_into(view)
            except BlockingIOError:
                self._wait(select.POLLIN, patience_s)
                continue
            if received == 0:
                raise EOFError
            view = view[received:]
        return data

    def _wait(self, event: int, patience_s: Callable[[], float]) -> None:
        """Until the channel is ready; `patience_s` raises when it was too long."""
        self._events.register(self._channel, event)
        while not self._events.poll(1000 * patience_s() + 1):
            pass

    def _post_mortem(self, limits: Limits) -> tuple[Status, str]:
        """Why the channel closed in the middle of a step."""
        try:
            report = self.report.result(_EXIT_S)
        except TimeoutError:
            return "crashed", "the code closed its result channel"
        if report.is_over_quota:
            most = f"{scratch.MOST_FILES} files or {scratch.MOST_MB} MB"
            return "rejected", f"left more than {most} in its folder"
        if _signal_of(report) == signal.SIGKILL:
            return _killed(report, limits)
        return "crashed", f"the code ended Python itself ({_ending(report)})"

    def _ended(self) -> Report:
        try:
            return self.report.result(_GRACE_S)
        except TimeoutError:
            raise ZygoteDied("it does not say how a child ended") from None


def _killed(report: Report, limits: Limits) -> tuple[Status, str]:
    """The verdict on a child that neither we nor its code can have killed."""
    if report.cpu_s >= lifetime_cpu_s(limits.cpu_s):
        return "timeout", "the session has used up its CPU time"
    if report.peak_mb > limits.memory_mb / 2:
        return "memory", "MemoryError: this machine has no more memory"
    raise ToolFailure(
        "the sandbox's process was killed from outside; see whether the machine is out of memory"
    )


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise Unconfined(f"a child was not ready within {_GRACE_S:g} s")
    return left


def _pid_of(pidfd: int) -> int:
    """The process's id as we see it, whatever namespace it lives in; -1 when it is gone."""
    fields = Path(f"/proc/self/fdinfo/{pidfd}").read_text().partition("Pid:")[2].split()
    return int(fields[0])


def _signal_of(report: Report) -> int | None:
    return os.WTERMSIG(report.wait_status) if os.WIFSIGNALED(report.wait_status) else None


def _ending(report: Report) -> str:
    if number := _signal_of(report):
        return signal.Signals(number).name
    return f"exit status {os.waitstatus_to_exitcode(report.wait_status)}"
