from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visual_arft.envs.coding.data import load_coding_steps, load_mat_coding
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.episode import Episode
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages, encode, identify
from visual_arft.types import Prompt

GOOD = {
    "id": 7,
    "question": "Which town?",
    "answers": ["Oslo"],
    "ori_image_path": "good.png",
    "processed_image_path": "bad.png",
    "type": ["rotation90", "dark"],
    "split": "hard",
}
CROP = GOOD | {"id": 8, "type": ["crop"]}
STEP = {
    "image_path": "bad.png",
    "problem": "<query> Which town? </query>",
    "solution": "<think>Dim.</think><problem>{'dark', 'rotation90'}</problem>",
    "type": "pre_problem",
    "context": "",
    "gt": "Oslo",
}
NAMED = "<think>Dim.</think>\n<problem>{'dark'}</problem>"
CODED = "<think>Up.</think>\n<code>\n```python\npass\n```\n</code>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, grey in (("good.png", 200), ("bad.png", 20)):
        (tmp_path / name).write_bytes(encode(np.full((4, 6, 3), grey, np.uint8)))
    return tmp_path


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_task_starts_from_the_degraded_picture_and_a_crop_from_the_original(folder: Path):
    images = MemoryImages()
    dark, crop = load_mat_coding(write(folder, GOOD, CROP), images)
    assert (dark.id, dark.question, dark.answers) == ("7", "Which town?", ("Oslo",))
    assert (dark.split, dark.kind, crop.kind) == ("hard", "rotation90+dark", "crop")
    assert dark.images == (identify((folder / "bad.png").read_bytes()),)
    assert crop.images == (identify((folder / "good.png").read_bytes()),)
    assert images.read(crop.images[0]) == (folder / "good.png").read_bytes()


def test_a_folder_may_stand_for_its_only_file(folder: Path):
    path = write(folder, GOOD)
    assert load_mat_coding(folder, MemoryImages()) == load_mat_coding(path, MemoryImages())
    (folder / "other.json").write_text("[]")
    with pytest.raises(UserError, match="holds 2 JSON files; give the path of one"):
        load_mat_coding(folder, MemoryImages())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": []}, ["row 2", "'answers'"]),
        ({"type": ["gloom"]}, ["row 2", "'type.0'", "'gloom'"]),
        ({"type": []}, ["row 2", "'type'"]),
        ({"question": ""}, ["row 2", "'question'"]),
        ({"processed_image_path": "none.png"}, ["row 2", "'processed_image_path'", "none.png"]),
    ],
)
def test_a_broken_row_is_named(folder: Path, change: dict[str, object], words: list[str]):
    with pytest.raises(UserError) as caught:
        load_mat_coding(write(folder, GOOD, GOOD | change), MemoryImages())
    for word in ["rows.json", *words]:
        assert word in str(caught.value)


def test_a_step_expects_its_solution(folder: Path):
    [task] = load_coding_steps(write(folder, STEP), MemoryImages())
    assert task.question == "Which town?"
    assert task.expected is not None
    assert (task.expected.kind, task.expected.thought) == ("problem", "Dim.")
    assert task.expected.content == "{'dark', 'rotation90'}"
    assert (task.answers, task.prefix, task.kind) == ((), (), "rotation90+dark")


@pytest.mark.parametrize("tips", ["", "\n<tips>Mend it.</tips>\n"])
def test_the_chain_of_a_step_stands_in_its_prompt(folder: Path, tips: str):
    row = STEP | {
        "type": "pre_answer",
        "context": NAMED + tips + CODED,
        "solution": "<answer>Oslo</answer>",
    }
    [task] = load_coding_steps(write(folder, row), MemoryImages())
    assert (task.answers, task.kind) == (("Oslo",), "dark")
    prompt = Episode(task, CodingEnv(template="{question}")).pending
    assert isinstance(prompt, Prompt)
    [message] = prompt.messages
    ours = "<tips>Write code that mends: dark.</tips>"
    assert message.text == f"Which town?\n{NAMED}\n{ours}\n{CODED}"
    assert message.images == task.images


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "pre_code"}, ["'solution'", "is not <code>…</code>", "'pre_code'"]),
        ({"solution": "<problem>gloom</problem>"}, ["'solution'", "'gloom'", "{'dark', 'blur'}"]),
        ({"context": "Well."}, ["'context'", "'Well.'", "no earlier reply"]),
        ({"context": "<answer>1</answer>"}, ["'context'", "no earlier reply"]),
        ({"type": "later"}, ["'type'", "'later'"]),
    ],
)
def test_a_broken_step_is_named(folder: Path, change: dict[str, object], words: list[str]):
    with pytest.raises(UserError) as caught:
        load_coding_steps(write(folder, STEP | change), MemoryImages())
    for word in ["rows.json, row 1", *words]:
        assert word in str(caught.value)
