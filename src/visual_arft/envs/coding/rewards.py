"""Rewards of the coding agent: the paper's, for single decisions, and ours, for what really ran.

The paper scores what a reply says apart from its form, so its rewards read the text: a reply
without a thought can earn them, and loses the format reward.
"""

from __future__ import annotations

import re

from visual_arft.envs.coding.grammar import CODE, KINDS, PROBLEM, problem_names
from visual_arft.metrics import f1
from visual_arft.tags import ANSWER
from visual_arft.types import Action, Trajectory

_ROTATIONS = frozenset({"rotation90", "rotation180"})
_HALF_RIGHT = 0.5
_ANY_CODE = 0.9


def paper_reward(trajectory: Trajectory) -> float:
    """The paper's reward for the kind of action that a step task expects, from 0 to 1."""
    expected = trajectory.task.expected
    if expected is None:
        raise ValueError(
            f"task {trajectory.task.id!r} expects no single action; "
            "score whole episodes by their answer and by executed_reward"
        )
    rewards = {PROBLEM: problem_reward, CODE: code_reward_constant, ANSWER: answer_reward}
    return rewards[expected.kind](trajectory)


def problem_reward(trajectory: Trajectory) -> float:
    """1.0 for the gold set; 0.5 where gold is a rotation and one more, and only it was named."""
    gold = problem_names(trajectory.task.expected or _NOTHING)
    named = problem_names(_said(trajectory, PROBLEM))
    if named and named == gold:
        return 1.0
    return _HALF_RIGHT if len(gold) == 2 and len(named) == 1 and named <= gold & _ROTATIONS else 0.0


def code_reward_constant(trajectory: Trajectory) -> float:
    """0.9 for any reply that neither answers nor names a problem; nothing is run."""
    text = _reply(trajectory)
    return 0.0 if f"<{ANSWER}>" in text or f"<{PROBLEM}>" in text else _ANY_CODE


def answer_reward(trajectory: Trajectory) -> float:
    """F1 of the answer, Chinese by character; 0.0 for another kind of action."""
    return f1(_said(trajectory, ANSWER).content or None, trajectory.task.answers, cjk=True)


def executed_reward(trajectory: Trajectory) -> float:
    """The share of executed programs that ended well with an image; 1.0 if none was run."""
    results = [turn.result for turn in trajectory.turns if turn.result is not None]
    made = [result.error is None and bool(result.images) for result in results]
    return sum(made) / len(made) if made else 1.0


_NOTHING = Action(kind=ANSWER, content="")


def _said(trajectory: Trajectory, kind: str) -> Action:
    """What the last reply says in its only tag of this kind; nothing if it holds another kind."""
    text = _reply(trajectory)
    if any(f"<{other}>" in text for other in KINDS if other != kind):
        return _NOTHING
    found = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
    return Action(kind=kind, content=found[0].strip()) if len(found) == 1 else _NOTHING


def _reply(trajectory: Trajectory) -> str:
    return trajectory.turns[-1].completion.text
