"""The inside of one execution: confines itself, runs the code, sends back what came of it.

Runs in a process forked from the zygote, which ends with it.
"""

from __future__ import annotations

import ctypes
import json
import linecache
import os
import resource
import signal
import socket
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cv2

from visual_arft.sandbox import frames
from visual_arft.sandbox.handover import Gallery, printing_to

if TYPE_CHECKING:
    from visual_arft.images import Pixels

_CHANNEL_FD = 3
_FILE_BYTES = 64 * 2**20
_OPEN_FILES = 64
_LAST_CALLS = 3
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SOURCE = "<code>"
_prctl = ctypes.CDLL(None).prctl  # looked up once, in the zygote


def main(channel_fd: int, scratch: str, limits: dict[str, float], zygote: int) -> NoReturn:
    """Runs one request from the channel and ends the process."""
    try:
        _let_go_of_the_zygote(channel_fd, zygote)
        with socket.socket(fileno=_CHANNEL_FD) as channel:
            try:
                code = _set_up(channel, scratch, limits)
            except BaseException as error:
                frames.send(channel, frames.ERROR, _text(f"{type(error).__name__}: {error}"))
                raise
            frames.send(channel, frames.STARTED)
            _run(code, channel, limits)
            frames.send(channel, frames.DONE)
    finally:
        os._exit(0)  # whatever threads and destructors the code left behind do not run


def _let_go_of_the_zygote(channel_fd: int, zygote: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != zygote:
        os._exit(0)  # it died before the line above
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.dup2(channel_fd, _CHANNEL_FD)
    os.closerange(_CHANNEL_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _set_up(channel: socket.socket, scratch: str, limits: dict[str, float]) -> str:
    os.chdir(scratch)
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = scratch
    _, payload = frames.receive(channel)
    request = json.loads(payload)
    for name in request["names"]:
        _, payload = frames.receive(channel)
        _write_lossless(name, frames.pixels_of(payload))
    _limit(resource.RLIMIT_CPU, int(limits["cpu_s"]), grace=1)
    _limit(resource.RLIMIT_AS, _address_space() + int(limits["memory_mb"]) * 2**20)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, 1)
    _limit(resource.RLIMIT_CORE, 0)
    return request["code"]


def _write_lossless(name: str, pixels: Pixels) -> None:
    # BMP whatever the name says: OpenCV and Pillow look at the bytes, and it costs no compression.
    Path(name).write_bytes(cv2.imencode(".bmp", pixels[..., ::-1])[1].tobytes())


def _limit(kind: int, most: int, grace: int = 0) -> None:
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:
        most = min(most, ceiling - grace)
    resource.setrlimit(kind, (most, most + grace))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _run(code: str, channel: socket.socket, limits: dict[str, float]) -> None:
    gallery = Gallery(channel)
    namespace: dict[str, Any] = {"__name__": "__main__", "show": gallery.show}
    try:
        with printing_to(channel):
            try:
                exec(compile(code, _SOURCE, "exec"), namespace)
            except SystemExit as stop:
                if stop.code not in (None, 0):
                    raise
        gallery.add_output_file()
    except BaseException as error:
        if _is_out_of_memory(error):
            namespace.clear()
            sentence = f"MemoryError: used more than {limits['memory_mb']} MB"
            frames.send(channel, frames.MEMORY, _text(sentence))
        else:
            frames.send(channel, frames.ERROR, _text(_explain(error, code)))


def _is_out_of_memory(error: BaseException) -> bool:
    no_memory = isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM
    return no_memory or isinstance(error, MemoryError)


def _explain(error: BaseException, code: str) -> str:
    linecache.cache[_SOURCE] = (len(code), None, code.splitlines(keepends=True), _SOURCE)
    calls = [
        f"line {call.lineno}: {call.line}\n"
        for call in traceback.extract_tb(error.__traceback__)
        if call.filename == _SOURCE
    ]
    last = traceback.format_exception_only(error)
    return "".join((*calls[-_LAST_CALLS:], *last)).strip()


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")[: frames.MAX_ERROR]
