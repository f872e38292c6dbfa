"""Playing a benchmark so that it can be interrupted: what is recorded is not played again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visual_arft.episode import Env, Episode
from visual_arft.errors import UserError
from visual_arft.policies import Policy
from visual_arft.rollout import play
from visual_arft.store import Store
from visual_arft.tools import Tools
from visual_arft.types import StopReason, Task, Trajectory

Progress = Callable[[int, int], None]
"""Told how many tasks are done, and of how many."""


async def run_suite(
    tasks: Sequence[Task],
    env: Env,
    policy: Policy,
    tools: Tools,
    store: Store,
    *,
    max_turns: int = 5,
    batch_size: int = 32,
    phase: str = "",
    progress: Progress | None = None,
) -> list[Trajectory]:
    """A trajectory for each task, in order; only those are played that the phase has no record of.

    An episode whose tools failed is recorded, and played again by the next run.

    Args:
        tasks: what to play; the ids must differ.
        env: the rules.
        policy: what chooses the actions.
        tools: what the actions can ask for.
        store: where each batch is recorded as soon as it is played.
        max_turns: turns after which an episode without an answer ends.
        batch_size: episodes played in lockstep.
        phase: the part of the run that this is.
        progress: told after each batch.
    """
    done = recorded(tasks, store, phase)
    waiting = [task for task in tasks if task.id not in done]
    for start in range(0, len(waiting), batch_size):
        batch = waiting[start : start + batch_size]
        episodes = [Episode(task, env, max_turns=max_turns) for task in batch]
        played = await play(episodes, policy, tools)
        store.append(played, {"phase": phase})
        done.update((each.task.id, each) for each in played)
        if progress is not None:
            progress(len(done), len(tasks))
    return [done[task.id] for task in tasks]


def recorded(tasks: Sequence[Task], store: Store, phase: str = "") -> dict[str, Trajectory]:
    """The episodes of these tasks that came through in an earlier run, by the task's id."""
    by_id = {task.id: task for task in tasks}
    if len(by_id) < len(tasks):
        twice = next(task.id for at, task in enumerate(tasks) if task.id in _ids(tasks[:at]))
        raise UserError(f"task id {twice!r} occurs twice; give each task its own id")
    done: dict[str, Trajectory] = {}
    for entry in store:
        played = entry.trajectory
        if entry.phase != phase or played.task.id not in by_id:
            continue
        if played.task != by_id[played.task.id]:
            raise UserError(
                f"{store.folder}: task {played.task.id!r} was recorded with another content; "
                "give another --out, or the data it was played with"
            )
        if played.stop_reason is not StopReason.TOOL_FAILED:
            done[played.task.id] = played
    return done


def _ids(tasks: Sequence[Task]) -> set[str]:
    return {task.id for task in tasks}
