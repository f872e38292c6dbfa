"""Two runs over the same tasks, compared task by task."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from visual_arft.bench.cells import Cell, Cells, Table, cell, cells, groups, values_of
from visual_arft.bench.outcomes import counted, outcome, outcomes
from visual_arft.bench.predictions import Prediction, is_file_of_answers, read_predictions
from visual_arft.bench.settings import suite_of
from visual_arft.bench.suites import Suite, suite
from visual_arft.errors import UserError
from visual_arft.metrics import METRICS
from visual_arft.types import Record, Trajectory


class Comparison(Record):
    """What one side scored above another on the same tasks, in points."""

    name: str
    overall: Cells
    splits: dict[str, Cells]
    better: int
    """Tasks on which the first side has the higher F1 (`paper`)."""
    worse: int


def compare(
    first: Path, second: Path, suite_name: str | None = None, phase: str | None = None
) -> Comparison:
    """What `first` scored above `second`, task by task.

    Each is a run's folder or a file of answers. Tasks are matched by their ids or, where a file
    has none, by position.

    Raises:
        UserError: they have no task in common, or a task's golds differ.
    """
    rules = suite(suite_name or suite_of(first) or suite_of(second))
    sides = [_rows_of(path, rules, phase) for path in (first, second)]
    name = f"{first} - {second}"
    rows, values = _differences(name, _matched(name, *sides), cjk=rules.cjk)
    f1 = values["paper"][:, 1]
    return Comparison(
        name=name,
        overall=cells(values),
        splits={label: cells(values, at) for label, at in groups([r.split for r in rows])},
        better=int((f1 > 0).sum()),
        worse=int((f1 < 0).sum()),
    )


def gain(
    after: Iterable[Trajectory],
    before: Iterable[Trajectory],
    *,
    metric: str = "paper",
    cjk: bool = False,
) -> Cell:
    """What `after` gained over `before`, in points, on the tasks that came through in both."""
    new, old = ([each.prediction for each in counted(map(outcome, s))] for s in (after, before))
    _, values = _differences("the gain", _matched("the gain", new, old), cjk=cjk)
    return cell(values[metric])


def _rows_of(path: Path, rules: Suite, phase: str | None) -> list[Prediction]:
    if is_file_of_answers(path):
        return read_predictions(path, rules)
    return [each.prediction for each in counted(outcomes(path, phase))]


Pairs = list[tuple[list[Prediction], list[Prediction]]]
"""For each task that both sides have, its predictions on either."""


def _matched(name: str, first: Sequence[Prediction], second: Sequence[Prediction]) -> Pairs:
    named = all(row.task is not None for row in (*first, *second))
    if not named and len(first) != len(second):
        raise UserError(
            f"{name}: {len(first)} and {len(second)} rows, and not all have an `id`; give files of "
            "the same rows, or rows with ids"
        )
    ours, theirs = (_by_key(rows, named=named) for rows in (first, second))
    pairs = [(ours[task], theirs[task]) for task in ours if task in theirs]
    if not pairs:
        raise UserError(f"{name}: no task in common; compare runs over the same tasks")
    return pairs


def _differences(name: str, pairs: Pairs, *, cjk: bool) -> tuple[list[Prediction], Table]:
    """The rows of the first side, one for each task, and what they score above the second's."""
    for (one, *_), (other, *_) in pairs:
        if one.golds != other.golds:
            raise UserError(
                f"{name}: task {one.task!r} has the answers {list(one.golds)} and "
                f"{list(other.golds)}; compare runs of the same benchmark"
            )
    ours, theirs = ([values_of(rows, cjk) for rows in side] for side in zip(*pairs, strict=True))
    values = {
        metric: np.array(
            [
                one[metric].mean(0) - other[metric].mean(0)
                for one, other in zip(ours, theirs, strict=True)
            ]
        )
        for metric in METRICS
    }
    return [one[0] for one, _ in pairs], values


def _by_key(rows: Sequence[Prediction], *, named: bool) -> dict[Hashable, list[Prediction]]:
    keyed: dict[Hashable, list[Prediction]] = {}
    for place, row in enumerate(rows):
        keyed.setdefault(row.task if named else place, []).append(row)
    return keyed
