from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from visual_arft.bench.report import MARKDOWN_HEADER, as_dict, markdown_row, table
from visual_arft.bench.score import score, score_path
from visual_arft.errors import UserError
from visual_arft.store import Store
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    Prompt,
    StopReason,
    Task,
    ToolResult,
    Trajectory,
    Turn,
    Usage,
)

REFERENCE = Path(
    os.environ.get("ARFT_REFERENCE", Path(__file__).parents[2] / "../shared/reference")
)


def played(name: str, answer: str | None, *, kind: str = "", stop: str = "answered") -> Trajectory:
    action = Malformed(reason="no") if answer is None else Action(kind="answer", content=answer)
    turn = Turn(prompt=Prompt(messages=()), completion=Completion(text=""), action=action)
    return Trajectory(
        task=Task(id=name, question="", answers=("red tower",), kind=kind),
        turns=(turn,),
        stop_reason=StopReason(stop),
    )


RIGHT, HALF = played("1", "Red tower."), played("2", "tower")
WRONG, NONE = played("3", "blue"), played("4", None, stop="malformed")
BROKEN = played("5", None, stop="tool_failed")


def test_no_answer_stays_in_the_count_and_a_failed_tool_does_not():
    report = score([RIGHT, HALF, WRONG, NONE, BROKEN])
    paper = report.overall["paper"]
    # F1: 1, 2/3 (1 shared of 1 and of 2), 0 and 0.
    assert (paper.n, paper.em, paper.f1) == (4, 25.0, 41.67)
    assert paper.em_ci[0] <= paper.em <= paper.em_ci[1]
    assert report.counts == {
        "unanswered": 1,
        "malformed": 1,
        "truncated": 0,
        "max_turns": 0,
        "tool_errors": 0,
        "tool_failed": 1,
    }
    assert report.mean_turns == 1.0


def test_a_failed_episode_that_came_through_later_is_forgotten():
    report = score([BROKEN, played("5", "red tower")])
    assert report.counts["tool_failed"] == 0
    assert report.overall["paper"].n == 1


def test_kinds_are_told_apart_where_there_are_several():
    report = score([played("1", "red tower", kind="dark"), played("2", "x", kind="crop")])
    assert {kind: cells["paper"].em for kind, cells in report.kinds.items()} == {
        "dark": 100.0,
        "crop": 0.0,
    }
    assert score([RIGHT, WRONG]).kinds == {}


def test_a_task_played_several_times_counts_once_with_its_mean():
    report = score(
        [RIGHT, HALF, WRONG], [RIGHT, WRONG.model_copy(update={"task": HALF.task}), WRONG]
    )
    paper = report.overall["paper"]
    # F1 by task: 1; (2/3 + 0) / 2; 0.
    assert (paper.n, paper.em, paper.f1) == (3, 33.33, 44.44)
    assert report.repeats is not None
    assert report.repeats.em == (33.33, 33.33)
    assert report.repeats.f1 == (55.56, 33.33)
    assert report.repeats.em_sd == 0.0
    assert report.repeats.f1_sd == 15.72  # 22.23 / sqrt(2)
    assert score([RIGHT]).repeats is None


def test_pass_at_k_counts_what_was_right_at_least_once_of_what_came_through_each_time():
    one, two, three = played("1", "red tower"), played("2", "x"), played("3", "x")
    right = [played(str(number), "red tower") for number in (1, 2, 3)]
    failed = played("3", None, stop="tool_failed")
    repeats = score([one, two, three], [right[0], right[1], failed]).repeats
    assert repeats is not None
    assert repeats.pass_at_k == 100.0
    repeats = score([two, three], [two, right[2]]).repeats
    assert repeats is not None
    assert repeats.pass_at_k == 50.0


