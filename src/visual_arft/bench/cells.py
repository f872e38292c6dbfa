"""Tables of scores, and what is read from them: means in percent with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visual_arft.bench.predictions import Prediction
from visual_arft.metrics import METRICS, interval
from visual_arft.types import Record

Interval = tuple[float, float]


class Cell(Record):
    """The scores of some tasks under one metric, or their differences, in percent."""

    n: int
    em: float
    em_ci: Interval
    f1: float
    f1_ci: Interval


Cells = dict[str, Cell]
"""A cell for each metric, by the metric's name."""


Table = dict[str, NDArray[np.float64]]
"""For each metric, rows x 2: exact match and F1, in percent."""


def groups(labels: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The positions of each label in the order of first occurrence; none where all are alike."""
    groups: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        groups.setdefault(label, []).append(position)
    return list(groups.items()) if len(groups) > 1 else []


def values_of(rows: Sequence[Prediction], cjk: bool) -> Table:
    """What each row scores."""
    scores = list({score for metric in METRICS.values() for score in metric})
    # Row by row: a text's words are found once for all scores, while they are remembered.
    table = 100 * np.array(
        [[score(row.answer, row.golds, cjk=cjk) for score in scores] for row in rows]
    )
    return {
        name: table[:, [scores.index(score) for score in metric]]
        for name, metric in METRICS.items()
    }


def cells(values: Table, at: Sequence[int] | None = None) -> Cells:
    """The means of all rows, or of those `at` some places."""
    return {metric: cell(table if at is None else table[at]) for metric, table in values.items()}


def cell(values: NDArray[np.float64]) -> Cell:
    """The means of rows x 2 and their intervals."""
    (em, em_ci), (f1, f1_ci) = (_mean(column) for column in values.T)
    return Cell(n=len(values), em=em, em_ci=em_ci, f1=f1, f1_ci=f1_ci)


def _mean(values: NDArray[np.float64]) -> tuple[float, Interval]:
    low, high = interval(values.tolist())
    return round(float(values.mean()), 2), (round(low, 2), round(high, 2))
