from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import visual_arft.experiment
from visual_arft.cli import main
from visual_arft.errors import ToolFailure
from visual_arft.images import encode
from visual_arft.store import Store
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

PREDICTIONS = [
    {"pred_answer": "Paris", "gt": ["Paris"]},
    {"pred_answer": "in Rome", "gt": ["Rome"]},
    {"pred_answer": None, "gt": ["Oslo"]},
]
RECIPE = """
env = "coding"
data.source = "mini-mat-coding"
rubric.answer = 1.0
"""
CODING_ROW = {
    "id": 1,
    "question": "Where?",
    "answers": ["Oslo"],
    "ori_image_path": "gone.png",
    "processed_image_path": "gone.png",
    "type": ["dark"],
}
SEARCH_ROW = {"id": 1, "question": "Where?", "answer": "Oslo", "image_path": "../sign.png"}
ARFT = [sys.executable, "-m", "visual_arft"]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with good things and bad ones in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "good.toml": RECIPE,
        "broken.toml": "seed = \n",
        "binary.toml": "\udcff",
        "text.png": "not a picture",
        "empty.png": "",
        "good.json": json.dumps(PREDICTIONS),
        "no_list.json": '{"pred_answer": "Paris"}',
        "no_gold.json": json.dumps([*PREDICTIONS, {"pred_answer": "Bern"}]),
        "no_golds.json": json.dumps([*PREDICTIONS, {"pred_answer": "Bern", "gt": []}]),
        "no_rows.json": "[]",
        "broken.json": "[{",
        "file": "",
        "tasks/rows.json": "[]",
        "one/coding.json": json.dumps([{**CODING_ROW, "processed_image_path": "sign.png"}]),
        "one/empty.json": json.dumps([{**CODING_ROW, "processed_image_path": "../empty.png"}]),
        "one/no_answer.json": json.dumps([{**CODING_ROW, "answers": [""]}]),
        "one/search.json": json.dumps([SEARCH_ROW]),
        "corpus.jsonl": '{"id": 1, "contents": "Oslo"}\n{"id": 2}\n',
        "replies.json": '{"": "<think>A sign.</think><answer>Oslo</answer>"}',
        "mute.json": '{"a text that no prompt holds": "Oslo"}',
        "old/config.toml": RECIPE,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "sign.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "hollow").mkdir()
    Store(tmp_path / "run").append([episode()], {"phase": "test"})
    return tmp_path


def episode() -> Trajectory:
    turn = Turn(
        prompt=Prompt(messages=(Message(role="user", text="What is the capital of France?"),)),
        completion=Completion(text="<think>I know.</think><answer>Paris</answer>"),
        action=Action(kind="answer", content="Paris", thought="I know."),
    )
    task = Task(id="capital", question="What is the capital of France?", answers=("Paris",))
    return Trajectory(task=task, turns=(turn,), stop_reason=StopReason.ANSWERED)


