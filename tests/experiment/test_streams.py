from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.config import DataConfig, Recipe
from visual_arft.errors import UserError
from visual_arft.experiment.streams import cycle, split, with_practice
from visual_arft.types import StopReason, Task, Trajectory


def tasks(count: int, *, answers: tuple[str, ...] = ("7",)) -> list[Task]:
    return [Task(id=str(number), question=f"{number}?", answers=answers) for number in range(count)]


def recipe(held_out: int, seed: int = 0) -> Recipe:
    data = DataConfig(source="rows.json", held_out=held_out)
    return Recipe(env="coding", data=data, rubric={"answer": 1.0}, seed=seed)


@given(st.integers(2, 40), st.data(), st.integers(0, 5))
def test_no_task_is_trained_on_and_measured_and_none_is_lost(
    count: int, data: st.DataObject, seed: int
):
    held_out = data.draw(st.integers(1, count - 1))
    train, test = split(recipe(held_out, seed), tasks(count))
    assert len(test) == held_out
    assert not {task.id for task in train} & {task.id for task in test}
    assert len(train) + len(test) == count
    assert split(recipe(held_out, seed), tasks(count)) == (train, test)


def test_another_seed_holds_out_other_tasks():
    held_out = [split(recipe(10, seed), tasks(40))[1] for seed in (0, 1)]
    assert held_out[0] != held_out[1]


def test_only_what_has_an_answer_is_measured():
    some = [*tasks(4), *(task.model_copy(update={"answers": ()}) for task in tasks(12)[4:])]
    train, test = split(recipe(3), some)
    assert all(task.answers for task in test)
    assert len(train) == 9


def test_other_steps_of_a_measured_question_are_not_trained_on():
    first_steps = [task.model_copy(update={"answers": ()}) for task in tasks(6)]
    train, test = split(recipe(2), [*first_steps, *tasks(6)])
    assert len(test) == 2
    assert len(train) == 8
    assert not {task.question for task in train} & {task.question for task in test}


@pytest.mark.parametrize("held_out", [4, 5])
def test_a_file_that_is_too_small_to_hold_out_from_is_an_error(held_out: int):
    with pytest.raises(UserError, match=rf"4 tasks, of which data.held_out = {held_out}.*; lower"):
        split(recipe(held_out), tasks(4))


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 3))
def test_every_epoch_has_each_task_once(count: int, start: int, seed: int):
    stream = cycle(tasks(count), seed)
    drawn = stream(0, 3 * count)
    for epoch in range(3):
        assert {task.id for task in drawn[epoch * count : (epoch + 1) * count]} == {
            str(number) for number in range(count)
        }
    assert stream(start, 5) == stream(0, start + 5)[start:]


def test_epochs_come_in_orders_of_their_own():
    drawn = cycle(tasks(20), 0)(0, 40)
    assert drawn[:20] != drawn[20:]
    assert drawn != cycle(tasks(20), 1)(0, 40)


def test_practice_stands_among_the_demonstrations_at_every_place_alike():
    def named(name: str):
        def draw(start: int, count: int) -> list[Trajectory]:
            return [
                Trajectory(
                    task=Task(id=f"{name}-{number}", question=f"{number}?", answers=()),
                    turns=(),
                    stop_reason=StopReason.ANSWERED,
                )
                for number in range(start, start + count)
            ]

        return draw

    mixed = with_practice(named("shown"), named("practice"))
    ids = [each.task.id for each in mixed(0, 8)]
    assert [name.split("-")[1] for name in ids] == list("01234567")
    assert sum(name.startswith("practice") for name in ids) == 2
    assert [each.task.id for each in mixed(5, 3)] == ids[5:]
