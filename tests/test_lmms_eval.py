"""The task of docs/lmms_eval, driven as lmms-eval drives one: a message, a reply, what comes next."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from visual_arft.envs.coding.grammar import fenced
from visual_arft.envs.coding.repairs import program
from visual_arft.images import encode
from visual_arft.synth.signs import draw_sign
from visual_arft.synth.splits import stream
from visual_arft.tags import wrap
from visual_arft.types import Trajectory

TASK = Path(__file__).parents[1] / "docs" / "lmms_eval"
DOC = {
    "id": 7,
    "question": "这是多少?",
    "answers": ["123 号"],
    "ori_image_path": "sign.png",
    "processed_image_path": "sign.png",
    "type": ["rotation180"],
    "split": "hard",
}
REPLIES = [
    wrap("It stands on its head.", "problem", "{'rotation180'}"),
    wrap("I turn it.", "code", fenced(program("rotation180"))),
    wrap("Now I read.", "answer", "123号"),
]


@pytest.fixture
def playing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The task's module, in the folder of its data."""
    monkeypatch.chdir(tmp_path)
    sign = draw_sign(["123", "456"], stream("a sign", 0))
    (tmp_path / "sign.png").write_bytes(encode(sign))
    (tmp_path / "MAT-Coding.json").write_text(json.dumps([DOC]))
    spec = importlib.util.spec_from_file_location("playing", TASK / "playing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.opened.close()


def test_an_episode_is_played_to_its_end_and_scored(playing: ModuleType):
    [before] = playing.doc_to_visual(DOC)
    text, info, said, seen = playing.doc_to_text(DOC), None, [], []
    assert DOC["question"] in text
    for number, reply in enumerate(REPLIES, start=1):
        said.append(reply)
        pictures, text, is_over, outputs, info = playing.doc_to_text(
            DOC, previous_output=said, round_idx=number, previous_round_info=info
        )
        said = said if outputs is None else outputs
        seen.append(pictures)
        assert is_over == (number == len(REPLIES))
    turned = np.asarray(before)[::-1, ::-1].astype(int)
    assert np.abs(np.asarray(seen[1][0]) - turned).mean() < 3  # JPEG
    assert info is None  # or else lmms-eval takes the episode for one that was cut
    assert [len(Trajectory.model_validate_json(each).turns) for each in said] == [3]
    assert playing.process_results(DOC, said) == {"em": 1.0, "f1": 1.0}


def test_the_file_of_the_task_names_what_there_is(playing: ModuleType):
    named = re.findall(r"!function playing\.(\w+)", (TASK / "mat_coding_agent.yaml").read_text())
    assert sorted(named) == ["doc_to_text", "doc_to_visual", "process_results"]
    assert all(callable(getattr(playing, name)) for name in named)
