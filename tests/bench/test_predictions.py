from __future__ import annotations

import json

import pytest

from visual_arft.bench.predictions import Prediction, read_predictions
from visual_arft.bench.suites import SUITES, Suite, suite
from visual_arft.errors import UserError


def written(tmp_path, content, name="answers.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_gold_may_be_a_text_or_a_list_and_an_answer_may_be_null(tmp_path):
    rows = [
        {"id": 1, "pred_answer": "Paris", "gt": "Paris"},
        {"pred_answer": None, "gt": ["a", "b"], "type": ["rotation90", "dark"], "split": "hard"},
    ]
    expected = [
        Prediction("Paris", ("Paris",)),
        Prediction(None, ("a", "b"), split="hard", kind="rotation90+dark"),
    ]
    assert read_predictions(written(tmp_path, rows), Suite()) == expected
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    assert read_predictions(written(tmp_path, lines, "answers.jsonl"), Suite()) == expected


def test_splits_follow_from_positions_in_the_whole_benchmark_alone(tmp_path):
    row = {"pred_answer": "a", "gt": "a"}
    whole = read_predictions(written(tmp_path, [row] * 200), SUITES["mat-coding"])
    assert [each.split for each in whole] == ["simple"] * 70 + ["hard"] * 130
    part = read_predictions(written(tmp_path, [row] * 100), SUITES["mat-coding"])
    assert {each.split for each in part} == {""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, r'answers\.json: holds {"a": 1}, not a list; give a JSON list'),
        ([], "holds no rows"),
        ("[1, 2", "not JSON"),
        ([{"pred_answer": "a", "gt": "a"}, "b"], 'row 2: "b" is no object'),
        (
            [{"pred_answer": "a", "answer": "a"}],
            r"row 1: no key 'gt' \(found pred_answer, answer\)",
        ),
        ([{"gt": "a"}], "row 1: no key 'pred_answer'.*null for no answer"),
        ([{"pred_answer": "a", "gt": []}], r"row 1: gt is \[\]; it must be"),
        ([{"pred_answer": "a", "gt": 7}], "row 1: gt is 7; it must be"),
        ([{"pred_answer": ["a"], "gt": "a"}], r'row 1: pred_answer is \["a"\]; it must be'),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_predictions(written(tmp_path, content), Suite())


def test_a_broken_line_a_binary_file_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match=r"answers\.jsonl, line 2: not JSON"):
        read_predictions(written(tmp_path, "{}\n{", "answers.jsonl"), Suite())
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.json: not a text file"):
        read_predictions(tmp_path / "binary.json", Suite())
    with pytest.raises(UserError, match=r"nowhere\.json: No such file"):
        read_predictions(tmp_path / "nowhere.json", Suite())


def test_an_unknown_suite_is_told_the_names():
    with pytest.raises(UserError, match=r"did you mean 'mat-coding'.*mini-mat-search"):
        suite("mat-codng")
