from __future__ import annotations

import json

import pytest

from visual_arft.bench.compare import compare, gain
from visual_arft.errors import UserError
from visual_arft.store import Store
from visual_arft.types import Action, Completion, Prompt, StopReason, Task, Trajectory, Turn


def answers(path, rows):
    path.write_text(json.dumps(rows))
    return path


def row(answer, gt="red tower", **more):
    return {"pred_answer": answer, "gt": gt, **more}


def played(name, answer, *, stop="answered"):
    action = Action(kind="answer", content=answer)
    turn = Turn(prompt=Prompt(messages=()), completion=Completion(text=""), action=action)
    task = Task(id=name, question="", answers=("red tower",))
    return Trajectory(task=task, turns=(turn,), stop_reason=StopReason(stop))


def test_a_gain_is_taken_task_by_task():
    after = [
        played("1", "red tower"),
        played("2", "red tower"),
        played("5", "", stop="tool_failed"),
    ]
    before = [played("2", "tower"), played("1", "blue"), played("5", "red tower")]
    cell = gain(after, before)
    # EM: 1 - 0 and 1 - 0; F1: 1 - 0 and 1 - 2/3; task 5 came through on one side only.
    assert (cell.n, cell.em, cell.f1) == (2, 100.0, 66.67)
    assert cell.em_ci == (100.0, 100.0)


def test_files_without_ids_are_compared_row_by_row(tmp_path):
    first = answers(tmp_path / "a.json", [row("red tower"), row("tower"), row("blue")])
    second = answers(tmp_path / "b.json", [row("tower"), row("tower"), row("red tower")])
    found = compare(first, second)
    # EM: 1 - 0, 0, 0 - 1; F1: 1 - 2/3, 0, 0 - 1.
    paper = found.overall["paper"]
    assert (paper.n, paper.em, paper.f1) == (3, 0.0, -22.22)
    assert paper.f1_ci[0] <= paper.f1 <= paper.f1_ci[1]
    assert (found.better, found.worse) == (1, 1)


def test_ids_match_rows_in_any_order_and_number(tmp_path):
    first = answers(tmp_path / "a.json", [row("red tower", id=1), row("x", id=2)])
    second = answers(tmp_path / "b.json", [row("x", id="3"), row("x", id="1")])
    assert compare(first, second).overall["paper"].em == 100.0


def test_a_run_is_compared_with_a_file_of_answers_and_repetitions_count_with_their_mean(tmp_path):
    store = Store(tmp_path / "run")
    store.append([played("1", "red tower"), played("2", "x")], {"repeat": 0})
    store.append([played("1", "x"), played("2", "y", stop="tool_failed")], {"repeat": 1})
    other = answers(tmp_path / "b.json", [row("red tower", id=2), row("x", id=1)])
    cell = compare(tmp_path / "run", other).overall["paper"]
    # Task 1: a half over 0; task 2: 0 over 1, its failed play left out.
    assert (cell.n, cell.em) == (2, -25.0)


def test_what_cannot_be_matched_is_an_error(tmp_path):
    one = answers(tmp_path / "a.json", [row("x")])
    two = answers(tmp_path / "b.json", [row("x"), row("x")])
    with pytest.raises(UserError, match="1 and 2 rows, and not all have an `id`"):
        compare(one, two)
    other = answers(tmp_path / "c.json", [row("x", gt="blue")])
    with pytest.raises(UserError, match=r"answers \['red tower'\] and \['blue'\]; compare runs of"):
        compare(one, other)
    first, second = ([played(name, "x")] for name in "ab")
    with pytest.raises(UserError, match="no task in common"):
        gain(first, second)


def test_splits_of_a_whole_benchmark_are_compared_too(tmp_path):
    first = answers(tmp_path / "a.json", [row("red tower")] * 200)
    second = answers(tmp_path / "b.json", [row("red tower")] * 70 + [row("x")] * 130)
    splits = compare(first, second, "mat-coding").splits
    assert {name: cells["paper"].em for name, cells in splits.items()} == {
        "simple": 0.0,
        "hard": 100.0,
    }
