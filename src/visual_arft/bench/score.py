"""Scoring what was played or predicted: exact match and F1 in percent, with 95% intervals.

No answer scores 0 and stays in the count. An episode that ended because a tool's or a server's
machinery failed says nothing about the policy: it is counted apart. A task that was played several
times counts once, with its mean.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import stdev

import numpy as np
from numpy.typing import NDArray

from visual_arft.bench.cells import Cells, Table, cells, groups, values_of
from visual_arft.bench.outcomes import Outcome, Tokens, counted, outcome, outcomes
from visual_arft.bench.predictions import Prediction, is_file_of_answers, read_predictions
from visual_arft.bench.settings import suite_of
from visual_arft.bench.suites import suite
from visual_arft.errors import UserError
from visual_arft.types import Record, StopReason, Trajectory

_WITHOUT_ANSWER = (StopReason.MALFORMED, StopReason.TRUNCATED, StopReason.MAX_TURNS)


class Repeats(Record):
    """How far several plays of the same tasks agree, by the paper's metric, in percent."""

    em: tuple[float, ...]
    """Of each play."""
    f1: tuple[float, ...]
    em_sd: float
    """Standard deviation between plays (n - 1)."""
    f1_sd: float
    pass_at_k: float
    """Tasks answered exactly in at least one of the k plays, of those that came through in all."""


class Report(Record):
    """How well something answered."""

    name: str
    overall: Cells
    splits: dict[str, Cells]
    """By split, where there is more than one."""
    kinds: dict[str, Cells]
    """By kind of problem, where there is more than one."""
    counts: dict[str, int]
    """Episodes: `unanswered`, the reasons among them, `tool_errors` that the model read, and
    `tool_failed`, which are not scored."""
    mean_turns: float | None = None
    """Turns of an episode; None where a file of answers tells nothing of turns."""
    repeats: Repeats | None = None
    """None where nothing was played more than once."""
    tokens: Tokens | None = None
    """None where nobody counted."""


def score_path(path: Path, suite_name: str | None = None, phase: str | None = None) -> Report:
    """The report on a run's folder or on a file of predictions.

    Args:
        path: a folder with records, or a JSON or JSON-lines file.
        suite_name: the benchmark whose rules hold; None for the run's own, or else the plain ones.
        phase: which part of a run counts; None where it has but one.
    """
    suite_name = suite_name or suite_of(path)
    rules = suite(suite_name)
    name = suite_name or path.stem
    if is_file_of_answers(path):
        rows = read_predictions(path, rules)
        return _report(name, rows, values_of(rows, rules.cjk))
    return _report_on_outcomes(name, outcomes(path, phase), cjk=rules.cjk)


def score(*plays: Iterable[Trajectory], cjk: bool = False, name: str = "") -> Report:
    """The report on the trajectories of one play of some tasks, or of several.

    A failed episode that was played again since is forgotten.
    """
    played = [outcome(each, number) for number, play in enumerate(plays) for each in play]
    return _report_on_outcomes(name, played, cjk=cjk)


def _report_on_outcomes(name: str, played: Sequence[Outcome], *, cjk: bool) -> Report:
    through = counted(played)
    if not through:
        raise UserError(
            f"{name}: none of {len(played)} episodes came through; mend the tools, run again"
        )
    missing = {each.key for each in played} - {each.key for each in through}
    reasons = Counter(each.stop_reason for each in through)
    rows = [each.prediction for each in through]
    values = values_of(rows, cjk)
    report = _report(name, *_by_task(rows, values))
    told = [each.tokens for each in through if each.tokens is not None]
    more = {
        "counts": {
            "unanswered": sum(not each.prediction.is_answered for each in through),
            **{reason.value: reasons[reason] for reason in _WITHOUT_ANSWER},
            "tool_errors": sum(each.tool_errors for each in through),
            StopReason.TOOL_FAILED.value: len(missing),
        },
        "mean_turns": round(sum(each.turns for each in through) / len(through), 2),
        "repeats": _repeats(through, values["paper"]),
        "tokens": sum(told, start=Tokens()) if told else None,
    }
    return report.model_copy(update=more)


def _repeats(outcomes: Sequence[Outcome], values: NDArray[np.float64]) -> Repeats | None:
    plays = sorted({each.repeat for each in outcomes})
    if len(plays) < 2:
        return None
    means = [
        values[[place for place, each in enumerate(outcomes) if each.repeat == play]].mean(0)
        for play in plays
    ]
    exact: defaultdict[str | None, list[float]] = defaultdict(list)
    for each, (em, _) in zip(outcomes, values, strict=True):
        exact[each.prediction.task].append(em)
    complete = [max(task) for task in exact.values() if len(task) == len(plays)]
    em, f1 = ([round(float(mean[column]), 2) for mean in means] for column in (0, 1))
    return Repeats(
        em=tuple(em),
        f1=tuple(f1),
        em_sd=round(stdev(em), 2),
        f1_sd=round(stdev(f1), 2),
        pass_at_k=round(sum(complete) / len(complete), 2) if complete else 0.0,
    )


def _report(name: str, rows: Sequence[Prediction], values: Table) -> Report:
    return Report(
        name=name,
        overall=cells(values),
        splits={label: cells(values, at) for label, at in groups([row.split for row in rows])},
        kinds={label: cells(values, at) for label, at in groups([row.kind for row in rows])},
        counts={"unanswered": sum(not row.is_answered for row in rows)},
    )


def _by_task(rows: Sequence[Prediction], values: Table) -> tuple[Sequence[Prediction], Table]:
    """A row for each task, with the mean of its plays."""
    places: defaultdict[str | None, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.task].append(place)
    means = {
        metric: np.array([table[at].mean(0) for at in places.values()])
        for metric, table in values.items()
    }
    return [rows[at[0]] for at in places.values()], means
