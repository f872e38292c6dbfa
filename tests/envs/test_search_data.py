from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visual_arft.envs.search.data import (
    load_mat_search,
    load_multihop,
    load_search_steps,
)
from visual_arft.envs.search.env import SearchEnv
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages, encode
from visual_arft.types import Action

PIXEL = encode(np.zeros((1, 2, 3), np.uint8))
MAT = {"id": 1, "question": "Which brand?", "answer": "LEGO", "image_path": "1.png"}
CHAIN = (
    "<query> How old is its inventor? </query>\n"
    "<think> A telephone. </think>\n<search> inventor of the telephone </search>\n"
    "<information> 1. Content:Bell. 2. Content:1876. </information> "
)
STEP = {
    "image_path": "1.png",
    "problem": CHAIN,
    "solution": "<think> Now his age. </think>\n<search> Bell birth year </search>",
}


def write(folder: Path, rows: object, name: str = "MAT-Search.json") -> Path:
    (folder / "1.png").write_bytes(PIXEL)
    path = folder / name
    if name.endswith(".jsonl") and isinstance(rows, list):
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_a_mat_search_row_is_a_task_with_its_picture(tmp_path: Path):
    images = MemoryImages()
    [task] = load_mat_search(write(tmp_path, [MAT]), images)
    assert (task.id, task.question, task.answers) == ("1", "Which brand?", ("LEGO",))
    assert images.read(task.images[0]) == PIXEL


def test_pictures_may_lie_in_the_folder_that_mat_comes_with(tmp_path: Path):
    path = write(tmp_path, [MAT])
    (tmp_path / "MAT-Search-image").mkdir()
    (tmp_path / "1.png").rename(tmp_path / "MAT-Search-image" / "1.png")
    assert len(load_mat_search(path, MemoryImages())) == 1


def test_the_split_goes_by_position_only_where_the_data_has_none(tmp_path: Path):
    def splits(rows: list[dict[str, Any]]) -> list[str]:
        return [task.split for task in load_mat_search(write(tmp_path, rows), MemoryImages())]

    rows = [{**MAT, "id": number} for number in range(4)]
    assert splits(rows) == ["simple", "simple", "hard", "hard"]
    assert splits([{**row, "split": "hard"} for row in rows]) == ["hard"] * 4


def test_a_multihop_row_is_a_text_only_task(tmp_path: Path):
    rows = [{"id": "dev_0", "question": "Who?", "golden_answers": ["A", "B"], "metadata": {}}]
    [task] = load_multihop(write(tmp_path, rows, "dev.jsonl"))
    assert (task.id, task.answers, task.images) == ("dev_0", ("A", "B"), ())


def test_a_training_row_is_one_decision_after_its_gold_chain(tmp_path: Path):
    [task] = load_search_steps(write(tmp_path, [STEP], "rft.json"), MemoryImages())
    assert task.id == "rft-1"
    assert task.question == "How old is its inventor?"
    assert task.expected == Action(kind="search", content="Bell birth year", thought="Now his age.")
    assert task.answers == ()
    [message] = SearchEnv().prompt(task, task.prefix).messages
    assert message.images == task.images
    assert message.text.endswith(
        "<query>How old is its inventor?</query>\n"
        "<think> A telephone. </think>\n<search> inventor of the telephone </search>\n"
        "<information> 1. Content:Bell. 2. Content:1876. </information>"
    )


def test_a_training_row_may_begin_or_end_an_episode(tmp_path: Path):
    row = {**STEP, "problem": "<query>Q?</query>", "solution": "<answer> 75 </answer>"}
    [task] = load_search_steps(write(tmp_path, [row]), MemoryImages())
    assert task.prefix == ()
    assert task.expected == Action(kind="answer", content="75")
    assert task.answers == ("75",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**MAT, "image_path": "2.png"}, r"key 'image_path': .*2.png: No such file"),
        ({**MAT, "question": ""}, r"key 'question': .*at least 1 character, not ''; mend"),
        ({"id": 1}, r"key 'question': field required; mend"),
        ({**MAT, "answer": 7}, r"key 'answer': .*valid string, not '7'; mend"),
        ("LEGO", r"key '\(the row\)': .*not 'LEGO'; mend"),
    ],
)
def test_a_wrong_row_is_named_with_its_key_and_value(tmp_path: Path, row: object, message: str):
    path = write(tmp_path, [MAT, row])
    with pytest.raises(UserError, match=f"MAT-Search.json, row 2, {message}"):
        load_mat_search(path, MemoryImages())


def test_a_question_without_gold_answers_is_an_error(tmp_path: Path):
    path = write(tmp_path, [{"id": 1, "question": "Q", "golden_answers": []}], "dev.jsonl")
    with pytest.raises(UserError, match=r"row 1, key 'golden_answers': .*not '\[\]'"):
        load_multihop(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": "no tags"}, r"'problem': 'no tags'… does not begin"),
        ({"problem": CHAIN + "<think>"}, r"'problem': '<think>'… comes after"),
        (
            {"problem": "<query>Q</query> hm <information> x </information>"},
            r"'problem': the earlier reply 'hm'… is no search",
        ),
        ({"solution": "LEGO"}, r"'solution': 'LEGO'… is not <search>"),
    ],
)
def test_a_training_row_that_is_no_chain_is_an_error(
    tmp_path: Path, change: dict[str, str], message: str
):
    path = write(tmp_path, [{**STEP, **change}])
    with pytest.raises(UserError, match=f"row 1, key {message}"):
        load_search_steps(path, MemoryImages())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"corpus.json: not JSON: .*line 1 column 2"),
        ("{}", r"corpus.json: '\{\}'… is not a list of rows"),
        ("[]", r"corpus.json: the file has no rows"),
    ],
)
def test_a_file_that_holds_no_rows_is_an_error(tmp_path: Path, text: str, message: str):
    path = tmp_path / "corpus.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_multihop(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"corpus.jsonl: No such file.*; give the path"):
        load_multihop(tmp_path / "corpus.jsonl")


def test_a_line_that_is_not_json_is_named(tmp_path: Path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": 0, "question": "A", "golden_answers": ["B"]}\nLEGO\n')
    with pytest.raises(UserError, match=r"corpus.jsonl, row 2: not JSON"):
        load_multihop(path)
