"""An episode's own Python: what one step leaves, the next one finds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np

from visual_arft.errors import SessionOver, ToolFailure
from visual_arft.jail import frames
from visual_arft.sandbox.outcome import Outcome
from visual_arft.sandbox.pool import Pool
from visual_arft.sandbox.running import Child, ZygoteDied
from visual_arft.sandbox.watch import Starved

if TYPE_CHECKING:
    from visual_arft.images import Pixels

Inputs = Mapping[str, "Pixels"]
"""Height x width x 3, uint8 RGB, by the name of the file that code reads."""


class Session:
    """Steps that share variables, imports and files, in a process of their own.

    One that ran out of time, crashed or broke its channel ends the session: `is_over` says so, and
    further steps raise `SessionOver` until `restart`.
    """

    def __init__(self, pool: Pool, images: Inputs) -> None:
        _check(images)
        self._pool = pool
        self._images = images
        self._done: list[tuple[str, Inputs]] = []
        self._child: Child | None = None
        self._lock = threading.Lock()
        self.is_over = False
        """It runs no further step."""

    def run(self, code: str, images: Inputs | None = None) -> Outcome:
        """Runs one step, and waits for it; `images` are files to write before, or replace.

        Raises:
            SessionOver: the session has ended.
            ToolFailure: the machinery failed, through no fault of the code. The session is over.
        """
        _check(images or {})
        with self._lock, self._pool.gate:
            if self.is_over:
                raise SessionOver("the session ended with an earlier step; restart it")
            outcome = self._step(code, images or {})
            if outcome.status == "ok":
                self._done.append((code, images or {}))
            return outcome

    async def arun(self, code: str, images: Inputs | None = None) -> Outcome:
        """Runs one step as `run` does, without holding up the event loop."""
        return await asyncio.wrap_future(self._pool.threads.submit(self.run, code, images))

    def restart(self, *, replay: bool = False) -> None:
        """Begins anew in a fresh process.

        Args:
            replay: run the steps again that succeeded, so that what they left is there.

        Raises:
            ToolFailure: a step that succeeded before does not any more.
        """
        with self._lock, self._pool.gate:
            self._restart(replay=replay)

    def close(self) -> None:
        """Ends its process; a step that runs in another thread is cut short."""
        self.is_over = True
        if self._lock.acquire(blocking=False):
            self._drop()
            self._lock.release()
        elif child := self._child:
            child.kill()

    def __enter__(self) -> Self:
        """The session itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _step(self, code: str, images: Inputs) -> Outcome:
        try:
            return self._attempt(code, images)
        except Starved:
            self._restart(replay=True)
        try:
            return self._attempt(code, images)
        except Starved as error:
            raise ToolFailure(f"the machine is too busy to run code: {error}") from error

    def _restart(self, *, replay: bool) -> None:
        self._drop()
        self.is_over = False
        steps, self._done = (self._done if replay else []), []
        for code, images in steps:
            if (outcome := self._attempt(code, images)).status != "ok":
                raise ToolFailure(f"a step cannot be replayed: {outcome.error}")
            self._done.append((code, images))

    def _attempt(self, code: str, images: Inputs) -> Outcome:
        if self._child is None:
            self._child = self._pool.take()
            images = {**self._images, **images}
        try:
            return self._child.step(code, images, self._pool.limits)
        except ZygoteDied as error:
            raise ToolFailure(f"the sandbox died: {error}") from error
        finally:
            if self.is_over:  # closed meanwhile
                self._drop()
            else:
                self.is_over = self._child.is_over

    def _drop(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
            self._pool.top_up()


def _check(images: Inputs) -> None:
    for name, pixels in images.items():
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no plain file name; leave folders out")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"{name} is {pixels.dtype} of shape {pixels.shape}; give height x width x 3, uint8"
            )
        if fault := frames.size_fault(pixels.shape[1], pixels.shape[0]):
            raise ValueError(f"{name}: {fault}")
