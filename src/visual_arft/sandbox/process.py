"""The zygote as the trainer holds it: a process, its control socket and its scratch root."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from visual_arft.errors import UserError
from visual_arft.sandbox import frames
from visual_arft.sandbox.answer import judge, read_answer
from visual_arft.sandbox.outcome import Limits, Outcome

if TYPE_CHECKING:
    from visual_arft.images import Pixels

_SOURCES = str(Path(__file__).parents[2])
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop());"
    "from visual_arft.sandbox import zygote; zygote.main()"
)
_PYTHON = (sys.executable, "-s", "-P", "-B", "-W", "ignore", "-c", _BOOT)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_START_S = 60.0
_GRACE_S = 10.0


class ZygoteDied(Exception):
    """The process that forks the children is gone, or no longer answers."""


class ZygoteProcess:
    """A running zygote; any number of threads may execute on it at once."""

    def __init__(self) -> None:
        """Starts it; raises `UserError` when this machine cannot."""
        if sys.platform != "linux":
            raise UserError(
                f"the sandbox needs Linux, not {sys.platform}; run in a Linux container"
            )
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._scratch = tempfile.mkdtemp(prefix="arft-sandbox-")
        with theirs:
            self._process = subprocess.Popen(
                (*_PYTHON, str(theirs.fileno()), self._scratch, _SOURCES),
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the trainer, which then closes us
            )
        self._wait_until_ready()

    def execute(self, code: str, images: Mapping[str, Pixels], limits: Limits) -> Outcome:
        """Runs code in a child of its own; raises `ZygoteDied` when nobody can say how it ended."""
        channel, child_end = socket.socketpair()
        reports, zygote_end = socket.socketpair()
        with channel, reports:
            for end in (channel, reports):
                end.settimeout(limits.wall_s + _GRACE_S)
            try:
                with child_end, zygote_end:
                    fds = [child_end.fileno(), zygote_end.fileno()]
                    socket.send_fds(self._control, [json.dumps(asdict(limits)).encode()], fds)
                with suppress(BrokenPipeError, ConnectionResetError):  # it ended before it listened
                    _send_request(channel, code, images)
                answer = read_answer(channel)
                channel.close()  # whoever still writes is stopped
                report = frames.Report.unpack(reports.recv(1024))
            except struct.error as error:
                raise ZygoteDied("its process ended while the code ran") from error
            except OSError as error:
                raise ZygoteDied(f"its process does not answer: {error}") from error
        return judge(answer, report, limits)

    def stop(self) -> str:
        """Ends it and its children, removes its scratch; the last line it complained."""
        self._control.close()
        try:
            _, complaint = self._process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, complaint = self._process.communicate()
        shutil.rmtree(self._scratch, ignore_errors=True)
        return complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]

    def _wait_until_ready(self) -> None:
        self._control.settimeout(_START_S)
        with suppress(OSError):
            if self._control.recv(16):
                return
        raise UserError(
            f"the sandbox's Python ({sys.executable}) does not start: {self.stop()}; "
            "check that it imports numpy, cv2 and PIL"
        )


def _send_request(channel: socket.socket, code: str, images: Mapping[str, Pixels]) -> None:
    request = {"code": code, "names": list(images)}
    frames.send(channel, frames.REQUEST, json.dumps(request).encode())
    for pixels in images.values():
        frames.send_image(channel, pixels)
