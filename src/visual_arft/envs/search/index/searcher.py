"""Asking an index on disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import tantivy

from visual_arft.envs.search.index.folder import WORDS, analyzer, read_manifest
from visual_arft.envs.search.results import Passage, Result, passage_result, spaced
from visual_arft.errors import UserError

_FEW = 100_000
"""Postings that a query may always read; of a large index, a fifth of its passages."""


class IndexSearcher:
    """BM25 over an index on disk; any number of processes may have it open, in little memory."""

    def __init__(self, folder: Path) -> None:
        """Opens an index that `build` has made; raises `UserError` where there is none."""
        self.manifest = read_manifest(folder)
        self.name = f"index {folder.name}"
        try:
            self._index = tantivy.Index.open(str(self._lockable(folder)))
            self._index.config_reader(reload_policy="manual")
        except ValueError as error:
            raise UserError(f"{folder}: {error}; build the index again") from None
        self._analyzer = analyzer()
        self._index.register_tokenizer(WORDS, self._analyzer)
        self._searcher = self._index.searcher()
        self._most_postings = max(_FEW, self.manifest.passages // 5)

    def _lockable(self, folder: Path) -> Path:
        """The folder or, where it cannot be written, a temporary one of links to its files.

        The engine holds a lock file while it opens an index.
        """
        if os.access(folder, os.W_OK):
            return folder
        links = Path(tempfile.mkdtemp(prefix="arft-index-"))
        weakref.finalize(self, shutil.rmtree, links, ignore_errors=True)
        for file in folder.iterdir():
            if file.suffix != ".lock":
                (links / file.name).symlink_to(file.resolve())
        return links

    async def search(self, query: str, limit: int) -> list[Result]:
        """The passages that share words with the query, the best first."""
        return await asyncio.to_thread(self.find, query, limit)

    def find(self, query: str, limit: int) -> list[Result]:
        """The same, for who does not wait for other things meanwhile."""
        found = self.passages(query, limit)
        return [passage_result(passage, score) for score, passage in found]

    def passages(self, query: str, limit: int) -> list[tuple[float, Passage]]:
        """The best passages with their scores."""
        words = self._telling(query)
        if not words or limit < 1:
            return []
        terms = [
            tantivy.Query.term_query(self._index.schema, WORDS, word, index_option="freq")
            for word in words
        ]
        any_of = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
        hits = self._searcher.search(any_of, limit, count=False).hits
        return [(score, self._passage(address)) for score, address in hits]

    def _telling(self, query: str) -> list[str]:
        """The words to look for, the rarest first.

        Words are taken until their postings are too many to read: what a word of every other
        passage adds to the score is next to nothing, and it costs the most. No list of stop words
        is needed for that, and it holds in every language.
        """
        words = dict.fromkeys(self._analyzer.analyze(spaced(query)))
        counted = sorted((self._searcher.doc_freq(WORDS, word), word) for word in words)
        telling: list[str] = []
        postings = 0
        for count, word in counted:
            if not count:
                continue
            postings += count
            if telling and postings > self._most_postings:
                break
            telling.append(word)
        return telling

    def _passage(self, address: tantivy.DocAddress) -> Passage:
        stored = self._searcher.doc(address)
        return Passage(**{name: bytes(stored[name][0]).decode() for name in Passage.model_fields})
