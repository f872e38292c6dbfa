"""Small data files of the kinds that the benchmark and the paper's training have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visual_arft.images import encode
from visual_arft.synth.signs import draw_sign
from visual_arft.synth.splits import stream

TEXTS = ["123 456", "700 112", "908 355", "041 276", "650 004", "332 918"]
CODE = "<think>Up.</think><code>\n```python\npass\n```\n</code>"


def _signs(folder: Path) -> None:
    for number, text in enumerate(TEXTS):
        sign = draw_sign(text.split(), stream("a sign", number))
        (folder / f"{number}.png").write_bytes(encode(sign))


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def mat_coding(tmp_path: Path) -> Path:
    """Six whole problems."""
    _signs(tmp_path)
    rows: list[dict[str, object]] = [
        {
            "id": number,
            "question": "What does the sign say?",
            "answers": [text],
            "ori_image_path": f"{number}.png",
            "processed_image_path": f"{number}.png",
            "type": ["none"],
        }
        for number, text in enumerate(TEXTS)
    ]
    return _write(tmp_path / "coding.json", rows)


@pytest.fixture
def coding_steps(tmp_path: Path) -> Path:
    """Single decisions: three for each of six signs."""
    _signs(tmp_path)
    named = "<think>Dim.</think><problem>{'dark'}</problem>"
    rows: list[dict[str, object]] = []
    for number, text in enumerate(TEXTS):
        steps = (
            ("pre_problem", "", named),
            ("pre_code", named, CODE),
            ("pre_answer", f"{named}\n{CODE}", f"<think>I read.</think><answer>{text}</answer>"),
        )
        rows += [
            {
                "image_path": f"{number}.png",
                "problem": "<query>What does the sign say?</query>",
                "solution": solution,
                "type": kind,
                "context": context,
                "gt": text,
            }
            for kind, context, solution in steps
        ]
    return _write(tmp_path / "steps.json", rows)


@pytest.fixture
def mat_search(tmp_path: Path) -> Path:
    """Six questions about signs."""
    _signs(tmp_path)
    rows: list[dict[str, object]] = [
        {"id": n, "question": f"Who owns {n}?", "answer": text, "image_path": f"{n}.png"}
        for n, text in enumerate(TEXTS)
    ]
    return _write(tmp_path / "search.json", rows)


@pytest.fixture
def search_steps(tmp_path: Path) -> Path:
    """Single decisions: a search for each of six signs, and what to answer after it."""
    _signs(tmp_path)
    rows: list[dict[str, object]] = []
    for number, text in enumerate(TEXTS):
        search = f"<think>Who?</think><search>owner of {number}</search>"
        query = f"<query>Who owns {number}?</query>"
        found = f"{query}{search}<information>{text}</information>"
        rows += [
            {"image_path": f"{number}.png", "problem": query, "solution": search},
            {
                "image_path": f"{number}.png",
                "problem": found,
                "solution": f"<think>So.</think><answer>{text}</answer>",
            },
        ]
    return _write(tmp_path / "search_steps.json", rows)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six passages."""
    path = tmp_path / "corpus.jsonl"
    lines = [{"id": str(n), "contents": f"The owner of {n}: {t}"} for n, t in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
