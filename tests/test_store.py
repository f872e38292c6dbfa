from __future__ import annotations

import io
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from visual_arft.errors import UserError
from visual_arft.store import Store, open_run
from visual_arft.types import (
    Action,
    Completion,
    Message,
    Prompt,
    StopReason,
    Task,
    Trajectory,
    Turn,
)


def played(name: str, *, text: str = "7", logprob: float = -0.5) -> Trajectory:
    turn = Turn(
        prompt=Prompt(messages=(Message(role="user", text=f"What is {name}?"),)),
        completion=Completion(text=text, token_ids=(3, 5), logprobs=(logprob, -1.25)),
        action=Action(kind="answer", content=text),
    )
    task = Task(id=name, question=f"What is {name}?", answers=("7",))
    return Trajectory(task=task, turns=(turn,), stop_reason=StopReason.ANSWERED)


def names(store: Store) -> list[str]:
    return [entry.trajectory.task.id for entry in store]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8")),
    logprob=st.floats(max_value=0, allow_nan=False, allow_infinity=False),
)
def test_what_is_read_equals_what_was_recorded(tmp_path_factory, text, logprob):
    store = Store(tmp_path_factory.mktemp("run"))
    trajectory = played("a", text=text, logprob=logprob)
    store.append([trajectory], {"phase": "trained", "step": 3})
    [entry] = Store(store.folder)
    assert entry.trajectory == trajectory
    assert entry.phase == "trained"
    assert entry.meta == {"phase": "trained", "step": 3}


@pytest.mark.parametrize("lost", [1, 20, 200])
def test_a_line_torn_by_a_kill_is_ignored_and_cut_by_the_next_append(tmp_path, lost):
    store = Store(tmp_path)
    store.append([played("a"), played("b")])
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(path.read_bytes()[:-lost])
    assert names(store) == ["a"]
    store.append([played("c")])
    assert names(store) == ["a", "c"]


def test_a_torn_line_longer_than_a_block_is_cut_whole(tmp_path):
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(b"x" * 200_000)
    store = Store(tmp_path)
    store.append([played("a")])
    assert names(store) == ["a"]


def test_a_full_disk_keeps_earlier_records_and_says_what_to_do(tmp_path):
    store = Store(tmp_path)
    store.append([played("a")])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (tmp_path / "trajectories.jsonl").stat().st_size + 50
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(UserError, match=r"trajectories\.jsonl: cannot be written.*free space"):
            store.append([played("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "trajectories.jsonl").read_bytes().endswith(b"}\n")
    store.append([played("c")])
    assert names(store) == ["a", "c"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="give a folder that can be written"):
        Store(tmp_path / "run").append([played("a")])


def test_a_broken_line_in_the_middle_is_named_with_its_number(tmp_path):
    store = Store(tmp_path)
    store.append([played("a")])
    with (tmp_path / "trajectories.jsonl").open("a") as file:
        file.write('{"trajectory": 1, "meta": {}}\n')
    with pytest.raises(UserError, match=r"trajectories\.jsonl, line 2: not a record"):
        names(store)


def test_an_entry_is_found_by_its_number(tmp_path):
    store = Store(tmp_path)
    store.append([played("a"), played("b")])
    entry = store.entry(1)
    assert entry is not None
    assert entry.trajectory.task.id == "b"
    assert store.entry(2) is None


def test_metrics_and_scores_come_back_in_order(tmp_path):
    store = Store(tmp_path)
    assert store.metrics() == []
    store.append_metrics({"step": 1, "reward": 0.25})
    store.append_metrics({"step": 2, "reward": 0.5})
    store.append_scores({"em": 50.0})
    assert [row["reward"] for row in store.metrics()] == [0.25, 0.5]
    assert store.scores() == [{"em": 50.0}]


def test_images_are_kept_in_the_run(tmp_path):
    buffer = io.BytesIO()
    Pil.new("RGB", (3, 2), "red").save(buffer, format="PNG")
    image = Store(tmp_path).images.add(buffer.getvalue())
    assert (tmp_path / "images" / image.sha256).read_bytes() == buffer.getvalue()


def test_a_folder_that_is_no_run_points_to_the_runs_inside_it(tmp_path):
    Store(tmp_path / "demo" / "coding").append([played("a")])
    with pytest.raises(UserError, match=r"give one of .*demo/coding"):
        open_run(tmp_path / "demo")
    with pytest.raises(UserError, match="no such folder"):
        open_run(tmp_path / "nowhere")
    assert names(open_run(tmp_path / "demo" / "coding")) == ["a"]


def test_a_run_that_goes_on_takes_back_what_it_will_make_again(tmp_path):
    store = Store(tmp_path)
    for step in (1, 2, 3):
        store.append_metrics({"phase": "grpo", "step": step})
        store.append([played(f"g{step}")], {"phase": "grpo", "step": step})
    store.append_metrics({"phase": "cold_start", "step": 3})
    store.append_metrics({"phase": "seconds", "seconds": 9.5})
    store.append([played("measured")], {"phase": "trained"})
    store.rewind("grpo", 1)
    assert names(store) == ["g1", "measured"]
    assert store.metrics() == [
        {"phase": "grpo", "step": 1},
        {"phase": "cold_start", "step": 3},
        {"phase": "seconds", "seconds": 9.5},
    ]
    store.append_metrics({"phase": "grpo", "step": 2})
    assert len(store.metrics()) == 4
    assert not list(tmp_path.glob("*.part"))


def test_there_is_nothing_to_take_back_before_the_first_record(tmp_path):
    Store(tmp_path / "run").rewind("grpo", 0)
    assert not (tmp_path / "run").exists()


def test_a_line_torn_by_a_kill_is_gone_after_taking_back(tmp_path):
    store = Store(tmp_path)
    store.append([played("a"), played("b")], {"phase": "grpo", "step": 1})
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    store.rewind("grpo", 1)
    assert names(store) == ["a"]
    assert path.read_bytes().endswith(b"\n")
