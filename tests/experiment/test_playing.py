from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from visual_arft.bench.settings import BenchConfig
from visual_arft.cli import main
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.direct import DirectEnv
from visual_arft.errors import UserError
from visual_arft.experiment.benchmark import bench
from visual_arft.experiment.pace import Pace
from visual_arft.experiment.player import Player, find_player
from visual_arft.images import MemoryImages, encode
from visual_arft.model import tiny
from visual_arft.model.settings import ModelConfig
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.store import Store
from visual_arft.synth import coding, search
from visual_arft.types import StopReason

RECIPE = """
env = "coding"
context = "append"
data.source = "mini-mat-coding"
rubric.answer = 1.0
grpo.max_turns = 2
grpo.max_new_tokens = 6
"""
FOUND = "<think>It says so.</think><answer>Mi Lo</answer>"
SEEK = "<think>Where is it?</think><search>Oslo keeper</search>"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the demo's, with a coding run whose model has learned nothing."""
    folder = tmp_path_factory.mktemp("demo")
    tokenizer = tiny.build_tokenizer([*coding.phrases(), *search.phrases()], 400)
    model = tiny.build_model(tokenizer, seed=0, hidden=32, layers=1)
    vlm = VisionLanguageModel(model, tokenizer, tiny.build_image_processor(), MemoryImages())
    vlm.save(folder / "coding" / "model")
    (folder / "coding" / "config.toml").write_text(RECIPE)
    return folder


def script(folder: Path, replies: dict[str, str]) -> str:
    path = folder / "replies.json"
    path.write_text(json.dumps(replies))
    return str(path)


def test_a_local_model_plays_a_benchmark_from_end_to_end(demo: Path, tmp_path: Path):
    out = tmp_path / "run"
    config = BenchConfig(suite="mini-mat-coding", model=str(demo))
    report = bench(config, out, Pace(limit=3))
    entries = list(Store(out))
    assert report.overall["paper"].n == len(entries) == 3
    assert all(entry.trajectory.turns[0].completion.token_ids for entry in entries)
    assert Store(out).scores()[-1]["overall"]["paper"]["n"] == 3
    scored = CliRunner().invoke(main, ["score", str(out), "--json"])
    assert json.loads(scored.stdout)["overall"] == report.model_dump(mode="json")["overall"]
    origin = json.loads((out / "provenance.json").read_text())
    assert {"commit", "command", "versions", "seed"} <= origin.keys()


def test_a_benchmark_goes_on_where_it_stopped_and_plays_nothing_twice(tmp_path: Path):
    first = BenchConfig(
        suite="mini-mat-coding", model=script(tmp_path, {"": FOUND}), engine="scripted"
    )
    bench(first, tmp_path / "run", Pace(limit=2))
    (tmp_path / "replies.json").write_text('{"": "no action"}')
    report = bench(first, tmp_path / "run", Pace(limit=3))
    played = [entry.trajectory for entry in Store(tmp_path / "run")]
    assert [each.answer for each in played] == ["Mi Lo", "Mi Lo", None]
    assert report.counts["malformed"] == 1


def test_a_folder_takes_the_same_benchmark_only(tmp_path: Path):
    config = BenchConfig(
        suite="mini-mat-coding", model=script(tmp_path, {"": FOUND}), engine="scripted"
    )
    bench(config, tmp_path / "run", Pace(limit=1))
    with pytest.raises(UserError, match=r"this run has mode = 'agent', not 'direct'; go on"):
        bench(config.model_copy(update={"mode": "direct"}), tmp_path / "run", Pace(limit=1))


