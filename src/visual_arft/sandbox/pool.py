"""The sandbox as its users hold it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import numpy as np

from visual_arft.errors import ToolFailure
from visual_arft.sandbox.outcome import Limits, Outcome
from visual_arft.sandbox.process import ZygoteDied, ZygoteProcess

if TYPE_CHECKING:
    from visual_arft.images import Pixels


class Sandbox:
    """A place to run code; starts with its first execution and ends with `close`.

    Threads and event loops may share one.
    """

    def __init__(self, *, limits: Limits | None = None, workers: int = 1) -> None:
        """Starts nothing yet.

        Args:
            limits: what each execution may use.
            workers: executions that run at once; the rest wait their turn.
        """
        self.limits = limits or Limits()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._lock = threading.Lock()
        self._zygote: ZygoteProcess | None = None

    def run(self, code: str, images: Mapping[str, Pixels] | None = None) -> Outcome:
        """Runs code in a fresh process, and waits for it.

        Args:
            code: Python. Beside the builtins it has `show(image)`, which gives an image back, as
                does writing `path_to_output_image.jpg`.
            images: height x width x 3 RGB by file name; the code reads these files.

        Raises:
            ToolFailure: the machinery failed, twice in a row, through no fault of the code.
            UserError: the sandbox does not start on this machine.
        """
        return self._submit(code, images).result()

    async def arun(self, code: str, images: Mapping[str, Pixels] | None = None) -> Outcome:
        """Runs code as `run` does, without holding up the event loop."""
        return await asyncio.wrap_future(self._submit(code, images))

    def close(self) -> None:
        """Waits for what runs, then ends every process and removes every file."""
        self._threads.shutdown()
        if self._zygote is not None:
            self._zygote.stop()
            self._zygote = None

    def __enter__(self) -> Self:
        """The sandbox itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _submit(self, code: str, images: Mapping[str, Pixels] | None) -> Future[Outcome]:
        images = images or {}
        for name, pixels in images.items():
            _check(name, pixels)
        return self._threads.submit(self._execute, code, images)

    def _execute(self, code: str, images: Mapping[str, Pixels]) -> Outcome:
        zygote = self._living()
        try:
            return zygote.execute(code, images, self.limits)
        except ZygoteDied:
            self._bury(zygote)
        zygote = self._living()
        try:
            return zygote.execute(code, images, self.limits)
        except ZygoteDied as error:
            reason = self._bury(zygote) or error
            raise ToolFailure(f"the sandbox failed twice in a row: {reason}") from error

    def _living(self) -> ZygoteProcess:
        with self._lock:
            if self._zygote is None:
                self._zygote = ZygoteProcess()
            return self._zygote

    def _bury(self, zygote: ZygoteProcess) -> str:
        with self._lock:
            if self._zygote is not zygote:
                return ""  # another thread saw it first
            self._zygote = None
            return zygote.stop()


def _check(name: str, pixels: Pixels) -> None:
    if not name or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no plain file name; leave folders out")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"{name} is {pixels.dtype} of shape {pixels.shape}; give height x width x 3, uint8"
        )
