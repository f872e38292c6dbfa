"""Endless streams of tasks and of demonstrations: what comes depends on its number alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visual_arft.config import Recipe
from visual_arft.errors import UserError
from visual_arft.synth.splits import stream
from visual_arft.types import Image, Task, Trajectory

Tasks = Callable[[int, int], Sequence[Task]]
"""`tasks(start, count)`: the next ones of a stream, the same for the same numbers."""

Demonstrations = Callable[[int, int], Sequence[Trajectory]]
"""The same, of finished episodes to learn from."""

_PRACTICE_EVERY = 4


def with_practice(shown: Demonstrations, practice: Demonstrations) -> Demonstrations:
    """Demonstrations with the base's own practice among them, so that reading is not forgotten."""

    def draw(start: int, count: int) -> list[Trajectory]:
        return [each for number in range(start, start + count) for each in _one(number)]

    def _one(number: int) -> Sequence[Trajectory]:
        return (practice if number % _PRACTICE_EVERY == 0 else shown)(number, 1)

    return draw


def split(recipe: Recipe, tasks: Sequence[Task]) -> tuple[Sequence[Task], Sequence[Task]]:
    """Tasks to train on and to measure on; which is which depends on the recipe's seed alone.

    Measured are tasks with an answer: of step tasks, those that should end the episode. The other
    steps of a measured question are left out of both.
    """
    held_out = recipe.data.held_out
    order = stream("held out", recipe.seed).sample(range(len(tasks)), len(tasks))
    kept = [place for place in order if tasks[place].answers][:held_out]
    measured = {_item(tasks[place]) for place in kept}
    rest = [place for place, task in enumerate(tasks) if _item(task) not in measured]
    if len(kept) < held_out or not rest:
        raise UserError(
            f"{recipe.data.source}: {len(tasks)} tasks, of which data.held_out = {held_out} are "
            "kept for measuring, all with an answer; lower data.held_out or give more tasks"
        )
    return [tasks[place] for place in rest], [tasks[place] for place in kept]


def _item(task: Task) -> tuple[str, tuple[Image, ...]]:
    """What a task asks, about what; its steps have it in common."""
    return task.question, task.images


def cycle(tasks: Sequence[Task], seed: int) -> Tasks:
    """An endless stream: all tasks in a new order, then all again."""

    def draw(start: int, count: int) -> list[Task]:
        return [_at(number) for number in range(start, start + count)]

    def _at(number: int) -> Task:
        epoch, place = divmod(number, len(tasks))
        order = stream("epoch", seed, epoch).sample(range(len(tasks)), len(tasks))
        return tasks[order[place]]

    return draw
