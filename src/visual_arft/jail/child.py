"""The life of a child: it confines itself, then runs step after step in one namespace.

A child that runs a single piece of code is a session of one step. It ends with its channel.
"""

from __future__ import annotations

import json
import linecache
import os
import tempfile
import traceback
from typing import Any, NoReturn

import cv2

from . import frames
from .channel import Channel
from .confine import CHANNEL_FD, Plan, confine, let_go
from .files import Files, MemoryFiles, ScratchFiles
from .handover import Gallery, printing_to

_LAST_CALLS = 3


def main(channel_fd: int, zygote: int, plan: Plan | None, folder: str, memory_mb: int) -> NoReturn:
    """Runs what the channel asks for, and ends the process.

    Args:
        channel_fd: the child's end of its channel.
        zygote: the process that forked it.
        plan: how it confines itself; None only where the user asked for no confinement.
        folder: its scratch folder.
        memory_mb: the limit, for the message that says it was reached.
    """
    try:
        let_go(channel_fd, zygote)
        channel = Channel(CHANNEL_FD)
        files = _settle(channel, plan, folder)
        channel.send(frames.STARTED)
        _Session(channel, files, memory_mb).serve()
    finally:
        os._exit(0)  # whatever threads and destructors the code left behind do not run


def _settle(channel: Channel, plan: Plan | None, folder: str) -> Files:
    try:
        tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = folder
        if plan is None:
            os.chdir(folder)
        else:
            confine(plan, folder)
        if plan is None or plan.landlock_abi:
            return ScratchFiles(folder)
        files = MemoryFiles()
        files.install()
    except BaseException as error:
        channel.send(frames.FAILED, _text(f"{type(error).__name__}: {error}"))
        raise
    return files


class _Session:
    """Steps that share their variables, imports and files."""

    def __init__(self, channel: Channel, files: Files, memory_mb: int) -> None:
        self._channel = channel
        self._files = files
        self._gallery = Gallery(channel, files)
        self._namespace: dict[str, Any] = {"__name__": "__main__", "show": self._gallery.show}
        self._steps = 0
        # Made now: when it is needed, there is no memory left to make it.
        sentence = f"MemoryError: used more than {memory_mb} MB"
        self._out_of_memory = frames.frame(frames.MEMORY, _text(sentence))

    def serve(self) -> None:
        """Runs steps until the channel closes, which raises `EOFError`."""
        while True:
            _, payload = self._channel.receive()
            request = json.loads(payload)
            for name in request["names"]:
                _, content = self._channel.receive()
                self._files.write(name, content)
            self._run(request["code"])
            self._channel.send(frames.DONE)

    def _run(self, code: str) -> None:
        self._steps += 1
        source = "<code>" if self._steps == 1 else f"<code {self._steps}>"
        linecache.cache[source] = (len(code), None, code.splitlines(keepends=True), source)
        self._gallery.begin_step()
        try:
            with printing_to(self._channel):
                try:
                    exec(compile(code, source, "exec"), self._namespace)
                except SystemExit as stop:
                    if stop.code not in (None, 0):
                        raise
            self._gallery.add_output_file()
        except BaseException as error:
            if _is_out_of_memory(error):
                error.__traceback__ = None  # which holds on to what filled it
                self._channel.send_whole(self._out_of_memory)
            else:
                self._channel.send(frames.ERROR, _text(_explain(error, source)))


def _is_out_of_memory(error: BaseException) -> bool:
    no_memory = isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM
    return no_memory or isinstance(error, MemoryError)


def _explain(error: BaseException, source: str) -> str:
    """The end of a traceback, with the lines of this step and of those before it."""
    calls = [
        f"{_place(call, source)}: {call.line}\n"
        for call in traceback.extract_tb(error.__traceback__)
        if call.filename.startswith("<code")
    ]
    error.__cause__ = error.__context__ = None  # of which there may be thousands
    try:
        is_group = isinstance(error, BaseExceptionGroup)
        last = [str(error)] if is_group else traceback.format_exception_only(error)
    except BaseException:
        last = [f"{type(error).__name__}, whose text cannot be shown"]
    return "".join((*calls[-_LAST_CALLS:], *last)).strip()


def _place(call: traceback.FrameSummary, source: str) -> str:
    line = f"line {call.lineno}"
    if call.filename == source:
        return line
    step = call.filename.strip("<>").removeprefix("code").strip() or "1"
    return f"step {step}, {line}"


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")[: frames.MAX_ERROR]
