"""Rows of a JSON or JSONL file, checked: an error names the file, the row and the key."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from visual_arft.errors import UserError

Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file, each read as `kind`: a list in `.json`, one row a line in `.jsonl`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give the path of a JSON or JSONL file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}; save the file as UTF-8") from None
    rows = [check_row(path, number, row, kind) for number, row in _rows(path, text)]
    if not rows:
        raise UserError(f"{path}: the file has no rows; give one that has")
    return rows


def stream_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """The rows of a JSONL file, plain or gzipped, one by one: for files larger than memory."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield check_row(path, number, _parse(f"{path}, row {number}", line), kind)
    except UnicodeDecodeError as error:
        where = f"{path}, after row {number}"
        raise UserError(f"{where}: {error.reason}; save the file as UTF-8") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}, after row {number}: {error}; download the file again") from None


def find_table(path: Path) -> Path:
    """The path itself or, of a folder, the one JSON file in it."""
    if not path.is_dir():
        return path
    tables = sorted(path.glob("*.json"))
    if len(tables) != 1:
        raise UserError(f"{path} holds {len(tables)} JSON files; give the path of one")
    return tables[0]


def _rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON list, or the lines of a JSONL file that are not blank, from 1."""
    if path.suffix != ".jsonl":
        rows = _parse(str(path), text)
        if not isinstance(rows, list):
            raise UserError(f"{path}: {text[:20]!r}… is not a list of rows; wrap them in [ ]")
        yield from enumerate(rows, start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parse(f"{path}, row {number}", line)


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}; mend it there") from None


def check_row(path: Path, number: int, row: object, kind: type[Row]) -> Row:
    """A row read as `kind`; raises `UserError` naming the file, the row and the key."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the row)"
        found = "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
        raise UserError(
            f"{path}, row {number}, key {key!r}: {first['msg'].lower()}{found}; mend the row"
        ) from None
