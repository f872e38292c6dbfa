"""Engines that live in memory: BM25 for some ten thousand passages, a fake, and two wrappers."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from visual_arft.envs.search.results import Passage, Result, Searcher, passage_result, spaced
from visual_arft.errors import UserError


class Bm25Searcher:
    """BM25 over passages held in memory: quick up to some hundred thousand, the same every time."""

    name = "bm25"

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Builds the index."""
        words = [_words(passage.contents) for passage in passages]
        if not any(words):
            raise UserError(
                f"a corpus of {len(passages)} passages holds no words to search; "
                "give one with text in it"
            )
        self._passages = passages
        self._index = bm25s.BM25(backend="numpy")
        self._index.index(words, show_progress=False)

    async def search(self, query: str, limit: int) -> list[Result]:
        """The passages that share a word with the query, those of equal score in corpus order."""
        words = _words(query)
        if not words:
            return []
        scores = self._index.get_scores(words)
        found = np.flatnonzero(scores > 0)
        best = found[np.argsort(-scores[found], kind="stable")][:limit]
        return [passage_result(self._passages[i], float(scores[i])) for i in best.tolist()]


class OfflineSearcher:
    """An engine that knows the answers to some queries by heart: a fake for tests and tours."""

    name = "offline"

    def __init__(self, pages: Mapping[str, Sequence[str]]) -> None:
        """Takes the snippets of each query; any other query finds nothing."""
        self._pages = pages

    async def search(self, query: str, limit: int) -> list[Result]:
        """The snippets of exactly this query."""
        return [Result(snippet=snippet) for snippet in self._pages.get(query, ())][:limit]


class Sampled:
    """An engine whose best results come in random number and order.

    A policy trained on results in a fixed order learns to copy from a position ("what stands in the
    first passage"). Behind this it must read them. What a query brings depends on the seed and the
    query only.
    """

    def __init__(self, searcher: Searcher, seed: int, most: int = 4) -> None:
        """Wraps an engine; `most` is the largest number of results that is drawn."""
        self.name = f"{searcher.name}, sampled"
        self._searcher = searcher
        self._seed = seed
        self._most = most

    async def search(self, query: str, limit: int) -> list[Result]:
        """The best few results: how few is drawn from 1 to `most`, and their order is shuffled."""
        draw = random.Random(f"{self._seed}:{query}")
        results = await self._searcher.search(query, draw.randint(1, min(self._most, limit)))
        return draw.sample(results, len(results))


class Silent:
    """An engine that never finds anything: the control for an agent that claims to need search."""

    name = "silent"

    async def search(self, query: str, limit: int) -> list[Result]:
        """Nothing."""
        return []


_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(STOPWORDS_EN)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(spaced(text.lower())) if word not in _STOP_WORDS]
