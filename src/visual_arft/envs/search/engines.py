"""Which engine a word stands for: a path, an address, or the name of a service."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from visual_arft.envs.search.backends.ddgs import DdgsSearcher
from visual_arft.envs.search.backends.dense import DenseSearcher, Embedder, HybridSearcher
from visual_arft.envs.search.backends.http import PROVIDERS, HttpSearcher
from visual_arft.envs.search.backends.memory import Bm25Searcher
from visual_arft.envs.search.corpus import corpus_files, read_passages
from visual_arft.envs.search.embedder import MiniLm
from visual_arft.envs.search.index import IndexSearcher, is_index
from visual_arft.envs.search.results import Searcher
from visual_arft.errors import UserError
from visual_arft.types import Record

ENGINES = (
    "an index's folder, a corpus (JSONL, parquet, or a folder of texts), the address of a "
    "retrieval server (http://HOST:PORT), serper, brave, tavily, ddgs, searxng=http://HOST:PORT, "
    "or a TOML file of several engines"
)
"""What can be searched, in words."""

_WEB = ("serper", "brave", "tavily")
_ADDRESS = re.compile(r"https?://\S+")


class _Dense(Record):
    """A faiss index in a TOML file."""

    faiss: Path
    corpus: Path
    model: Path
    """Folder of the embedding model."""
    prefix: str = ""
    nprobe: int = 32


class _Engines(Record):
    """A TOML file of engines; more than one are fused."""

    engines: Annotated[tuple[str | _Dense, ...], Field(min_length=1)]


LoadEmbedder = Callable[[Path], Embedder]


def _bert(folder: Path) -> Embedder:
    return MiniLm(folder, any_weights=True)


def engine_name(word: str) -> str:
    """What records call an engine, found out without opening it."""
    return word if _is_web(word) else f"corpus {Path(word).name}"


def open_engine(
    word: str, options: Mapping[str, str] | None = None, *, load: LoadEmbedder = _bert
) -> Searcher:
    """The engine that a word on the command line or in a recipe stands for.

    Args:
        word: one of `ENGINES`.
        options: for a provider, such as `gl=us`.
        load: reads an embedding model; without torch, only those of the BERT kind.

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
    return _open_path(Path(word), load)


def _open_path(path: Path, load: LoadEmbedder) -> Searcher:
    """An index, several engines, or a corpus that is small enough to be indexed in memory."""
    if path.suffix == ".toml":
        return _open_several(path, load)
    if is_index(path):
        return IndexSearcher(path)
    return Bm25Searcher(list(read_passages(corpus_files([path]))))


def _open_several(path: Path, load: LoadEmbedder) -> Searcher:
    try:
        text = json.dumps(tomllib.loads(path.read_text(encoding="utf-8")), default=str)
        listed = _Engines.model_validate_json(text).engines
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a TOML file of engines") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error}); mend it there") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}, key {key!r}: {first['msg'].lower()}; mend it") from None
    engines = [
        open_engine(each, load=load)
        if isinstance(each, str)
        else DenseSearcher(
            each.faiss, each.corpus, load(each.model), prefix=each.prefix, nprobe=each.nprobe
        )
        for each in listed
    ]
    return engines[0] if len(engines) == 1 else HybridSearcher(engines)


def _is_web(word: str) -> bool:
    return word in (*_WEB, "ddgs") or "://" in word


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise UserError(f"{text!r} is not an address; write http://HOST:PORT")
    return text.removesuffix("/retrieve")
