"""Scoring what was played or predicted: exact match and F1 in percent, with 95% intervals.

No answer scores 0 and stays in the count. An episode that ended because a tool's machinery failed
says nothing about the policy: it is counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visual_arft.bench.predictions import Prediction, read_predictions
from visual_arft.bench.suites import suite
from visual_arft.errors import UserError
from visual_arft.metrics import METRICS, Metric, interval
from visual_arft.store import open_run
from visual_arft.types import Record, StopReason, Trajectory

_WITHOUT_ANSWER = (StopReason.MALFORMED, StopReason.TRUNCATED, StopReason.MAX_TURNS)

Interval = tuple[float, float]


class Cell(Record):
    """The scores of some tasks under one metric, in percent to two decimals."""

    n: int
    em: float
    em_ci: Interval
    f1: float
    f1_ci: Interval


Cells = dict[str, Cell]
"""A cell for each metric, by the metric's name."""


class Report(Record):
    """How well something answered."""

    name: str
    overall: Cells
    splits: dict[str, Cells]
    """By split, where there is more than one."""
    kinds: dict[str, Cells]
    """By kind of problem, where there is more than one."""
    counts: dict[str, int]
    """`unanswered` of n, the reasons among them, and `tool_failed`, which are not among n."""
    mean_turns: float | None = None
    """Turns of an episode; None where a file of answers tells nothing of turns."""


def score_path(path: Path, suite_name: str | None = None, phase: str | None = None) -> Report:
    """The report on a run's folder or on a file of predictions.

    Args:
        path: a folder with records, or a JSON or JSON-lines file.
        suite_name: the benchmark whose rules hold; None for the plain ones.
        phase: which part of a run counts; None where it has but one.
    """
    rules = suite(suite_name)
    name = suite_name or path.stem
    if path.suffix in (".json", ".jsonl"):
        return _report(name, read_predictions(path, rules), cjk=rules.cjk)
    return _report_on_outcomes(name, _outcomes(path, phase), cjk=rules.cjk)


def score(trajectories: Iterable[Trajectory], *, cjk: bool = False, name: str = "") -> Report:
    """The report on trajectories; a failed episode that was played again since is forgotten."""
    return _report_on_outcomes(name, [_outcome(each) for each in trajectories], cjk=cjk)


def gain(
    after: Iterable[Trajectory],
    before: Iterable[Trajectory],
    *,
    metric: str = "paper",
    cjk: bool = False,
) -> Cell:
    """What `after` gained over `before`, in points, on the tasks that came through in both."""
    new, old = (
        {each.task: each for each in _counted(map(_outcome, side))} for side in (after, before)
    )
    shared = [task for task in new if task in old]
    if not shared:
        raise UserError("the two sides have no task in common; compare runs over the same tasks")
    ours, theirs = (
        _values([side[task].prediction for task in shared], METRICS[metric], cjk)
        for side in (new, old)
    )
    return _cell(ours - theirs)


class _Outcome(NamedTuple):
    """What the scoring needs of a trajectory, so that a long run fits in memory."""

    task: str
    prediction: Prediction
    stop_reason: StopReason
    turns: int


def _outcome(trajectory: Trajectory) -> _Outcome:
    task = trajectory.task
    prediction = Prediction(trajectory.answer, task.answers, task.split, task.kind)
    return _Outcome(task.id, prediction, trajectory.stop_reason, len(trajectory.turns))


def _outcomes(folder: Path, phase: str | None) -> list[_Outcome]:
    phases: defaultdict[str, list[_Outcome]] = defaultdict(list)
    for entry in open_run(folder):
        phases[entry.phase].append(_outcome(entry.trajectory))
    if not phases:
        raise UserError(f"{folder}: holds no episodes yet; let the run go on first")
    names = ", ".join(sorted(phases))
    if phase is None and len(phases) > 1:
        raise UserError(f"{folder}: holds the phases {names}; choose one with --phase")
    if phase is not None and phase not in phases:
        raise UserError(f"{folder}: has no phase {phase!r}; choose one of {names}")
    return next(iter(phases.values())) if phase is None else phases[phase]


def _counted(outcomes: Iterable[_Outcome]) -> list[_Outcome]:
    return [each for each in outcomes if each.stop_reason is not StopReason.TOOL_FAILED]


def _report_on_outcomes(name: str, outcomes: Sequence[_Outcome], *, cjk: bool) -> Report:
    counted = _counted(outcomes)
    if not counted:
        raise UserError(
            f"{name}: none of {len(outcomes)} episodes came through; mend the tools, run again"
        )
    failed = {each.task for each in outcomes} - {each.task for each in counted}
    reasons = Counter(each.stop_reason for each in counted)
    report = _report(name, [each.prediction for each in counted], cjk=cjk)
    counts = {
        **report.counts,
        **{reason.value: reasons[reason] for reason in _WITHOUT_ANSWER},
        StopReason.TOOL_FAILED.value: len(failed),
    }
    turns = round(sum(each.turns for each in counted) / len(counted), 2)
    return report.model_copy(update={"counts": counts, "mean_turns": turns})


def _report(name: str, rows: Sequence[Prediction], *, cjk: bool) -> Report:
    values = {metric: _values(rows, scores, cjk) for metric, scores in METRICS.items()}

    def cells(chosen: Sequence[int]) -> Cells:
        return {metric: _cell(table[chosen]) for metric, table in values.items()}

    return Report(
        name=name,
        overall=cells(range(len(rows))),
        splits={label: cells(chosen) for label, chosen in _groups([row.split for row in rows])},
        kinds={label: cells(chosen) for label, chosen in _groups([row.kind for row in rows])},
        counts={"unanswered": sum(not (row.answer or "").strip() for row in rows)},
    )


def _groups(labels: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The positions of each label in the order of first occurrence; none where all are alike."""
    groups: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        groups.setdefault(label, []).append(position)
    return list(groups.items()) if len(groups) > 1 else []


def _values(rows: Sequence[Prediction], metric: Metric, cjk: bool) -> NDArray[np.float64]:
    """Rows x 2: exact match and F1, in percent."""
    return 100 * np.array(
        [[score(row.answer, row.golds, cjk=cjk) for score in metric] for row in rows]
    )


def _cell(values: NDArray[np.float64]) -> Cell:
    (em, em_ci), (f1, f1_ci) = (_mean(column) for column in values.T)
    return Cell(n=len(values), em=em, em_ci=em_ci, f1=f1, f1_ci=f1_ci)


def _mean(values: NDArray[np.float64]) -> tuple[float, Interval]:
    low, high = interval(values.tolist())
    return round(float(values.mean()), 2), (round(low, 2), round(high, 2))
