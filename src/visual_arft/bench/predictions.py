"""Answers that some other program has written to a file, to be scored here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field

from visual_arft.bench.suites import Suite
from visual_arft.rows import read_rows


class Prediction(NamedTuple):
    """One answer with what it is scored against."""

    answer: str | None
    golds: tuple[str, ...]
    split: str = ""
    kind: str = ""
    task: str | None = None
    """The task's id; None where a file tells none."""

    @property
    def is_answered(self) -> bool:
        """Whether it says anything."""
        return bool((self.answer or "").strip())


def is_file_of_answers(path: Path) -> bool:
    """Whether a path is a file of answers and not a run's folder."""
    return path.suffix in (".json", ".jsonl")


def read_predictions(path: Path, suite: Suite) -> list[Prediction]:
    """The rows of a JSON list or a JSON-lines file; a missing split follows from the position."""
    rows = read_rows(path, _Row)
    return [
        Prediction(
            answer=row.pred_answer,
            golds=tuple(row.gt),
            split=row.split or suite.split_at(position, len(rows)),
            kind="+".join(row.type),
            task=None if row.id is None else str(row.id),
        )
        for position, row in enumerate(rows)
    ]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Texts = Annotated[list[str], BeforeValidator(_as_list)]


class _Row(BaseModel):
    """A row as the paper's authors publish it; what else it holds does not matter."""

    pred_answer: str | None
    """None where there was no answer."""
    gt: Annotated[_Texts, Field(min_length=1)]
    """One accepted answer or several. An empty text is allowed, as the published files hold one."""
    id: int | str | None = None
    split: str | None = None
    type: _Texts = []
