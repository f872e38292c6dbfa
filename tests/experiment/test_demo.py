"""The whole demo, with a few tasks and updates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visual_arft.errors import UserError
from visual_arft.experiment.agent import run_agent
from visual_arft.experiment.demo import demo
from visual_arft.experiment.summary import PHASES, conclude, summarise
from visual_arft.store import Store

MICRO = (
    "data.held_out=8",
    "eval.n=8",
    "cold_start.steps=2",
    "cold_start.batch_size=4",
    "grpo.steps=2",
    "grpo.prompts_per_step=2",
    "grpo.group_size=2",
    "grpo.max_new_tokens=8",
)
COMMAND = (sys.executable, "-m", "visual_arft", "demo")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both agents' parts, played here one after the other, and what is made of them."""
    out = tmp_path_factory.mktemp("demo") / "run"
    for agent in PHASES:
        run_agent(out, 3, agent, MICRO)
    conclude(out, 3)
    return out


def test_the_summary_has_the_form_that_scripts_rely_on(done: Path):
    summary = json.loads((done / "summary.json").read_text())
    phases = ["direct", "cold_start", "trained", "trained_tools_off", "trained_images_shuffled"]
    assert summary["seed"] == 3
    assert list(summary["coding"]) == phases
    assert list(summary["search"]) == [*phases, "trained_passages_reshuffled"]
    for agent in PHASES:
        for cell in summary[agent].values():
            assert list(cell) == ["n", "em", "em_ci", "f1", "f1_ci", "em_t1"]
            assert cell["n"] == 8
            assert 0 <= cell["em_ci"][0] <= cell["em"] <= cell["em_ci"][1] <= 100
            assert 0 <= cell["f1_ci"][0] <= cell["f1"] <= cell["f1_ci"][1] <= 100
            assert 0 <= cell["em_t1"] <= 100
        assert set(summary["seconds"][agent]) == {"cold_start", "grpo", "measure"}
        gained = summary["gain"][agent]
        before, after = summary[agent]["cold_start"], summary[agent]["trained"]
        assert gained["em"] == pytest.approx(after["em"] - before["em"])
    assert 200 < summary["peak_memory_mb"] < 5000


def test_what_is_said_by_kind_adds_up_to_the_whole(done: Path):
    summary = json.loads((done / "summary.json").read_text())
    for agent, phases in PHASES.items():
        for phase in phases:
            kinds, whole = summary["kinds"][agent][phase].values(), summary[agent][phase]
            assert sum(cell["n"] for cell in kinds) == whole["n"]
            correct = sum(cell["n"] * cell["em"] for cell in kinds)
            assert correct / whole["n"] == pytest.approx(whole["em"], abs=0.01)


def test_the_report_is_a_page_of_both_agents(done: Path):
    page = (done / "report.html").read_text()
    assert "<h2>coding</h2>" in page
    assert "<h2>search</h2>" in page
    assert page.count("before reinforcement learning") == 16
    assert "data:image/" in page


def test_a_second_demo_says_that_it_is_complete_and_prints_the_table(
    done: Path, capsys: pytest.CaptureFixture[str]
):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    demo(done, 3, ("coding", "search"), MICRO)
    printed = capsys.readouterr()
    assert "is complete, and this is its table; remove it, or choose another --out" in printed.err
    assert printed.out.count(" gain ") == 2
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before


def test_a_folder_belongs_to_one_seed(done: Path):
    with pytest.raises(UserError, match=r"a demo with --seed 3; choose another --out for seed 4"):
        demo(done, 4, ("coding", "search"), MICRO)


def test_an_agent_that_was_cut_short_is_not_in_the_summary(done: Path, tmp_path: Path):
    played = list(Store(done / "search"))
    for kept, agents in ((len(played), ["search"]), (len(played) - 1, [])):
        store = Store(tmp_path / str(kept) / "search")
        for entry in played[:kept]:
            store.append([entry.trajectory], entry.meta)
        assert list(summarise(tmp_path / str(kept), 3)["gain"]) == agents


def test_time_is_a_sum_and_memory_a_maximum_over_all_starts(done: Path, tmp_path: Path):
    stores = {agent: Store(tmp_path / agent) for agent in PHASES}
    for agent, store in stores.items():
        for entry in Store(done / agent):
            store.append([entry.trajectory], entry.meta)
        for part, seconds, peak in (("grpo", 5.0, 900), ("grpo", 7.5, 400), ("measure", 2.0, 700)):
            store.append_metrics({"phase": "seconds", "part": part, "seconds": seconds})
            store.append_metrics({"phase": "memory", "peak_mb": peak})
    summary = summarise(tmp_path, 3)
    assert summary["seconds"]["coding"] == {"grpo": 12.5, "measure": 2.0}
    assert summary["peak_memory_mb"] == 1800  # side by side


def test_an_agent_s_mistake_is_told_like_wrong_use(tmp_path: Path):
    with pytest.raises(UserError, match="the coding agent stopped, see above; mend that"):
        demo(tmp_path, 0, ("coding",), ("grpo.stps=1",))


def test_ctrl_c_ends_the_agents_and_the_next_demo_goes_on(tmp_path: Path):
    out = tmp_path / "run"
    overrides = (*MICRO, "grpo.steps=60", "grpo.checkpoint_every=1")
    line = [*COMMAND, *overrides, "--task", "coding", "--seed", "5", "--out", str(out)]
    # A session of its own, in which Ctrl-C reaches the demo and its agent, as on a terminal.
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
    store = Store(out / "coding")
    while not any(row["phase"] == "grpo" for row in store.metrics()):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"to go on: arft demo {' '.join(overrides)} --task coding --out {out} --seed 5" in said
    assert not (out / "summary.json").exists()
    stopped = [row["step"] for row in store.metrics() if row["phase"] == "grpo"]
    assert stopped == list(range(1, len(stopped) + 1))
    assert len(stopped) < 60
    demo(out, 5, ("coding",), overrides)
    assert [r["step"] for r in store.metrics() if r["phase"] == "grpo"] == list(range(1, 61))
    parts = [row["part"] for row in store.metrics() if row["phase"] == "seconds"]
    assert parts.count("grpo") == 2
    assert sum(row["phase"] == "memory" for row in store.metrics()) == 2
    assert list(json.loads((out / "summary.json").read_text())["gain"]) == ["coding"]
