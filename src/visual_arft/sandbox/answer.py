"""What a child sent, judged together with how it ended."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visual_arft.errors import ToolFailure
from visual_arft.sandbox import frames
from visual_arft.sandbox.outcome import Limits, Outcome, Status

if TYPE_CHECKING:
    from visual_arft.images import Pixels


@dataclass
class Answer:
    """All that came over the channel, as far as the bounds allow."""

    started: bool = False
    """The child has confined itself: what came before is its own report, later the code's."""
    done: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    images: list[Pixels] = field(default_factory=list)
    kind: bytes | None = None
    """ERROR or MEMORY, when the code raised."""
    error: str | None = None
    violation: str | None = None
    """What broke the bounds, which ended the reading."""


def read_answer(channel: socket.socket) -> Answer:
    """Everything a child sends, to its end or to the first thing that breaks the bounds."""
    answer = Answer()
    try:
        while not answer.done:
            _add(answer, *frames.receive_bounded(channel))
    except frames.BadFrame as bad:
        answer.violation = str(bad)
    except (EOFError, ConnectionResetError):
        pass  # how it ended is the zygote's to say
    return answer


def judge(answer: Answer, report: frames.Report, limits: Limits) -> Outcome:
    """The outcome of an execution; raises `ToolFailure` when the code never began."""
    status, error = _verdict(answer, report, limits)
    return Outcome(
        status=status,
        stdout=answer.stdout.decode("utf-8", "replace"),
        error=error,
        images=tuple(answer.images),
        cpu_s=report.cpu_s,
        wall_s=report.wall_s,
        peak_mb=report.peak_mb,
    )


def _add(answer: Answer, kind: bytes, payload: bytearray) -> None:
    if kind == frames.STARTED and not answer.started:
        answer.started = True
    elif kind == frames.STDOUT and payload and _fits(answer, payload):
        answer.stdout += payload
    elif kind == frames.IMAGE and len(answer.images) < frames.MAX_IMAGES:
        answer.images.append(frames.pixels_of(payload))
    elif kind in (frames.ERROR, frames.MEMORY) and answer.error is None:
        answer.kind, answer.error = kind, payload.decode("utf-8", "replace")
    elif kind == frames.DONE:
        answer.done = True
    else:
        raise frames.BadFrame(f"one frame of kind {kind!r} too many")


def _fits(answer: Answer, payload: bytearray) -> bool:
    return len(answer.stdout) + len(payload) <= frames.MAX_STDOUT


def _verdict(answer: Answer, report: frames.Report, limits: Limits) -> tuple[Status, str | None]:
    if report.overran:
        return "timeout", f"ran longer than {limits.wall_s:g} s"
    if not answer.started:
        raise ToolFailure(f"the sandbox could not confine the code: {answer.error or _end(report)}")
    if answer.violation is not None:
        return "rejected", f"the code broke the result channel: {answer.violation}"
    if not answer.done:
        return _cut_short(report, limits)
    if answer.kind is None:
        return "ok", None
    return ("memory" if answer.kind == frames.MEMORY else "error"), answer.error


def _cut_short(report: frames.Report, limits: Limits) -> tuple[Status, str]:
    signaled = os.WIFSIGNALED(report.wait_status) and os.WTERMSIG(report.wait_status)
    if signaled == signal.SIGXCPU or (signaled == signal.SIGKILL and report.cpu_s >= limits.cpu_s):
        return "timeout", f"ran longer than {limits.cpu_s} s of CPU time"
    return "crashed", f"the code ended Python itself ({_end(report)})"


def _end(report: frames.Report) -> str:
    if os.WIFSIGNALED(report.wait_status):
        return signal.Signals(os.WTERMSIG(report.wait_status)).name
    return f"exit status {os.waitstatus_to_exitcode(report.wait_status)}"
