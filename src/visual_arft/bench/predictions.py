"""Answers that some other program has written to a file, to be scored here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from visual_arft.bench.suites import Suite
from visual_arft.errors import UserError


class Prediction(NamedTuple):
    """One answer with what it is scored against."""

    answer: str | None
    golds: tuple[str, ...]
    split: str = ""
    kind: str = ""


def read_predictions(path: Path, suite: Suite) -> list[Prediction]:
    """The rows of a JSON list or a JSON-lines file with `pred_answer` and `gt` in each row.

    `gt` is a text or a list of texts; `pred_answer` is null where there was no answer. `split` and
    `type` (a text or a list) are optional; a missing split follows from the suite's own order.
    """
    rows = _rows(path)
    if not rows:
        raise UserError(f"{path}: holds no rows; give a file with at least one prediction")
    return [
        _prediction(f"{path}, row {number}", row, suite.split_at(number - 1, len(rows)))
        for number, row in enumerate(rows, start=1)
    ]


def _rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a prediction file or a run") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; give JSON or JSON lines in UTF-8") from None
    if path.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), start=1)
        return [_json(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    rows = _json(str(path), text)
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: holds {_shown(rows)}, not a list; give a JSON list of rows, or "
            "one row a line in a file that ends with .jsonl"
        )
    return rows


def _json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); mend it there") from None


def _prediction(place: str, row: Any, split: str) -> Prediction:
    if not isinstance(row, dict):
        raise UserError(f"{place}: {_shown(row)} is no object; give pred_answer and gt in each row")
    return Prediction(
        answer=_field(place, row, "pred_answer", _answer, "a text, or null for no answer"),
        golds=_field(place, row, "gt", _texts, "a text or a list of at least one"),
        split=str(row.get("split") or split),
        kind=_kind(row.get("type")),
    )


def _field(
    place: str, row: dict[str, Any], key: str, read: Callable[[Any], Any], wants: str
) -> Any:
    if key not in row:
        found = ", ".join(row) or "no keys"
        raise UserError(f"{place}: no key {key!r} (found {found}); add it: {wants}")
    try:
        return read(row[key])
    except TypeError:
        raise UserError(f"{place}: {key} is {_shown(row[key])}; it must be {wants}") from None


def _answer(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError


def _texts(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if texts and all(isinstance(text, str) for text in texts):
        return tuple(texts)
    raise TypeError


def _kind(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