def searching(tmp_path: Path, **more: object) -> BenchConfig:
    (tmp_path / "tasks.jsonl").write_text(
        '{"id": "1", "question": "Who keeps Oslo?", "golden_answers": ["Mi Lo"]}\n'
    )
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "contents": "Oslo keeper: Mi Lo."}\n')
    config = BenchConfig(
        suite="hotpotqa",
        model=script(tmp_path, {"<information> 1.": FOUND, "Who keeps Oslo?": SEEK}),
        engine="scripted",
        data=tmp_path / "tasks.jsonl",
        corpus=str(tmp_path / "corpus.jsonl"),
    )
    return config.model_copy(update=more)


def test_a_scripted_agent_searches_the_corpus_it_is_given(tmp_path: Path):
    report = bench(searching(tmp_path), tmp_path / "run")
    assert (report.overall["paper"].em, report.mean_turns) == (100.0, 2.0)
    [entry] = Store(tmp_path / "run")
    result = entry.trajectory.turns[0].result
    assert result is not None
    assert result.text == "1. Content:Oslo keeper: Mi Lo."
    [row] = Store(tmp_path / "run").metrics()
    assert row == {
        "phase": "search", "asked": 1, "hits": 0, "misses": 1, "requests": 1, "failures": 0
    }  # fmt: skip


def test_a_search_beyond_its_budget_is_no_fault_of_the_model(tmp_path: Path):
    with pytest.raises(UserError, match="none of 1 episodes came through"):
        bench(searching(tmp_path, search_budget=0), tmp_path / "run")
    [entry] = Store(tmp_path / "run")
    assert entry.trajectory.stop_reason is StopReason.TOOL_FAILED
    assert "budget" in str(entry.trajectory.failure)


def test_mini_mat_search_is_played_over_its_own_world(tmp_path: Path):
    replies = {"<information>": FOUND, "": SEEK}
    config = BenchConfig(
        suite="mini-mat-search", model=script(tmp_path, replies), engine="scripted"
    )
    assert bench(config, tmp_path / "run", Pace(limit=2)).mean_turns == 2.0


def test_answering_directly_takes_no_tool_and_no_corpus(tmp_path: Path):
    config = BenchConfig(
        suite="mini-mat-search",
        model=script(tmp_path, {"": "Mi Lo"}),
        engine="scripted",
        mode="direct",
    )
    assert bench(config, tmp_path / "run", Pace(limit=2)).mean_turns == 1.0


@pytest.mark.parametrize("place", ["", "coding", "coding/model"])
def test_a_model_of_a_run_is_found_and_plays_as_it_was_trained_to(demo: Path, place: str):
    player = find_player(str(demo / place), "coding")
    assert player.model == ModelConfig(path=str(demo / "coding" / "model"))
    assert (player.max_turns, player.max_new_tokens) == (2, 6)
    rules = player.rules("agent")
    assert isinstance(rules, CodingEnv)
    assert (rules.context, rules.template, rules.wording) == (
        "append",
        coding.TEMPLATE,
        coding.WORDING,
    )
    assert isinstance(player.rules("direct"), DirectEnv)


def test_a_model_from_elsewhere_plays_in_the_paper_s_context_unless_told_otherwise():
    player = find_player("Qwen/Qwen2.5-VL-7B-Instruct", "coding")
    assert player == Player("coding", ModelConfig(path="Qwen/Qwen2.5-VL-7B-Instruct"))
    contexts = [player.rules(mode) for mode in ("agent", "agent-append")]
    assert [rules.context for rules in contexts if isinstance(rules, CodingEnv)] == [
        "retell",
        "append",
    ]


def test_a_chat_is_an_episode_with_the_run_s_model(demo: Path, tmp_path: Path):
    picture = tmp_path / "sign.png"
    picture.write_bytes(encode(np.full((84, 84, 3), 200, np.uint8)))
    line = ["chat", str(picture), "What does the sign say?", "--model", str(demo), "--json"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.stderr
    trajectory = json.loads(result.stdout)
    assert trajectory["stop_reason"] in result.stderr
    assert trajectory["task"]["question"] == "What does the sign say?"
    assert trajectory["turns"][0]["completion"]["text"] in result.stderr
