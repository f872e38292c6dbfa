"""A benchmark played by a server, and by one that fails in every way it can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from visual_arft.cli import main
from visual_arft.policies.fake_server import Asked, FakeServer, Fault
from visual_arft.store import Store
from visual_arft.types import StopReason

TASKS = 36
FLAWS = (Fault(dies=True), Fault(429), Fault(500), Fault(), Fault(body=b"{"))


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def agent(asked: Asked) -> str:
    """Names a problem, turns the picture, and answers something that follows from what it sees."""
    if "cv2.imwrite" in asked.text:
        return f"<think>.</think><answer>{len(asked.images[0]) % 7}</answer>"
    if "<tips>Write" in asked.text:
        code = "import cv2\nimage = cv2.imread('path_to_input_image.jpg')\n"
        code += "cv2.imwrite('path_to_output_image.jpg', cv2.flip(image, -1))"
        return f"<think>.</think><code>\n```python\n{code}\n```\n</code>"
    return "<think>.</think><problem>{'rotation180'}</problem>"


def bench(server: FakeServer, out: Path, *more: str) -> Result:
    line = ["bench", "mini-mat-coding", "--engine", "openai", "--base-url", server.base_url]
    line += ["--model", "m", "--limit", str(TASKS), "--out", str(out), "--json", *more]
    return CliRunner().invoke(main, line)


def answers(out: Path) -> dict[str, str | None]:
    return {entry.trajectory.task.id: entry.trajectory.answer for entry in Store(out)}


def test_an_agent_behind_a_server_plays_with_pictures_and_code(tmp_path: Path):
    with FakeServer(agent) as server:
        result = bench(server, tmp_path)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["overall"]["paper"]["n"], report["mean_turns"]) == (TASKS, 3.0)
    assert report["tokens"] == {"prompt": 30 * TASKS, "completion": 15 * TASKS}
    assert f"requests {3 * TASKS}" in result.stderr
    results = [entry.trajectory.turns[1].result for entry in Store(tmp_path)]
    assert all(each is not None and each.images for each in results)
    assert all(len(asked.images) == 1 for asked in server.asked)
    [row] = Store(tmp_path).metrics()
    assert (row["phase"], row["requests"], row["prompt_tokens"]) == ("model", 3 * TASKS, 30 * TASKS)


def test_a_server_that_stumbles_changes_nothing(tmp_path: Path):
    def stumbling(asked: Asked) -> str | Fault:
        place = asked.number % (2 * len(FLAWS))
        return FLAWS[place] if place < len(FLAWS) else agent(asked)

    with FakeServer(agent) as server:
        bench(server, tmp_path / "smooth")
    with FakeServer(stumbling) as server:
        result = bench(server, tmp_path / "rough", "--retries", "30", "--backoff", "0.001")
    assert result.exit_code == 0, result.stderr
    assert answers(tmp_path / "rough") == answers(tmp_path / "smooth")
    assert len(list(Store(tmp_path / "rough"))) == TASKS


@pytest.mark.parametrize("fault", [*FLAWS[:4], Fault(hang_s=30)], ids=str)
def test_a_server_that_goes_away_costs_nothing_that_was_finished(tmp_path: Path, fault: Fault):
    timeout = "0.5" if fault.hang_s else "60"
    hasty = ("--retries", "1", "--backoff", "0.001", "--timeout", timeout, "--concurrency", "4")
    with FakeServer(lambda asked: agent(asked) if asked.number < 40 else fault) as server:
        result = bench(server, tmp_path, *hasty)
    assert result.exit_code == 1
    assert "episodes in a row failed" in result.stderr
    assert "Traceback" not in result.stderr
    finished = {
        entry.trajectory.task.id
        for entry in Store(tmp_path)
        if entry.trajectory.stop_reason is StopReason.ANSWERED
    }
    assert finished
    with FakeServer(agent, server.port) as server:
        result = bench(server, tmp_path)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["overall"]["paper"]["n"] == TASKS
    kept = 40 - 3 * len(finished)  # replies of episodes that were cut are not asked for again
    left = 3 * (TASKS - len(finished)) - kept
    assert left <= len(server.asked) <= left + 4  # four may have been under way at the end


def test_replies_of_another_run_are_not_asked_for_again(tmp_path: Path):
    cache = ("--cache", str(tmp_path / "kept.sqlite"))
    with FakeServer(agent) as server:
        bench(server, tmp_path / "one", *cache)
        before = len(server.asked)
        result = bench(server, tmp_path / "two", *cache)
        assert len(server.asked) == before
    assert f"from_cache {3 * TASKS}" in result.stderr
    assert answers(tmp_path / "one") == answers(tmp_path / "two")


def test_each_repetition_asks_anew(tmp_path: Path):
    with FakeServer(agent) as server:
        result = bench(server, tmp_path, "--repeat", "2", "--temperature", "1")
    assert len(server.asked) == 2 * 3 * TASKS
    assert {asked.body["seed"] for asked in server.asked} == {0, 1}
    assert len(json.loads(result.stdout)["repeats"]["em"]) == 2


@pytest.mark.parametrize(("status", "said"), [(401, "OPENAI_API_KEY"), (404, "check the address")])
def test_what_the_user_can_mend_ends_the_run_at_once(tmp_path: Path, status: int, said: str):
    with FakeServer(lambda asked: Fault(status)) as server:
        result = bench(server, tmp_path)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(server.asked) <= 8
