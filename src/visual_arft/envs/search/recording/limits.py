"""How hard the world may be asked: a budget, a rate, a number at once, and tries again."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from pydantic import Field

from visual_arft.envs.search.unavailable import Refused, Unavailable
from visual_arft.types import Record

T = TypeVar("T")


class Limits(Record):
    """What asking the world may cost."""

    budget: Annotated[int, Field(ge=0)] | None = None
    """Requests in all, tries again included; None is without end."""
    per_second: Annotated[float, Field(gt=0)] | None = None
    """Requests that may begin in a second."""
    tries: Annotated[int, Field(ge=1)] = 4
    """Requests for one question before it is given up."""
    first_wait_s: Annotated[float, Field(ge=0)] = 0.5
    """Before the second try; it doubles from try to try, and jitter takes up to half of it."""
    longest_wait_s: Annotated[float, Field(ge=0)] = 30.0
    """More is not waited, even if the other side asks for it."""


class OverBudget(Refused):
    """All requests that were allowed have been made."""


class Patience:
    """Asks within limits; one for all that share a budget, from whatever thread or loop."""

    def __init__(self, limits: Limits, *, seed: int | None = None) -> None:
        self.limits = limits
        self.requests = 0
        """Made so far, tries again included."""
        self._jitter = random.Random(seed)
        self._lock = threading.Lock()
        self._free_at = 0.0

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer; raises what the last try raised, or `OverBudget`."""
        for number in range(1, self.limits.tries + 1):
            await self._admitted()
            try:
                return await question()
            except Refused:
                raise
            except OSError as error:
                if number == self.limits.tries:
                    raise
                await asyncio.sleep(self._wait_s(number, error))
        raise AssertionError("tries is at least 1")

    async def _admitted(self) -> None:
        """Waits for a turn under the rate; raises `OverBudget` where none is left."""
        with self._lock:
            if self.limits.budget is not None and self.requests >= self.limits.budget:
                raise OverBudget(
                    f"the budget of {self.limits.budget} requests is spent; raise it, or go on "
                    "with what is recorded"
                )
            self.requests += 1
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + 1 / (self.limits.per_second or float("inf"))
        if begin > now:
            await asyncio.sleep(begin - now)

    def _wait_s(self, number: int, error: OSError) -> float:
        asked = error.retry_after_s if isinstance(error, Unavailable) else None
        backed_off = self.limits.first_wait_s * 2 ** (number - 1)
        wait = max(asked or 0.0, backed_off * self._jitter.uniform(0.5, 1.0))
        return min(wait, self.limits.longest_wait_s)
