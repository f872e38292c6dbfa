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
        Prediction("Paris", ("Paris",), task="1"),
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
    ("row", "message"),
    [
        ({"pred_answer": "a", "answer": "a"}, "row 2, key 'gt': field required"),
        ({"gt": "a"}, "row 2, key 'pred_answer': field required"),
        ({"pred_answer": "a", "gt": []}, "row 2, key 'gt'.*at least 1"),
        ({"pred_answer": "a", "gt": 7}, "row 2, key 'gt'.*not '7'"),
        ({"pred_answer": ["a"], "gt": "a"}, "row 2, key 'pred_answer'.*valid string"),
        ("b", "row 2"),
    ],
)
def test_a_wrong_row_is_an_error_that_names_file_row_and_key(tmp_path, row, message):
    rows = [{"pred_answer": "a", "gt": ""}, row]
    with pytest.raises(UserError, match=rf"answers\.json, {message}"):
        read_predictions(written(tmp_path, rows), Suite())


def test_an_unknown_suite_is_told_the_names():
    with pytest.raises(UserError, match=r"did you mean 'mat-coding'.*mini-mat-search"):
        suite("mat-codng")