def arft(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line), prog_name="arft")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        # the command itself
        ("trian good.toml", "trian"),
        ("score good.json --sweet mat", "--sweet"),
        ("score", "PATH"),
        # recipes
        ("train missing.toml", "missing.toml: No such file"),
        ("train hollow", "hollow: Is a directory"),
        ("train broken.toml", "broken.toml: not TOML"),
        ("train binary.toml", "binary.toml: not a text file"),
        ("train good.toml seed=one", "seed = 'one'"),
        ("train good.toml grpo.stps=3", "unknown key grpo.stps = 3; did you mean steps?"),
        ("train good.toml grpo.group_size=1", "grpo.group_size = 1"),
        ("train good.toml rubric.beauty=1", "rubric.beauty"),
        ("train good.toml steps", "'steps'"),
        # folders
        ("train good.toml --out file", "file"),
        ("train good.toml --out file/run", "file/run"),
        ("train good.toml --out old", "old holds a run"),
        ("train good.toml --out new --resume", "new holds no run to resume"),
        ("train good.toml grpo.steps=3 --out old --resume", "grpo.steps = 200, not 3"),
        ("demo --out file", "file"),
        # choices and numbers
        ("demo --task both-of-them", "both-of-them"),
        ("demo --seed one", "one"),
        ("bench mat-codng --model tiny", "mat-codng"),
        ("bench mini-mat-coding --model tiny --mode thinking", "thinking"),
        ("bench mini-mat-coding --model tiny --engine steam", "steam"),
        ("bench mini-mat-coding --model tiny --limit -1", "-1"),
        ("bench mini-mat-coding --model tiny --limit 0", "0"),
        ("bench mini-mat-coding --model tiny --temperature -0.5", "-0.5"),
        ("bench mini-mat-coding", "--model"),
        # data
        ("bench mat-coding --model tiny", "--data"),
        ("bench mat-coding --model tiny --data missing", "missing"),
        ("bench mat-coding --model tiny --data hollow", "hollow"),
        ("bench mat-coding --model tiny --data tasks/rows.json", "tasks/rows.json"),
        ("bench mat-coding --model tiny --data one", "has no MAT-Coding.json"),
        ("bench mat-coding --model tiny --data one/coding.json", "one/sign.png: No such file"),
        ("bench mat-coding --model tiny --data one/empty.json", "the image has 0 bytes"),
        ("bench mat-coding --model tiny --data one/no_answer.json", "row 1, key 'answers.0'"),
        ("bench mini-mat-coding --model tiny --data one", "--data one"),
        ("bench mini-mat-coding --model tiny --corpus corpus.jsonl", "--corpus corpus.jsonl"),
        ("bench mat-search --model tiny --data one/search.json", "--corpus is not given"),
        (
            "bench mat-search --model tiny --data one/search.json --corpus corpus.jsonl",
            "corpus.jsonl, row 2, key 'contents'",
        ),
        # models
        ("bench mini-mat-coding --limit 1 --model hollow", "hollow: not a vision-language model"),
        ("bench mini-mat-coding --limit 1 --model old", "old: the run has no model yet"),
        ("bench mini-mat-coding --limit 1 --engine scripted --model gone.json", "gone.json"),
        ("bench mini-mat-coding --limit 1 --engine scripted --model good.json", "good.json"),
        ("bench mini-mat-coding --limit 1 --engine scripted --model mute.json", "no key occurs"),
        # scoring
        ("score missing.json", "missing.json"),
        ("score no_list.json", "no_list.json"),
        ("score no_gold.json", "row 4, key 'gt'"),
        ("score no_golds.json", "row 4, key 'gt'"),
        ("score no_rows.json", "no_rows.json"),
        ("score broken.json", "broken.json: not JSON"),
        ("score good.json --suite mat-cooking", "mat-cooking"),
        ("score hollow", "hollow"),
        ("score run --phase after", "after"),
        # looking
        ("view missing", "missing"),
        ("view hollow --export page.html", "hollow"),
        ("view run --port 65536", "65536"),
        ("view run --export file/page.html", "file/page.html"),
        # chatting
        ("chat missing.png 'What is it?' --model tiny", "missing.png"),
        ("chat empty.png 'What is it?' --model tiny", "empty.png: the image has 0 bytes"),
        ("chat text.png 'What is it?' --model tiny", "text.png: not an image"),
        ("chat sign.png ' ' --model tiny", "' '"),
        ("chat sign.png 'What is it?' --model tiny --env chess", "chess"),
        (
            "chat sign.png 'What is it?' --model tiny --env search --corpus gone",
            "gone: No such file",
        ),
        ("chat sign.png 'What is it?' --model gpt --env search", "--corpus is not given"),
        ("chat sign.png 'What is it?' --model hollow", "hollow: not a vision-language model"),
    ],
)
def test_wrong_use_ends_with_2_and_a_short_message_that_names_it(line: str, named: str):
    result = arft(line)
    assert result.exit_code == 2, result.output
    assert named in result.stderr
    assert "Traceback" not in result.output
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3
    assert not result.stdout


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("view run --export pages", "pages"),
        ("bench mini-mat-coding --limit 1 --engine scripted --model replies.json --out new", "new"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_like_wrong_use(line: str, named: str):
    limited = f"ulimit -f 1; exec {shlex.join(ARFT)} {line}"
    result = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert named in result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_extra_is_told_with_the_line_that_installs_it(desk: Path):
    blocked = "import sys; sys.modules['torch'] = None; from visual_arft.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", blocked, "chat", "sign.png", "What is it?", "--model", "tiny"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert "pip install 'visual-arft[train]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("line", ["--help", "score good.json", "view run --export page.html"])
def test_help_score_and_view_start_without_torch(line: str):
    watched = (
        "import sys; from visual_arft.cli import main; main(standalone_mode=False); "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", watched, *shlex.split(line)], check=True)


@pytest.mark.parametrize("command", ["", *main.commands])
def test_every_help_text_teaches_by_an_example(command: str):
    result = arft(f"{command} --help")
    assert result.exit_code == 0
    assert "arft " in result.stdout.split("Usage:")[1].partition("\n")[2]


def test_a_prediction_file_is_scored_as_a_table_or_as_json():
    # exact: Paris of three; F1: 1, 2/3 ("in Rome" against "Rome") and 0
    report = json.loads(arft("score good.json --json").stdout)["overall"]["paper"]
    assert (report["n"], report["em"], report["f1"]) == (3, 33.33, 55.56)
    assert "33.33" in arft("score good.json").stdout


def test_a_run_is_scored_and_exported():
    assert json.loads(arft("score run --json").stdout)["overall"]["paper"]["em"] == 100.0
    page = Path(arft("view run --export pages.html").stdout.strip())
    assert "What is the capital of France?" in page.read_text()


def test_the_doctor_finds_python_and_a_sandbox_and_a_remedy_for_what_is_missing():
    found = {each["name"]: each for each in json.loads(arft("doctor --json").stdout)}
    assert found["python"]["ok"]
    assert found["sandbox"]["found"].startswith("runs a line in")
    assert found["confinement"]["found"].startswith("seccomp, ")
    assert all(each["remedy"] for each in found.values() if not each["ok"])


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **names: object) -> None:
    """Puts something quick in the place of work that takes minutes."""
    fake = types.SimpleNamespace(**names)
    monkeypatch.setitem(sys.modules, f"visual_arft.experiment.{module}", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(visual_arft.experiment, module, fake, raising=False)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    def stopped(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    stand_in(monkeypatch, "training", train=stopped)
    result = arft("train good.toml seed=4 --out new")
    assert result.exit_code == 130
    assert "to go on: arft train good.toml seed=4 --out new --resume" in result.stderr


def test_a_run_that_fails_ends_with_1_and_says_where_its_records_lie(
    monkeypatch: pytest.MonkeyPatch,
):
    def failing(*args: object, **settings: object) -> None:
        raise ToolFailure("the sandbox died")

    stand_in(monkeypatch, "training", train=failing)
    result = arft("train good.toml --out new")
    assert result.exit_code == 1
    assert "The run failed: the sandbox died. Its records lie in new." in result.stderr


def test_a_dry_run_trains_nothing():
    assert arft("train good.toml seed=4 --dry-run").stdout.startswith("seed = 4\n")
    assert "1400 rounds" in arft("train paper-coding-7b --dry-run").stdout
    assert not Path("runs").exists()


def test_the_demo_s_options_arrive_as_given(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, object] = {}

    def demo(out: Path, seed: int, tasks: tuple[str, ...], overrides: tuple[str, ...]) -> None:
        seen.update(out=out, seed=seed, tasks=tasks, overrides=overrides)

    stand_in(monkeypatch, "demo", demo=demo)
    assert arft("demo --task search --seed 3 --out there grpo.steps=5").exit_code == 0
    assert seen == {
        "out": Path("there"),
        "seed": 3,
        "tasks": ("search",),
        "overrides": ("grpo.steps=5",),
    }


def test_a_chat_says_its_turns_aside_and_its_answer_aloud(monkeypatch: pytest.MonkeyPatch):
    def chat(image: Path, question: str, *, tell: Callable[[Turn], None], **_: object):
        tell(episode().turns[0])
        return episode()

    stand_in(monkeypatch, "playing", chat=chat)
    result = arft("chat sign.png 'Where?' --model tiny")
    assert result.stdout == "Paris\n"
    assert "I know." in result.stderr
    assert Trajectory.model_validate_json(arft("chat sign.png Where? --model tiny --json").stdout)


def test_ctrl_c_on_a_served_run_ends_with_130(desk: Path):
    server = subprocess.Popen([*ARFT, "view", "run", "--port", "18731"], stderr=subprocess.PIPE)
    assert server.stderr is not None
    server.stderr.readline()  # it says where it serves
    os.kill(server.pid, signal.SIGINT)
    server.stderr.close()
    assert server.wait(timeout=20) == 130
