"""Playing a benchmark so that it can be interrupted: what is recorded is not played again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visual_arft.episode import Env, Episode
from visual_arft.errors import RunFailure, UserError
from visual_arft.policies import Policy
from visual_arft.rollout import play
from visual_arft.store import Store
from visual_arft.tools import Tools
from visual_arft.types import Completion, StopReason, Task, Trajectory

Progress = Callable[[int, int], None]
"""Told how many tasks are done, and of how many."""

GIVE_UP_AFTER = 16
"""Episodes in a row whose machinery failed: what is broken will not mend itself."""


@dataclass(frozen=True)
class Play:
    """How the tasks of a benchmark become trajectories."""

    env: Env
    """The rules."""
    tools: Tools
    """What the actions can ask for."""
    max_turns: int = 5
    """Turns after which an episode without an answer ends."""
    opening: Callable[[Task], Completion] | None = None
    """The first reply of an episode, where the rules and not the policy give it."""
    batch_size: int = 32
    """Episodes side by side."""
    freely: bool = False
    """Let each episode run ahead, for what answers one prompt at a time; else go in lockstep."""

    def episode(self, task: Task) -> Episode:
        """The game of a task, up to the policy's first turn."""
        episode = Episode(task, self.env, max_turns=self.max_turns)
        if self.opening is not None:
            episode.act(self.opening(task))
        return episode


async def run_suite(
    tasks: Sequence[Task],
    how: Play,
    policy: Callable[[], Policy],
    store: Store,
    *,
    phase: str = "",
    repeat: int = 0,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """A trajectory for each task, in order; only those are played that have no record yet.

    An episode whose machinery failed, a tool's or a model server's, is recorded, and played again
    by the next run. In lockstep, batches are the same however often the run is interrupted, so that
    not even the rounding of a local model depends on it.

    Args:
        tasks: what to play; the ids must differ.
        how: how to play it.
        policy: makes what chooses the actions; called only where something is left to play.
        store: where episodes are recorded as soon as they, or their batch, are played.
        phase: the part of the run that this is.
        repeat: how often the tasks have been played before this time.
        progress: told after each record.

    Raises:
        RunFailure: the machinery of `GIVE_UP_AFTER` episodes in a row failed.
    """
    done = recorded(tasks, store, phase, repeat)
    notes = {"phase": phase, "repeat": repeat}
    failed = 0

    def keep(played: Sequence[Trajectory]) -> None:
        nonlocal failed
        store.append(played, notes)
        done.update((each.task.id, each) for each in played)
        if progress is not None:
            progress(len(done), len(tasks))
        for each in played:
            failed = failed + 1 if each.stop_reason is StopReason.TOOL_FAILED else 0
            if failed >= GIVE_UP_AFTER:
                raise RunFailure(
                    f"{failed} episodes in a row failed, the last with: {each.failure}; mend that "
                    "and run the same command again"
                )

    size, workers = (1, how.batch_size) if how.freely else (how.batch_size, 1)
    parts = (tasks[start : start + size] for start in range(0, len(tasks), size))
    batches = iter([left for part in parts if (left := [t for t in part if t.id not in done])])

    async def work(policy: Policy) -> None:
        for batch in batches:
            keep(await play([how.episode(task) for task in batch], policy, how.tools))

    if len(done) < len(tasks):
        chosen = policy()
        await asyncio.gather(*(work(chosen) for _ in range(workers)))
    return [done[task.id] for task in tasks]


def recorded(
    tasks: Sequence[Task], store: Store, phase: str = "", repeat: int = 0
) -> dict[str, Trajectory]:
    """The episodes of these tasks that came through in an earlier run, by the task's id."""
    named = by_id(tasks)
    done: dict[str, Trajectory] = {}
    for entry in store:
        played = entry.trajectory
        if (entry.phase, entry.repeat) != (phase, repeat) or played.task.id not in named:
            continue
        if played.task != named[played.task.id]:
            raise UserError(
                f"{store.folder}: task {played.task.id!r} was recorded with another content; "
                "give another --out, or the data it was played with"
            )
        if played.stop_reason is not StopReason.TOOL_FAILED:
            done[played.task.id] = played
    return done


def by_id(tasks: Sequence[Task]) -> dict[str, Task]:
    """Tasks by their ids; raises `UserError` where two have the same."""
    named: dict[str, Task] = {}
    for task in tasks:
        if task.id in named:
            raise UserError(f"task id {task.id!r} occurs twice; give each task its own id")
        named[task.id] = task
    return named
