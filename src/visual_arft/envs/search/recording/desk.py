"""One desk between many rollouts and the world: what was asked before is not asked again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from pydantic import JsonValue

from visual_arft.envs.search.recording.limits import Limits, Patience
from visual_arft.envs.search.recording.mode import Mode
from visual_arft.envs.search.unavailable import Refused
from visual_arft.errors import UserError
from visual_arft.recording import Recording
from visual_arft.types import Record


class Missing(Refused):
    """A recording does not hold what is asked of it."""


class Counts(Record):
    """How questions were answered."""

    asked: int = 0
    """Questions in all."""
    hits: int = 0
    """Of them, answered by the recording or by the same question asked a moment before."""
    misses: int = 0
    """Of them, not in the recording: taken to the world, or an error in a replay."""
    requests: int = 0
    """Made of the world, tries again included."""
    failures: int = 0
    """Questions without an answer."""

    def __sub__(self, earlier: Counts) -> Counts:
        """What has come since."""
        now, then = self.model_dump(), earlier.model_dump()
        return Counts(**{name: now[name] - then[name] for name in now})


class Desk:
    """Where questions to the world are handed in; for any number of threads and loops."""

    def __init__(
        self,
        recording: Recording | None = None,
        mode: Mode = "live",
        limits: Limits = Limits(),  # noqa: B008 - a frozen record
    ) -> None:
        """Opens the desk; every mode but `live` needs a recording."""
        if recording is None and mode != "live":
            raise UserError(f"mode {mode!r} needs a recording; give its file")
        self._recording = recording if mode != "live" else None
        self._mode = mode
        self._patience = Patience(limits)
        self._lock = threading.RLock()
        self._under_way: dict[str, Future[JsonValue]] = {}
        self._fresh: set[str] = set()
        self._counts = Counts()
        self._taken = Counts()

    @property
    def asks_the_world(self) -> bool:
        """Whether it does so at all; a replay does not."""
        return self._mode != "replay"

    @property
    def counts(self) -> Counts:
        """How all questions were answered so far."""
        return self._counts.model_copy(update={"requests": self._patience.requests})

    def take_counts(self) -> Counts:
        """How the questions were answered since this was last asked: those of one step."""
        now = self.counts
        since, self._taken = now - self._taken, now
        return since

    async def ask(
        self, backend: str, request: JsonValue, live: Callable[[], Awaitable[JsonValue]]
    ) -> JsonValue:
        """The answer to a request, from the recording or the world.

        The same request at the same time, from another rollout, waits for the one under way.

        Raises:
            Missing: a replay does not hold it.
            OSError: the world does not answer, or its budget is spent.
        """
        key = f"{backend}\0{request!r}"
        with self._lock:
            self._count("asked")
            first = key not in self._under_way
            shared = self._under_way.setdefault(key, Future[JsonValue]())
        if first:
            return await self._lead(key, shared, backend, request, live)
        self._count("hits")
        return await asyncio.shield(asyncio.wrap_future(shared))

    async def _lead(
        self,
        key: str,
        mine: Future[JsonValue],
        backend: str,
        request: JsonValue,
        live: Callable[[], Awaitable[JsonValue]],
    ) -> JsonValue:
        """Answers for all that wait for the same."""
        try:
            answer = await self._answer(key, backend, request, live)
        except BaseException as error:
            self._count("failures")
            # Whoever waits is not cancelled with this one: to it, the world did not answer.
            told = error if isinstance(error, Exception) else OSError("the request was cancelled")
            self._settle(key, mine).set_exception(told)
            raise
        self._settle(key, mine).set_result(answer)
        return answer

    async def _answer(
        self, key: str, backend: str, request: JsonValue, live: Callable[[], Awaitable[JsonValue]]
    ) -> JsonValue:
        recording = self._recording
        if recording is None:
            self._count("misses")
            return await self._patience.ask(live)
        if self._mode != "record" or key in self._fresh:
            try:
                answer = recording.get(backend, request)
            except KeyError:
                pass
            else:
                self._count("hits")
                return answer
        self._count("misses")
        if self._mode == "replay":
            raise Missing(
                f"{recording.path} has no answer of {backend!r} to {_shown(request)}; "
                "record it in the mode replay-or-live"
            )
        answer = await self._patience.ask(live)
        self._fresh.add(key)
        return recording.put(backend, request, answer, again=self._mode == "record")

    def _settle(self, key: str, mine: Future[JsonValue]) -> Future[JsonValue]:
        with self._lock:
            del self._under_way[key]
        return mine

    def _count(self, name: str) -> None:
        with self._lock:
            more = {name: getattr(self._counts, name) + 1}
            self._counts = self._counts.model_copy(update=more)


def _shown(request: JsonValue) -> str:
    """What is asked, without the words around it."""
    if isinstance(request, dict):
        for name in ("query", "url"):
            if name in request:
                return repr(request[name])
    return repr(request)