def test_tool_errors_and_tokens_are_counted():
    usage = Usage(prompt_tokens=10, completion_tokens=2)
    [turn] = RIGHT.turns
    wrong = turn.model_copy(
        update={
            "result": ToolResult(error="no such name"),
            "completion": Completion(text="", usage=usage),
        }
    )
    local = Completion(text="", prompt_ids=(1, 2, 3), token_ids=(4,))
    episode = RIGHT.model_copy(
        update={"turns": (wrong, turn.model_copy(update={"completion": local}))}
    )
    report = score([episode])
    assert report.counts["tool_errors"] == 1
    assert report.tokens is not None
    assert (report.tokens.prompt, report.tokens.completion) == (13, 3)
    assert score([RIGHT]).tokens is None


def test_a_benchmark_s_run_knows_its_suite(tmp_path):
    task = Task(id="1", question="", answers=("发票号码",))
    turn = RIGHT.turns[0].model_copy(update={"action": Action(kind="answer", content="发票代码")})
    Store(tmp_path).append([RIGHT.model_copy(update={"task": task, "turns": (turn,)})])
    assert score_path(tmp_path).overall["paper"].f1 == 0.0
    (tmp_path / "config.toml").write_text('suite = "mat-coding"\nmodel = "tiny"\n')
    report = score_path(tmp_path)
    assert (report.name, report.overall["paper"].f1) == ("mat-coding", 75.0)  # 3 of 4 shared


def test_a_run_is_scored_by_phase(tmp_path):
    store = Store(tmp_path)
    store.append([WRONG], {"phase": "direct"})
    assert score_path(tmp_path).overall["paper"].em == 0.0
    store.append([RIGHT], {"phase": "trained"})
    assert score_path(tmp_path, phase="trained").overall["paper"].em == 100.0
    with pytest.raises(UserError, match="holds the phases direct, trained; choose one"):
        score_path(tmp_path)
    with pytest.raises(UserError, match="has no phase 'trian'"):
        score_path(tmp_path, phase="trian")


def test_a_run_without_a_finished_episode_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of 1 episodes came through"):
        score([BROKEN], name="mine")
    (tmp_path / "trajectories.jsonl").touch()
    with pytest.raises(UserError, match="holds no episodes yet"):
        score_path(tmp_path)


@pytest.mark.skipif(not (REFERENCE / "predictions").exists(), reason="no reference files")
def test_published_predictions_get_the_published_table():
    folder = REFERENCE / "predictions"

    def scores(cells):
        return cells["paper"].f1, cells["paper"].em

    coding = score_path(folder / "mat_coding_7b_v2.json", "mat-coding")
    assert scores(coding.overall) == (50.87, 35.00)
    assert scores(coding.splits["simple"]) == (61.52, 52.86)
    assert scores(coding.splits["hard"]) == (45.13, 25.38)
    search = score_path(folder / "mat_search_7b.json", "mat-search")
    assert scores(search.overall) == (63.77, 55.33)
    assert scores(search.splits["simple"]) == (71.78, 66.67)
    assert scores(search.splits["hard"]) == (55.77, 44.00)
    bamboogle = score_path(folder / "bamboogle_7b.json", "bamboogle")
    assert scores(bamboogle.overall) == (60.15, 48.80)
    assert bamboogle.counts["unanswered"] == 6


def test_a_report_is_shown_as_a_table_as_json_and_as_a_row():
    kinds = [played("1", "red tower", kind="dark"), played("2", "x", kind="crop")]
    report = score(kinds, name="mine")
    screen = io.StringIO()
    Console(width=100, file=screen).print(table(report))
    text = screen.getvalue()
    assert "dark" in text
    assert "50.00" in text
    assert "tool_failed 0" in text
    assert json.loads(json.dumps(as_dict(report)))["overall"]["paper"]["em"] == 50.0
    assert markdown_row(report).startswith("| mine | 2 | 50.00 | 0.0 to 100.0 |")
    assert markdown_row(report).count("|") == MARKDOWN_HEADER.splitlines()[0].count("|")
