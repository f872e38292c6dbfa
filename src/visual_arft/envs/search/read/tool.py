"""The read tool: an address in, a page of Markdown out, or the passages that fit a question."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Literal

from pydantic import JsonValue

from visual_arft.envs.search.actions import READ
from visual_arft.envs.search.backends.memory import Bm25Searcher
from visual_arft.envs.search.corpus import cut
from visual_arft.envs.search.egress import Blocked, Guard
from visual_arft.envs.search.egress.fetch import FetchLimits, fetch
from visual_arft.envs.search.read.extract import Page
from visual_arft.envs.search.read.extractor import Extractor
from visual_arft.envs.search.recording import Desk
from visual_arft.envs.search.results import Passage
from visual_arft.errors import ToolFailure, UserError
from visual_arft.types import ToolCall, ToolResult

PASSAGE_CHARACTERS = 600
_ADDRESS = re.compile(r"\]\((https?://[^\s)]+(?:\([^\s)]*\)[^\s)]*)*)\)")


def about_tokens(text: str) -> int:
    """How many tokens a text has, roughly and rather too many: a token is 3 bytes of UTF-8.

    >>> about_tokens("three words here"), about_tokens("故宫")
    (6, 2)
    """
    return -(-len(text.encode("utf-8", "replace")) // 3)


class ReadTool:
    """A tool that reads pages of the web."""

    def __init__(
        self,
        guard: Guard,
        desk: Desk | None = None,
        *,
        tokens: int = 1500,
        count: Callable[[str], int] = about_tokens,
        show: Literal["pages", "passages"] = "pages",
        limits: FetchLimits = FetchLimits(),  # noqa: B008 - a frozen record
        extractor: Extractor | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            guard: which addresses may be opened.
            desk: where requests are handed in, so that they are recorded and replayed.
            tokens: what the policy is shown at most for one call.
            count: the tokens of a text; a policy's tokenizer makes it exact.
            show: `pages` turns a page's leaves one by one; `passages` shows what fits the question.
            limits: what fetching a page may cost.
            extractor: what makes text of a page.
        """
        self._guard = guard
        self._desk = desk or Desk()
        self._tokens = tokens
        self._count = count
        self._show = show
        self._limits = limits
        self._extractor = extractor or Extractor()

    async def run(self, call: ToolCall) -> ToolResult:
        """The page at the call's `url`; what keeps it from being read is for the model to read."""
        if "refused" in call.arguments:
            return ToolResult(error=str(call.arguments["refused"]))
        url = str(call.arguments["url"])
        try:
            self._guard.check(url)  # in a replay too
            answer = await self._desk.ask(READ, {"url": url}, lambda: self._live(url))
        except Blocked as blocked:
            return ToolResult(error=str(blocked))
        except OSError as error:
            raise ToolFailure(f"{READ}: {error}") from error
        if not isinstance(answer, dict) or "error" in answer:
            return ToolResult(error=str(answer["error"] if isinstance(answer, dict) else answer))
        page = Page(title=str(answer["title"]), text=str(answer["text"]))
        return await self._shown(page, str(answer["url"]), call.arguments)

    async def _live(self, url: str) -> JsonValue:
        """The page, or why there is none: both are answers of the web, and recorded."""
        try:
            fetched = await fetch(url, self._guard, self._limits)
            page = await self._extractor.extract(fetched)
        except Blocked as blocked:
            return {"error": str(blocked)}
        if fetched.status >= 400:
            return {"error": f"{fetched.url} answers with status {fetched.status}"}
        if not page.text:
            return {"error": f"{fetched.url} has no text that can be read"}
        return {"url": fetched.url, "title": page.title, "text": page.text}

    async def _shown(self, page: Page, url: str, arguments: dict[str, JsonValue]) -> ToolResult:
        leaves = await asyncio.to_thread(leaves_of, page.text, self._tokens, self._count)
        if self._show == "passages":
            text = await self._passages(page, str(arguments.get("question", "")))
            where = "passages"
        else:
            number = arguments.get("page", 1)
            if not isinstance(number, int) or not 1 <= number <= len(leaves):
                return ToolResult(error=f"{url} has {len(leaves)} pages, and no page {number}")
            text, where = leaves[number - 1], f"page {number} of {len(leaves)}"
        title = " ".join(page.title.split())[:200]
        links = tuple(dict.fromkeys([url, *_ADDRESS.findall(text)]))
        return ToolResult(text=f"{title}\n{url} ({where})\n\n{text}", links=links)

    async def _passages(self, page: Page, question: str) -> str:
        """The passages that share most with the question, within the budget, in their order."""
        pieces = cut(page.text, PASSAGE_CHARACTERS)
        passages = [Passage(id=str(n), contents=piece) for n, piece in enumerate(pieces)]
        try:
            found = await Bm25Searcher(passages).search(question, len(pieces))
        except UserError:  # a page without words
            found = []
        chosen: list[int] = []
        left = self._tokens
        for number in [int(result.url) for result in found] or range(len(pieces)):
            cost = self._count(pieces[number]) + 1
            if cost > left:
                break
            left -= cost
            chosen.append(number)
        return "\n\n".join(pieces[number] for number in sorted(chosen))


def leaves_of(text: str, tokens: int, count: Callable[[str], int]) -> list[str]:
    """A text in leaves of at most so many tokens, as full as paragraphs allow."""
    leaves: list[str] = []
    for piece in cut(text, max(1, tokens)):
        together = f"{leaves[-1]}\n\n{piece}" if leaves else piece
        if leaves and count(together) <= tokens:
            leaves[-1] = together
        else:
            leaves += [piece] if count(piece) <= tokens else _halved(piece, tokens, count)
    return leaves


def _halved(text: str, tokens: int, count: Callable[[str], int]) -> list[str]:
    """A piece that is too long, in parts that are not."""
    if count(text) <= tokens or len(text) < 2:
        return [text]
    middle = len(text) // 2
    return [*_halved(text[:middle], tokens, count), *_halved(text[middle:], tokens, count)]
