"""From trajectories to training rows: which tokens were sampled, after what, and to what credit.

The ids are those that were sampled; nothing is decoded and tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visual_arft.errors import UserError
from visual_arft.types import Image, StopReason, Trajectory


@dataclass(frozen=True)
class Segment:
    """One turn to learn from: its prompt, its sampled tokens and their advantage."""

    task_id: str
    turn: int
    """Place in its trajectory, from 0; a step task's prefix does not count."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    old_logprobs: tuple[float, ...]
    """One for each of `token_ids`, under the policy that sampled them."""
    images: tuple[Image, ...]
    """The prompt's images, in the order of their placeholders."""
    advantage: float


@dataclass(frozen=True)
class Row:
    """One sequence to train on; `mask` is True where the policy wrote the token."""

    task_id: str
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    old_logprobs: tuple[float, ...]
    """One for each of `ids`; 0.0 where the policy did not write the token."""
    images: tuple[Image, ...]
    advantage: float


def segments(trajectory: Trajectory, advantage: float) -> list[Segment]:
    """One segment for each turn; `UserError` names task and turn where tokens are missing."""
    task = trajectory.task.id
    if trajectory.stop_reason is StopReason.TOOL_FAILED:
        raise ValueError(
            f"task {task!r}: a tool failed ({trajectory.failure}); set the episode aside, "
            "it is never trained on"
        )
    return [_segment(trajectory, turn, advantage) for turn in range(len(trajectory.turns))]


def rows(segments: Sequence[Segment]) -> list[Row]:
    """The fewest rows that hold every sampled token once, after exactly what it was sampled after.

    A turn whose prompt begins with all of the turn before it (tokens and images) goes on with that
    turn's row; any other starts a row of its own. A trajectory's segments stand together, in order.
    """
    chains: list[list[Segment]] = []
    for segment in segments:
        if chains and _extends(segment, chains[-1][-1]):
            chains[-1].append(segment)
        else:
            chains.append([segment])
    return [_row(chain) for chain in chains]


def _segment(trajectory: Trajectory, number: int, advantage: float) -> Segment:
    turn = trajectory.turns[number]
    prompt_ids, token_ids = turn.completion.prompt_ids, turn.completion.token_ids
    logprobs = turn.completion.logprobs
    where = f"task {trajectory.task.id!r}, turn {number}"
    if prompt_ids is None or token_ids is None or logprobs is None:
        raise UserError(
            f"{where}: the completion has no token ids or no logprobs, so it cannot be trained on; "
            "sample with a backend that reports them"
        )
    if len(token_ids) != len(logprobs):
        raise UserError(
            f"{where}: {len(token_ids)} token ids and {len(logprobs)} logprobs; sample with a "
            "backend that reports one for each"
        )
    return Segment(
        task_id=trajectory.task.id,
        turn=number,
        prompt_ids=prompt_ids,
        token_ids=token_ids,
        old_logprobs=logprobs,
        images=turn.prompt.images,
        advantage=advantage,
    )


def _extends(segment: Segment, before: Segment) -> bool:
    so_far = before.prompt_ids + before.token_ids
    return (
        (segment.task_id, segment.turn) == (before.task_id, before.turn + 1)
        and segment.advantage == before.advantage
        and segment.prompt_ids[: len(so_far)] == so_far
        and segment.images[: len(before.images)] == before.images
    )


def _row(chain: Sequence[Segment]) -> Row:
    ids: list[int] = []
    mask: list[bool] = []
    old_logprobs: list[float] = []
    for segment in chain:
        given = segment.prompt_ids[len(ids) :]
        ids += [*given, *segment.token_ids]
        mask += [False] * len(given) + [True] * len(segment.token_ids)
        old_logprobs += [0.0] * len(given) + list(segment.old_logprobs)
    last = chain[-1]
    return Row(
        task_id=last.task_id,
        ids=tuple(ids),
        mask=tuple(mask),
        old_logprobs=tuple(old_logprobs),
        images=last.images,
        advantage=last.advantage,
    )
