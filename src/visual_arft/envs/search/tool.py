"""The search tool: a query in, numbered passages out."""

from __future__ import annotations

from collections.abc import Sequence

from visual_arft.envs.search.egress import Guard
from visual_arft.envs.search.results import Result, Searcher
from visual_arft.errors import ToolFailure
from visual_arft.types import ToolCall, ToolResult


class SearchTool:
    """A tool that asks a search engine."""

    def __init__(
        self,
        searcher: Searcher,
        limit: int = 4,
        *,
        addresses: bool = False,
        guard: Guard | None = None,
    ) -> None:
        """Wraps an engine.

        Args:
            searcher: the engine.
            limit: how many results the policy reads at most; the paper's is 4.
            addresses: show titles and addresses too, for a policy that can open them.
            guard: its deny list keeps results away.
        """
        self._searcher = searcher
        self._limit = limit
        self._addresses = addresses
        self._guard = guard or Guard()

    async def run(self, call: ToolCall) -> ToolResult:
        """The best results for the call's `query`; finding nothing is for the model to read."""
        try:
            found = await self._searcher.search(str(call.arguments["query"]), self._limit)
        except OSError as error:  # the network, the disk, a timeout: not the model's doing
            raise ToolFailure(f"search engine {self._searcher.name}: {error}") from error
        results = [result for result in found if not self._guard.hides(result.url)]
        if not results:
            return ToolResult(error="no results")
        links = tuple(result.url for result in results)
        text = listed(results) if self._addresses else numbered(results)
        return ToolResult(text=text, links=links if any(links) else ())


def numbered(results: Sequence[Result]) -> str:
    """Results as the policy reads them.

    >>> numbered([Result(snippet="It is 330 m high."), Result(snippet="It weighs 10,100 t.")])
    '1. Content:It is 330 m high. 2. Content:It weighs 10,100 t.'
    """
    return " ".join(f"{n}. Content:{result.snippet}" for n, result in enumerate(results, start=1))


def listed(results: Sequence[Result]) -> str:
    r"""Results with titles and addresses, each on lines of its own.

    >>> listed([Result(snippet="It is\n330 m high.", title="Tower", url="http://t/")])
    '1. Tower <http://t/>\n   It is 330 m high.'
    """
    return "\n".join(
        f"{number}. {' '.join(result.title.split())} <{result.url}>\n"
        f"   {' '.join(result.snippet.split())}"
        for number, result in enumerate(results, start=1)
    )
