"""An existing faiss index, opened where it lies, and the fusion of two engines' rankings."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visual_arft.envs.search.corpus import parse_passage
from visual_arft.envs.search.embedder import Embedder
from visual_arft.envs.search.results import Passage, Result, Searcher, passage_result
from visual_arft.errors import UserError

_RRF = 60
"""Of reciprocal rank fusion: how little the first places stand out (Cormack et al., SIGIR 2009)."""


class DenseSearcher:
    """Nearest passages in a faiss index; neither it nor its corpus is read into memory."""

    def __init__(
        self, index: Path, corpus: Path, embedder: Embedder, *, prefix: str = "", nprobe: int = 32
    ) -> None:
        """Opens both, memory-mapped where the kind of index can be.

        Args:
            index: a faiss index; its number N stands for line N of the corpus, from 0.
            corpus: JSONL of the passages it was made from.
            embedder: the model that it was made with.
            prefix: what that model wants before a question; E5's is `query: `.
            nprobe: lists of an inverted index that are looked through.
        """
        self.name = f"dense {index.name}"
        self._index = _open(index, nprobe)
        self._lines = _Lines(corpus)
        self._embedder = embedder
        self._prefix = prefix
        if self._index.ntotal != len(self._lines):
            raise UserError(
                f"{index}: it has {self._index.ntotal} vectors, and {corpus} has "
                f"{len(self._lines)} lines; give the corpus it was made from"
            )

    async def search(self, query: str, limit: int) -> list[Result]:
        """The passages whose vectors are nearest to the query's."""
        return await asyncio.to_thread(self._search, query, limit)

    def _search(self, query: str, limit: int) -> list[Result]:
        if not query.strip():
            return []
        vector = self._embedder.embed([self._prefix + query]).astype(np.float32)
        if vector.shape[1] != self._index.d:
            raise UserError(
                f"{self.name}: its vectors have {self._index.d} numbers, the model's "
                f"{vector.shape[1]}; give the model it was made with"
            )
        scores, numbers = self._index.search(vector, limit)
        found = zip(scores[0].tolist(), numbers[0].tolist(), strict=True)
        return [passage_result(self._lines[at], score) for score, at in found if at >= 0]


class HybridSearcher:
    """Several engines as one, by reciprocal rank fusion: what many rank high comes first."""

    def __init__(self, engines: Sequence[Searcher], *, depth: int = 50) -> None:
        """Takes the engines; `depth` is how many results of each are weighed."""
        self.name = " + ".join(engine.name for engine in engines)
        self._engines = engines
        self._depth = depth

    async def search(self, query: str, limit: int) -> list[Result]:
        """The best of all engines; a result is one where its address and text are the same."""
        depth = max(limit, self._depth)
        asked = (engine.search(query, depth) for engine in self._engines)
        scores: dict[tuple[str, str], float] = defaultdict(float)
        results: dict[tuple[str, str], Result] = {}
        for found in await asyncio.gather(*asked):
            for rank, result in enumerate(found, start=1):
                key = (result.url, result.text or result.snippet)
                results.setdefault(key, result)
                scores[key] += 1 / (_RRF + rank)
        best = sorted(scores, key=lambda key: -scores[key])[:limit]
        return [results[key].model_copy(update={"score": scores[key]}) for key in best]


class _Lines(Sequence[Passage]):
    """The lines of a JSONL corpus, each found by its number; where they begin is kept beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = self._found()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: Any) -> Any:
        with self._path.open("rb") as file:
            file.seek(int(self._starts[number]))
            return parse_passage(self._path, int(number) + 1, json.loads(file.readline()))

    def _found(self) -> NDArray[np.int64]:
        """Where lines begin, from a file that is newer than the corpus, or counted."""
        kept = self._path.with_name(f"{self._path.name}.lines.npy")
        try:
            if kept.stat().st_mtime_ns >= self._path.stat().st_mtime_ns:
                return np.load(kept, mmap_mode="r")
        except FileNotFoundError:
            pass
        starts = self._counted()
        with suppress(OSError):  # where nothing can be written it is counted each time
            np.save(kept, starts)
        return starts

    def _counted(self) -> NDArray[np.int64]:
        starts: list[int] = []
        at = 0
        try:
            with self._path.open("rb") as file:
                for line in file:
                    if line.strip():
                        starts.append(at)
                    at += len(line)
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror}; give a corpus in JSONL") from None
        return np.array(starts, dtype=np.int64)


def _open(path: Path, nprobe: int) -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("a faiss index needs faiss; pip install 'visual-arft[dense]'") from None
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a faiss index")
    engine: Any = faiss
    for flags in (engine.IO_FLAG_MMAP_IFC, engine.IO_FLAG_MMAP, 0):  # not every kind can be mapped
        try:
            index = engine.read_index(str(path), flags | engine.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:120]
            continue
        if hasattr(index, "nprobe"):
            index.nprobe = nprobe
        return index
    raise UserError(f"{path}: not a faiss index ({reason}); make it again")  # pyright: ignore
