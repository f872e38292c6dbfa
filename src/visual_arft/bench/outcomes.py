"""What an episode comes down to, once it is only to be counted and scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from visual_arft.bench.predictions import Prediction
from visual_arft.errors import UserError
from visual_arft.store import open_run
from visual_arft.types import Record, StopReason, Trajectory


class Tokens(Record):
    """What the model read and wrote, over all plays."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        """Of both."""
        return Tokens(
            prompt=self.prompt + other.prompt, completion=self.completion + other.completion
        )


class Outcome(NamedTuple):
    """What the scoring needs of a trajectory, so that a long run fits in memory."""

    prediction: Prediction
    repeat: int
    stop_reason: StopReason
    turns: int
    tool_errors: int
    tokens: Tokens | None

    @property
    def key(self) -> tuple[str | None, int]:
        """Which play of which task it is."""
        return self.prediction.task, self.repeat


def outcome(trajectory: Trajectory, repeat: int = 0) -> Outcome:
    """What a trajectory comes down to."""
    task, turns = trajectory.task, trajectory.turns
    return Outcome(
        Prediction(trajectory.answer, task.answers, task.split, task.kind, task.id),
        repeat,
        trajectory.stop_reason,
        len(turns),
        sum(turn.result is not None and turn.result.error is not None for turn in turns),
        _tokens(trajectory),
    )


def _tokens(trajectory: Trajectory) -> Tokens | None:
    """What a server counted, or else the ids; a reply that the rules gave counts nothing."""
    prompt = completion = 0
    told = False
    for each in (turn.completion for turn in trajectory.turns):
        if each.usage is not None:
            prompt += each.usage.prompt_tokens
            completion += each.usage.completion_tokens
        elif each.token_ids is not None:
            prompt += len(each.prompt_ids or ())
            completion += len(each.token_ids)
        told = told or each.usage is not None or each.token_ids is not None
    return Tokens(prompt=prompt, completion=completion) if told else None


def outcomes(folder: Path, phase: str | None) -> list[Outcome]:
    """All of a run's phase; raises `UserError` where it is not clear which that is."""
    phases: defaultdict[str, list[Outcome]] = defaultdict(list)
    for entry in open_run(folder):
        phases[entry.phase].append(outcome(entry.trajectory, entry.repeat))
    if not phases:
        raise UserError(f"{folder}: holds no episodes yet; let the run go on first")
    names = ", ".join(sorted(phases))
    if phase is None and len(phases) > 1:
        raise UserError(f"{folder}: holds the phases {names}; choose one with --phase")
    if phase is not None and phase not in phases:
        raise UserError(f"{folder}: has no phase {phase!r}; choose one of {names}")
    return next(iter(phases.values())) if phase is None else phases[phase]


def counted(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that say something about the policy."""
    return [each for each in outcomes if each.stop_reason is not StopReason.TOOL_FAILED]
