"""A search engine whose answers are recorded."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from pydantic import TypeAdapter

from visual_arft.envs.search.recording.desk import Desk
from visual_arft.envs.search.results import Result, Searcher

_RESULTS = TypeAdapter(list[Result])


class RecordedSearcher:
    """An engine behind a desk; it is opened when it is first asked, so a replay needs none."""

    def __init__(self, name: str, desk: Desk, engine: Callable[[], Searcher]) -> None:
        """Puts a desk before an engine.

        Args:
            name: of the engine; the same in the recording run and in the replay.
            desk: where questions are handed in.
            engine: opens the engine, at most once.
        """
        self.name = name
        self.desk = desk
        self._make = engine
        self._engine: Searcher | None = None

    async def search(self, query: str, limit: int) -> list[Result]:
        """The engine's results, or those it gave when the recording was made."""
        query = normalised(query)

        async def live() -> list[object]:
            found = await self.open().search(query, limit)
            return _RESULTS.dump_python(found, mode="json")

        request = {"query": query, "limit": limit}
        return _RESULTS.validate_python(await self.desk.ask(self.name, request, live))  # type: ignore[arg-type]

    def open(self) -> Searcher:
        """The engine, opened if it is not yet."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine


def normalised(query: str) -> str:
    r"""The query with each run of blanks as one, in Unicode's composed form; nothing else changes.

    >>> normalised("  Eiffel\n Tower ")
    'Eiffel Tower'
    """
    return " ".join(unicodedata.normalize("NFC", query).split())
