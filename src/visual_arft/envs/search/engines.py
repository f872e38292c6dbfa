"""Which engine a word stands for: a path, an address, or the name of a service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from visual_arft.envs.search.backends.ddgs import DdgsSearcher
from visual_arft.envs.search.backends.http import PROVIDERS, HttpSearcher
from visual_arft.envs.search.backends.memory import Bm25Searcher
from visual_arft.envs.search.corpus import corpus_files, read_passages
from visual_arft.envs.search.index import IndexSearcher, is_index
from visual_arft.envs.search.results import Searcher
from visual_arft.errors import UserError

ENGINES = (
    "an index's folder, a corpus (JSONL, parquet, or a folder of texts), the address of a "
    "retrieval server (http://HOST:PORT), serper, brave, tavily, ddgs, or searxng=http://HOST:PORT"
)
"""What can be searched, in words."""

_WEB = ("serper", "brave", "tavily")
_ADDRESS = re.compile(r"https?://\S+")


def engine_name(word: str) -> str:
    """What records call an engine, found out without opening it."""
    return word if _is_web(word) else f"corpus {Path(word).name}"


def open_engine(word: str, options: Mapping[str, str] | None = None) -> Searcher:
    """The engine that a word on the command line or in a recipe stands for.

    Args:
        word: one of `ENGINES`.
        options: for a provider, such as `gl=us`.

    Raises:
        UserError: there is no such engine, or it cannot be opened.
    """
    if not word.strip():
        raise UserError(f"{word!r} is no engine; give {ENGINES}")
    if word in _WEB:
        return HttpSearcher(PROVIDERS[word], options=options)
    if word == "ddgs":
        return DdgsSearcher(**(options or {}))
    if word.startswith("searxng="):
        return HttpSearcher(
            PROVIDERS["searxng"], base=_address(word.removeprefix("searxng=")), options=options
        )
    if "://" in word:
        return HttpSearcher(PROVIDERS["retrieve"], base=_address(word), options=options)
    return _open_path(Path(word))


def _open_path(path: Path) -> Searcher:
    """An index, or a corpus that is small enough to be indexed in memory."""
    if is_index(path):
        return IndexSearcher(path)
    return Bm25Searcher(list(read_passages(corpus_files([path]))))


def _is_web(word: str) -> bool:
    return word in (*_WEB, "ddgs") or "://" in word


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise UserError(f"{text!r} is not an address; write http://HOST:PORT")
    return text.removesuffix("/retrieve")
