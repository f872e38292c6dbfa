"""Building an index: passage by passage, so that it takes as much memory for ten as for millions.

What is committed is kept when a build is interrupted; the same command goes on from there. Until it
is whole, an index lies in a folder of another name, which nothing opens.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import tantivy

from visual_arft.envs.search.corpus import corpus_files, read_passages
from visual_arft.envs.search.index.folder import (
    WORDS,
    Manifest,
    Source,
    analyzer,
    being_built,
    read_manifest,
    schema,
)
from visual_arft.envs.search.results import Passage, spaced
from visual_arft.errors import UserError

COMMIT_EVERY = 200_000
"""Passages that an interrupted build has to read again at most."""

_HEAP_BYTES = 128 * 2**20

Progress = Callable[[int], None]
"""Told how many passages are in, from time to time."""


def build(
    sources: Sequence[Path],
    folder: Path,
    progress: Progress = lambda passages: None,
    *,
    commit_every: int = COMMIT_EVERY,
) -> Manifest:
    """Builds the index of all passages in files and folders, or goes on with building it.

    Args:
        sources: see `corpus_files`.
        folder: where the index will be; made, with what is above it.
        progress: is told how far it is.
        commit_every: passages after which what is there is kept should the build stop.

    Raises:
        UserError: a source cannot be read, something else stands in the folder's place, or another
            process builds the same index.
    """
    files = corpus_files(sources)
    wanted = Manifest(sources=tuple(_source(file) for file in files))
    if folder.exists():
        return _finished(folder, wanted)
    unfinished = being_built(folder)
    _make_ready(unfinished, wanted)
    index = _index(unfinished)
    characters = _fill(index, read_passages(files), progress, commit_every)
    whole = wanted.model_copy(update={"passages": _count(index), "characters": characters})
    if not whole.passages:
        shutil.rmtree(unfinished)
        raise UserError(f"{sources[0]}: there is no passage in it; give a corpus that has some")
    del index
    whole.write(unfinished)
    unfinished.replace(folder)
    return whole


def _finished(folder: Path, wanted: Manifest) -> Manifest:
    """The manifest of an index that is there already and was built from the same files."""
    found = read_manifest(folder)
    if found.sources != wanted.sources:
        raise UserError(
            f"{folder}: an index of other files stands there; choose another --out, or delete it"
        )
    return found


def _make_ready(unfinished: Path, wanted: Manifest) -> None:
    """Leaves a folder that holds the beginning of this very index, or nothing yet."""
    unfinished.mkdir(parents=True, exist_ok=True)
    if any(unfinished.iterdir()) and read_manifest(unfinished).sources != wanted.sources:
        shutil.rmtree(unfinished)  # other files, or files that have changed: it starts clean
        unfinished.mkdir()
    wanted.write(unfinished)


def _index(folder: Path) -> tantivy.Index:
    try:
        index = tantivy.Index(schema(), path=str(folder))
    except ValueError as error:
        raise UserError(f"{folder}: {error}; delete this folder and build again") from None
    index.register_tokenizer(WORDS, analyzer())
    return index


def _fill(
    index: tantivy.Index, passages: Iterable[Passage], progress: Progress, commit_every: int
) -> int:
    """Adds the passages that the index lacks; the number of characters of all."""
    done = _count(index)
    characters = 0
    passages = iter(passages)
    for passage in islice(passages, done):
        characters += len(passage.contents)
    writer = _writer(index)
    for number, passage in enumerate(passages, start=done + 1):
        characters += len(passage.contents)
        with _room():
            writer.add_document(_document(passage))
            if number % commit_every == 0:
                writer.commit()
        if number % 1000 == 0:
            progress(number)
    with _room():
        writer.commit()
        writer.wait_merging_threads()
    return characters


@contextmanager
def _room() -> Generator[None]:
    try:
        yield
    except ValueError as error:  # what the engine says of a disk
        raise UserError(
            f"the index cannot be written ({error}); free some space, and run the same again"
        ) from None


def _writer(index: tantivy.Index) -> tantivy.IndexWriter:
    try:
        # One thread keeps the passages in order, by which a resumed build knows where it was.
        return index.writer(heap_size=_HEAP_BYTES, num_threads=1)
    except ValueError as error:
        raise UserError(f"another process builds this index ({error}); wait for it") from None


def _document(passage: Passage) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text(WORDS, spaced(passage.contents))
    document.add_bytes("id", passage.id.encode())
    document.add_bytes("contents", passage.contents.encode())
    document.add_bytes("url", passage.url.encode())
    return document


def _count(index: tantivy.Index) -> int:
    index.reload()
    return index.searcher().num_docs


def _source(file: Path) -> Source:
    seen = file.stat()
    return Source(path=str(file.resolve()), bytes=seen.st_size, modified_ns=seen.st_mtime_ns)
