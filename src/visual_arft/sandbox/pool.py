"""The zygotes behind a sandbox: started when they are needed, and again when they have died."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count

from visual_arft.errors import ToolFailure, UserError
from visual_arft.jail import scratch
from visual_arft.sandbox.launch import Layers, find_bubblewrap
from visual_arft.sandbox.outcome import Limits
from visual_arft.sandbox.process import Zygote
from visual_arft.sandbox.running import Child, Unconfined, ZygoteDied
from visual_arft.sandbox.self_test import attack

_SPARES = 2


@dataclass(frozen=True)
class Confinement:
    """What confines code on this machine; a system call filter is always part of it."""

    landlock_abi: int
    """Version of Landlock; 0 where there is none, and code then opens no file at all."""
    without_bubblewrap: str | None
    """Why bubblewrap does not help; None where it does."""

    def __str__(self) -> str:
        files = f"Landlock {self.landlock_abi}" if self.landlock_abi else "no file access"
        namespaces = "bubblewrap" if self.without_bubblewrap is None else "no namespaces"
        return f"seccomp, {files}, {namespaces}"

    @property
    def advice(self) -> str:
        """What would make it stronger; empty where nothing would."""
        advice: list[str] = []
        if not self.landlock_abi:
            advice.append("a kernel with Landlock (Linux 5.13) would let code use files")
        if self.without_bubblewrap is not None:
            advice.append(f"bubblewrap would add namespaces ({self.without_bubblewrap})")
        return "; ".join(advice)


class Pool:
    """Children for a number of executions at once, forked by a zygote each."""

    def __init__(
        self, limits: Limits, workers: int, *, spares: int = _SPARES, is_confined: bool = True
    ) -> None:
        """Starts nothing yet.

        Args:
            limits: what each step may use.
            workers: steps that run at once, and zygotes.
            spares: children that each zygote has ready; 0 forks when one is asked for.
            is_confined: False runs code without confinement.
        """
        self.limits = limits
        self.gate = threading.Semaphore(workers)
        """Held by each running step."""
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._zygotes: list[Zygote | None] = [None] * workers
        self._turns = count()
        self._spares = spares
        self._lock = threading.Lock()
        self._layers = Layers(find_bubblewrap() if is_confined else None, is_confined)
        self._without_bubblewrap = None if self._layers.bubblewrap else "bwrap is not installed"

    def confinement(self) -> Confinement:
        """What confines code, found by confining some; raises `UserError` where nothing does."""
        zygote = self._zygote(0)
        return Confinement(zygote.landlock_abi, self._without_bubblewrap)

    def take(self) -> Child:
        """A child of the zygote whose turn it is, which is started if it is not running.

        Raises:
            UserError: the sandbox does not start on this machine.
            ToolFailure: the zygote died twice while it forked.
        """
        index = next(self._turns) % len(self._zygotes)
        try:
            return self._zygote(index).take()
        except (ZygoteDied, Unconfined):
            self._bury(index)
        try:
            return self._zygote(index).take()
        except (ZygoteDied, Unconfined) as error:
            reason = self._bury(index) or error
            raise ToolFailure(f"the sandbox failed twice in a row: {reason}") from error

    def top_up(self) -> None:
        """Has every zygote fork ahead, at a time when nobody waits."""
        for zygote in self._zygotes:
            if zygote is not None:
                zygote.top_up()

    def close(self) -> None:
        """Waits for what runs, then ends every process and removes every file."""
        self.threads.shutdown()
        for index in range(len(self._zygotes)):
            self._bury(index)

    def _zygote(self, index: int) -> Zygote:
        with self._lock:
            zygote = self._zygotes[index]
            if zygote is None:
                zygote = self._zygotes[index] = self._start()
            return zygote

    def _bury(self, index: int) -> str:
        with self._lock:
            zygote, self._zygotes[index] = self._zygotes[index], None
        return zygote.stop() if zygote is not None else ""

    def _start(self) -> Zygote:
        if sys.platform != "linux":
            raise UserError(
                f"the sandbox needs Linux, not {sys.platform}; run in a Linux container"
            )
        scratch.sweep()
        try:
            return self._proven(self._layers)
        except Unconfined as reason:
            if self._layers.bubblewrap is None:
                raise UserError(_refusal(str(reason))) from reason
            self._without_bubblewrap = str(reason)
        self._layers = replace(self._layers, bubblewrap=None)
        try:
            return self._proven(self._layers)
        except Unconfined as reason:
            raise UserError(_refusal(str(reason))) from reason

    def _proven(self, layers: Layers) -> Zygote:
        """A zygote whose children have withstood the self-test."""
        try:
            zygote = Zygote(self.limits, layers, self._spares)
        except ModuleNotFoundError as error:
            raise Unconfined(str(error)) from error
        try:
            if layers.is_confined:
                attack(zygote.take())
        except ZygoteDied as error:
            raise Unconfined(zygote.stop() or str(error)) from error
        except BaseException:
            zygote.stop()
            raise
        zygote.top_up()
        return zygote


def _refusal(reason: str) -> str:
    return (
        f"the sandbox does not start, and no code is run without it: {reason}; it needs a kernel "
        f"with seccomp, and numpy, cv2 and PIL in {sys.executable} (see docs/sandbox.md)"
    )
