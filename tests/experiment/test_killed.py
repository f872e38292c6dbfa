"""A benchmark that is killed, over and over, ends with the scores of one that never was."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from visual_arft.store import Store

KILLS = 10


def bench(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "visual_arft", "bench", *arguments, "--out", str(out), "--json"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(told)


def lines(out: Path) -> int:
    path = out / "trajectories.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_on_the_way(arguments: list[str], out: Path, rng: random.Random, step: int) -> None:
    """Starts a run and kills it somewhere after its next records; one that is done stays done."""
    start = lines(out)
    process = bench(arguments, out)
    more = rng.randint(1, step)
    while process.poll() is None and lines(out) < start + more:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))
    process.kill()
    process.communicate()


def check(arguments: list[str], folder: Path, *, tasks: int, step: int) -> dict[str, Any]:
    whole = finish(bench(arguments, folder / "whole"))
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails, to play it again
    rng = random.Random(seed)
    for _ in range(KILLS):
        killed_on_the_way(arguments, folder / "killed", rng, step)
    assert lines(folder / "killed") <= tasks
    again = finish(bench(arguments, folder / "killed"))
    assert again == whole
    played = Counter((entry.trajectory.task.id, entry.repeat) for entry in Store(folder / "killed"))
    assert len(played) == tasks
    assert set(played.values()) == {1}
    uninterrupted = {(e.trajectory.task.id, e.repeat): e for e in Store(folder / "whole")}
    for entry in Store(folder / "killed"):
        ours = uninterrupted[entry.trajectory.task.id, entry.repeat].trajectory
        assert replies(entry.trajectory) == replies(ours)
    return whole


def replies(trajectory: Any) -> list[str]:
    return [turn.completion.text for turn in trajectory.turns]


@pytest.fixture
def searching(tmp_path: Path) -> list[str]:
    """A multi-hop benchmark over a corpus, and replies that are right for two tasks of three."""
    numbers = range(150)
    tasks = [
        {"id": str(n), "question": f"Who keeps town {n}?", "golden_answers": [f"Keeper {n}"]}
        for n in numbers
    ]
    found = {
        f"<search>town {n}</search>": ("answer", f"Keeper {n if n % 3 else 'x'}") for n in numbers
    }
    seek = {f"town {n}?": ("search", f"town {n}") for n in numbers}
    script = {
        key: f"<think>.</think><{kind}>{content}</{kind}>"
        for key, (kind, content) in {**found, **seek}.items()
    }
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    passages = [{"id": str(n), "contents": f"town {n}: Keeper {n}."} for n in numbers]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, passages)))
    (tmp_path / "script.json").write_text(json.dumps(script))
    return [
        *("hotpotqa", "--engine", "scripted", "--model", str(tmp_path / "script.json")),
        *("--data", str(tmp_path), "--corpus", str(tmp_path / "corpus.jsonl")),
    ]


def test_a_scripted_agent_killed_ten_times_plays_nothing_twice(
    searching: list[str], tmp_path: Path
):
    whole = check([*searching, "--repeat", "2"], tmp_path, tasks=300, step=20)
    assert 60 < whole["overall"]["paper"]["em"] < 70


@pytest.mark.slow
def test_a_local_model_killed_ten_times_samples_what_it_would_have(tmp_path: Path):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments = ["mini-mat-coding", "--model", "tiny", "--temperature", "1", "--limit", "88"]
    check([*arguments, "--concurrency", "8"], tmp_path, tasks=88, step=8)
