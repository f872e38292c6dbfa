"""DuckDuckGo and its like through the package `ddgs`: no key, no promise."""

from __future__ import annotations

import asyncio
from typing import Any

from visual_arft.envs.search.results import Result
from visual_arft.envs.search.unavailable import Unavailable
from visual_arft.errors import UserError


class DdgsSearcher:
    """A search over public result pages: best effort, often rate limited."""

    def __init__(self, region: str = "us-en", *, engine: Any = None) -> None:
        """Asks nothing yet.

        Args:
            region: country and language, as `ddgs` names them.
            engine: has `text(query, max_results=, region=)`; `ddgs.DDGS()` when not given.
        """
        self.name = f"ddgs {region}"
        self._region = region
        self._engine = engine or _ddgs()

    async def search(self, query: str, limit: int) -> list[Result]:
        """What the pages show; raises `Unavailable` when none of them answers."""
        return await asyncio.to_thread(self._search, query, limit)

    def _search(self, query: str, limit: int) -> list[Result]:
        try:
            rows = self._engine.text(query, max_results=limit, region=self._region)
        except Exception as error:  # the package is installed only where it is used
            if type(error).__module__.partition(".")[0] != "ddgs":
                raise
            if "No results found" in str(error):
                return []
            raise Unavailable(f"{self.name}: {error}") from None
        return [Result(title=row["title"], url=row["href"], snippet=row["body"]) for row in rows]


def _ddgs() -> Any:
    try:
        from ddgs import DDGS
    except ImportError:
        raise UserError("DuckDuckGo needs ddgs; pip install 'visual-arft[browse]'") from None
    return DDGS()
