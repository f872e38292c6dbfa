"""Passages out of files: JSONL and parquet of passages, folders of Markdown, HTML and text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from visual_arft.envs.search.results import Passage
from visual_arft.errors import UserError
from visual_arft.rows import check_row, stream_rows

MOST_CHARACTERS = 800
"""Of a passage cut out of a longer text: about 130 words, as in the usual Wikipedia corpora."""

Text = Annotated[str, Field(min_length=1)]


class _Row(BaseModel):
    """`{"id", "contents"}`, the title being the first line; or `{"id", "title", "text"}`."""

    id: int | str
    contents: Text
    url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_contents(cls, row: Any) -> Any:
        if not isinstance(row, dict) or "contents" in row or not isinstance(row.get("text"), str):
            return row
        return {**row, "contents": f"{row.get('title') or ''}\n{row['text']}".strip()}


def corpus_files(sources: Sequence[Path]) -> list[Path]:
    """The files that hold passages, folders searched through, in an order that does not change."""
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob("*") if _reader(path) and path.is_file())
            if not inside:
                raise UserError(f"{source}: no file there ends in {_endings()}; give another")
            files += inside
        elif not source.exists():
            raise UserError(f"{source}: No such file or directory; give a file or a folder")
        elif _reader(source) is None:
            raise UserError(f"{source}: not a corpus; give a folder, or a file in {_endings()}")
        else:
            files.append(source)
    return files


def read_passages(files: Sequence[Path]) -> Iterator[Passage]:
    """The passages of files, one by one; raises `UserError` naming the file and row that is wrong.

    A passage cut out of a text is called `FILE#N`, and its first line is the text's title.
    """
    root = Path(os.path.commonpath([file.resolve().parent for file in files])) if files else Path()
    for file in files:
        reader = _reader(file)
        if reader is None:
            raise UserError(f"{file}: not a corpus; give a file in {_endings()}")
        yield from reader(file, str(file.resolve().relative_to(root)))


def cut(text: str, most: int) -> list[str]:
    r"""A text in pieces of at most `most` characters: paragraphs where they fit, else sentences.

    >>> cut("One.\n\nTwo. Three.\n\nFour.", 12)
    ['One.', 'Two. Three.', 'Four.']
    >>> cut("One. Two. Three.", 10)
    ['One. Two.', 'Three.']
    """
    return _packed(text.strip(), most, _BREAKS)


_BREAKS = (
    (re.compile(r"\n\s*\n"), "\n\n"),  # paragraphs
    (re.compile(r"(?<=[.!?])\s+|(?<=[。！？])"), " "),  # sentences
    (re.compile(r"\s+"), " "),  # words
)


def _packed(text: str, most: int, breaks: Sequence[tuple[re.Pattern[str], str]]) -> list[str]:
    """The text in pieces as large as they may be, broken at the coarsest breaks that will do."""
    if len(text) <= most:
        return [text] if text else []
    if not breaks:
        return [text[at : at + most] for at in range(0, len(text), most)]
    (between, glue), *finer = breaks
    pieces: list[str] = []
    for part in between.split(text):
        for piece in _packed(part.strip(), most, finer):
            if pieces and len(pieces[-1]) + len(glue) + len(piece) <= most:
                pieces[-1] += glue + piece
            else:
                pieces.append(piece)
    return pieces


def _from_jsonl(file: Path, name: str) -> Iterator[Passage]:
    return map(_passage, stream_rows(file, _Row))


def _from_parquet(file: Path, name: str) -> Iterator[Passage]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            f"{file}: reading parquet needs pyarrow; pip install 'visual-arft[dense]'"
        ) from None
    try:
        with ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield parse_passage(file, number, row)
    except ArrowException as error:
        raise UserError(f"{file}: not a parquet file ({error}); make it again") from None


def _from_text(file: Path, name: str) -> Iterator[Passage]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: {error.reason}; save the file as UTF-8") from None
    heading = re.match(r"\s*#+[ \t]+(.+)", text)
    title = heading[1].strip() if heading else file.stem
    return _pieces(name, title, text[heading.end() :] if heading else text)


def _from_html(file: Path, name: str) -> Iterator[Passage]:
    from visual_arft.envs.search.read.extract import extract_html

    page = extract_html(file.read_bytes(), "")
    return _pieces(name, page.title or file.stem, page.text)


def _pieces(name: str, title: str, text: str) -> Iterator[Passage]:
    title = " ".join(title.split())
    for number, piece in enumerate(cut(text, MOST_CHARACTERS), start=1):
        yield Passage(id=f"{name}#{number}", contents=f"{title}\n{piece}", url=name)


def parse_passage(file: Path, number: int, row: object) -> Passage:
    """The passage of a JSONL row; raises `UserError` naming the file and the row."""
    return _passage(check_row(file, number, row, _Row))


def _passage(row: _Row) -> Passage:
    return Passage(id=str(row.id), contents=row.contents, url=row.url or "")


_Reader = Callable[[Path, str], Iterator[Passage]]
_READERS: Mapping[str, _Reader] = {
    ".jsonl": _from_jsonl,
    ".jsonl.gz": _from_jsonl,
    ".parquet": _from_parquet,
    ".md": _from_text,
    ".markdown": _from_text,
    ".txt": _from_text,
    ".html": _from_html,
    ".htm": _from_html,
}


def _reader(path: Path) -> _Reader | None:
    return next((read for end, read in _READERS.items() if path.name.endswith(end)), None)


def _endings() -> str:
    return ", ".join(_READERS)
