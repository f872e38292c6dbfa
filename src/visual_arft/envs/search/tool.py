"""The search tool: a query in, numbered passages out."""

from __future__ import annotations

from collections.abc import Sequence

from visual_arft.envs.search.results import Result, Searcher
from visual_arft.errors import ToolFailure
from visual_arft.types import ToolCall, ToolResult


class SearchTool:
    """A tool that asks a search engine."""

    def __init__(self, searcher: Searcher, limit: int = 4) -> None:
        """Wraps an engine; the policy reads at most `limit` results (the paper's is 4)."""
        self._searcher = searcher
        self._limit = limit

    async def run(self, call: ToolCall) -> ToolResult:
        """The best results for the call's `query`; finding nothing is for the model to read."""
        try:
            results = await self._searcher.search(str(call.arguments["query"]), self._limit)
        except OSError as error:  # the network, the disk, a timeout: not the model's doing
            raise ToolFailure(f"search engine {self._searcher.name}: {error}") from error
        return ToolResult(text=numbered(results)) if results else ToolResult(error="no results")


def numbered(results: Sequence[Result]) -> str:
    """Results as the policy reads them.

    >>> numbered([Result(snippet="It is 330 m high."), Result(snippet="It weighs 10,100 t.")])
    '1. Content:It is 330 m high. 2. Content:It weighs 10,100 t.'
    """
    return " ".join(f"{n}. Content:{result.snippet}" for n, result in enumerate(results, start=1))
