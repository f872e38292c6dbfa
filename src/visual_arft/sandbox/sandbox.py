"""The sandbox as its users hold it."""

from __future__ import annotations

import asyncio
from typing import Self

from visual_arft.sandbox.outcome import Limits, Outcome
from visual_arft.sandbox.pool import Confinement, Pool
from visual_arft.sandbox.session import Inputs, Session


class Sandbox:
    """A place to run code; starts with its first execution and ends with `close`.

    Threads and event loops may share one.
    """

    _IS_CONFINED = True

    def __init__(self, *, limits: Limits | None = None, workers: int = 1) -> None:
        """Starts nothing yet.

        Args:
            limits: what each execution may use.
            workers: executions that run at once; the rest wait their turn.
        """
        self.limits = limits or Limits()
        self._pool = Pool(self.limits, workers, is_confined=self._IS_CONFINED)

    def run(self, code: str, images: Inputs | None = None) -> Outcome:
        """Runs code in a fresh process, and waits for it.

        Args:
            code: Python. Beside the builtins it has `show(image)`, which gives an image back, as
                does writing `path_to_output_image.jpg`.
            images: height x width x 3 RGB by file name; the code reads these files.

        Raises:
            ToolFailure: the machinery failed, through no fault of the code.
            UserError: the sandbox does not start on this machine.
        """
        with self.session(images) as session:
            return session.run(code)

    async def arun(self, code: str, images: Inputs | None = None) -> Outcome:
        """Runs code as `run` does, without holding up the event loop."""
        return await asyncio.wrap_future(self._pool.threads.submit(self.run, code, images))

    def session(self, images: Inputs | None = None) -> Session:
        """A Python that keeps its variables and files from step to step; close it."""
        return Session(self._pool, images or {})

    @property
    def confinement(self) -> Confinement:
        """What confines code on this machine; raises `UserError` where nothing does."""
        return self._pool.confinement()

    def close(self) -> None:
        """Waits for what runs, then ends every process and removes every file."""
        self._pool.close()

    def __enter__(self) -> Self:
        """The sandbox itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()


class UnsafeSandbox(Sandbox):
    """A sandbox that confines nothing: code can do all that the user can."""

    _IS_CONFINED = False
