"""Rewards: functions of a finished episode, and their weighted sum.

A reward reads the record and nothing else, so a run can be scored again at any time. Here are the
rewards of every environment; its own stand beside it. To add one, write a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from visual_arft.errors import UserError
from visual_arft.metrics import em, f1
from visual_arft.tags import ANSWER
from visual_arft.types import Action, Record, StopReason, Task, Trajectory

Reward = Callable[[Trajectory], float]
"""One number for a finished episode, from 0 to 1."""


class Scores(Record):
    """What one episode earned."""

    rewards: dict[str, float]
    """Each reward by its name, before weighting."""
    total: float
    """The weighted sum: what the policy learns from."""


def score(
    trajectory: Trajectory, rewards: Mapping[str, Reward], weights: Mapping[str, float]
) -> Scores:
    """The rewards a rubric names, and their weighted sum.

    Args:
        trajectory: the finished episode.
        rewards: what exists, by name.
        weights: the rubric. A reward that it does not name is not computed.

    Raises:
        UserError: the rubric names a reward that does not exist.
        ValueError: a tool's machinery failed, so the episode says nothing about the policy.
    """
    if trajectory.stop_reason is StopReason.TOOL_FAILED:
        raise ValueError(
            f"task {trajectory.task.id!r}: a tool failed ({trajectory.failure}), so its episode "
            "has no score; set it aside"
        )
    if unknown := sorted(set(weights) - set(rewards)):
        raise UserError(
            f"no reward is named {unknown[0]!r}; choose from {', '.join(sorted(rewards))}"
        )
    values = {name: rewards[name](trajectory) for name in weights}
    return Scores(rewards=values, total=sum(weights[name] * values[name] for name in weights))


def format_reward(trajectory: Trajectory) -> float:
    """1.0 for replies that keep the grammar, else 0.0.

    A step task asks for a well-formed reply of the expected kind; a whole episode for an answer at
    its end, which it only reaches when every reply was well-formed.
    """
    expected = trajectory.task.expected
    if expected is None:
        return float(trajectory.stop_reason is StopReason.ANSWERED)
    action = trajectory.turns[-1].action
    return float(isinstance(action, Action) and action.kind == expected.kind)


def answer_f1(*, cjk: bool = False) -> Reward:
    """The reward for an answer near a gold one: the paper's F1; 0.0 where there is no answer.

    Args:
        cjk: compare Chinese text by character, as MAT-Coding does.
    """
    return lambda trajectory: f1(trajectory.answer, _golds(trajectory.task), cjk=cjk)


def answer_em(*, cjk: bool = False) -> Reward:
    """The reward for an answer equal to a gold one, after the paper's normalisation.

    Args:
        cjk: compare Chinese text without its blanks and punctuation, as MAT-Coding does.
    """
    return lambda trajectory: em(trajectory.answer, _golds(trajectory.task), cjk=cjk)


def _golds(task: Task) -> Iterable[str]:
    if task.expected is None:
        return task.answers
    # A step that should search or run code earns nothing by answering early, even when it is right.
    return (*task.answers, task.expected.content) if task.expected.kind == ANSWER else ()
