"""The nouns of search: what is looked through, what is found, and who looks."""

from __future__ import annotations

import re
from typing import Protocol

from visual_arft.types import Record


class Result(Record):
    """One thing an engine found."""

    snippet: str
    """What the policy reads."""
    title: str = ""
    url: str = ""
    """Where it stands; for a local corpus, the id of the passage where it has no address."""
    text: str | None = None
    """The whole page or passage, None where the engine sends snippets only."""
    score: float | None = None
    """How well it fits, on the engine's own scale."""
    published: str | None = None
    """The date the engine gives for it."""


class Passage(Record):
    """One entry of a local corpus; the first line of its contents is its title."""

    id: str
    contents: str
    url: str = ""
    """Where it was taken from, where that is known."""

    @property
    def title(self) -> str:
        """The first line, without the quotation marks some corpora put around it."""
        return self.contents.strip().partition("\n")[0].strip().strip('"')


class Searcher(Protocol):
    """A search engine."""

    @property
    def name(self) -> str:
        """What records and messages call it: engines that differ in what they find differ in it."""
        ...

    async def search(self, query: str, limit: int) -> list[Result]:
        """At most `limit` results, the best first; raises `OSError` when it cannot be asked."""
        ...


SNIPPET = 2000
"""Characters of a passage that the policy reads at most; corpora mostly hold shorter ones."""

# A Chinese or Japanese character is a word of its own: such text has no blanks to split at.
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def spaced(text: str) -> str:
    """The text with blanks around each Chinese or Japanese character.

    >>> spaced("故宫 is in 北京")
    ' 故  宫  is in  北  京 '
    """
    return text if text.isascii() else _CJK.sub(r" \g<0> ", text)


def passage_result(passage: Passage, score: float) -> Result:
    """A passage as the result of a search."""
    return Result(
        title=passage.title,
        url=passage.url or passage.id,
        snippet=" ".join(passage.contents.split())[:SNIPPET],
        text=passage.contents,
        score=score,
    )
