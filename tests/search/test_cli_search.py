from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from visual_arft.cli import main

ROWS = [
    {"id": "eiffel", "contents": "Eiffel Tower\nAn iron tower in Paris, 330 m high."},
    {"id": "ben", "contents": "Big Ben\nThe bell of a clock tower in London."},
]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a corpus in it."""
    monkeypatch.chdir(tmp_path)
    Path("c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("bad.jsonl").write_text('{"id": 1}\n')
    Path("hollow").mkdir()
    return tmp_path


def arft(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line), prog_name="arft")


def test_a_newcomer_builds_asks_and_counts():
    assert arft("search build c.jsonl --out i").stdout == "i: 2 passages\n"
    assert arft("search query i 'How high is the iron tower?' --limit 1").stdout.splitlines() == [
        "1. Eiffel Tower",
        "   eiffel",
        "   Eiffel Tower An iron tower in Paris, 330 m high.",
    ]
    [first, _] = json.loads(arft("search query i tower --json").stdout)
    assert first["url"] in ("eiffel", "ben")
    assert json.loads(arft("search stats i --json").stdout)["passages"] == 2
    assert arft("search build c.jsonl --out i").stdout == "i: 2 passages\n"  # there already
    nothing = arft("search query i zebra")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "nothing was found\n")


def test_a_query_is_recorded_and_replayed_without_its_engine():
    asked = "search query c.jsonl tower --json --recording r.sqlite"
    told = arft(f"{asked} --recording-mode record").stdout
    Path("c.jsonl").unlink()
    assert arft(f"{asked} --recording-mode replay").stdout == told
    missing = arft("search query c.jsonl bell --recording r.sqlite --recording-mode replay")
    assert missing.exit_code == 2
    assert "r.sqlite has no answer of 'corpus c.jsonl' to 'bell'" in missing.stderr
    stats = json.loads(arft("search stats r.sqlite --json").stdout)
    assert (stats["answers"], stats["backends"]) == (1, {"corpus c.jsonl": 1})


def test_an_index_is_served_until_ctrl_c():
    arft("search build c.jsonl --out i")
    command = [sys.executable, "-m", "visual_arft", "search", "serve", "i", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        address = serving.stderr.readline().partition(" ")[0]
        with httpx2.Client(trust_env=False) as client:
            body = {"queries": ["iron", "bell"], "topk": 1, "return_scores": True}
            found = client.post(address, json=body).json()["result"]
        assert [each[0]["document"]["id"] for each in found] == ["eiffel", "ben"]
        assert "iron" in arft(f"search query {address} iron").stdout
        os.kill(serving.pid, signal.SIGINT)
        assert serving.wait(timeout=20) == 130


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("search", "Usage"),
        ("search build", "SOURCE"),
        ("search build c.jsonl", "--out"),
        ("search build gone.jsonl --out i", "gone.jsonl: No such file"),
        ("search build bad.jsonl --out i", "bad.jsonl, row 1, key 'contents'"),
        ("search build hollow --out i", "hollow: no file there ends in .jsonl"),
        ("search build c.jsonl --out hollow", "hollow: not an index"),
        ("search build c.jsonl --out c.jsonl", "c.jsonl"),
        ("search query hollow tower", "hollow: no file there ends in"),
        ("search query gone tower", "gone: No such file"),
        ("search query c.jsonl ' '", "' '"),
        ("search query c.jsonl tower --limit 0", "0"),
        ("search query http:// tower", "'http://' is not an address"),
        ("search query http://127.0.0.1:9 tower", "127.0.0.1:9"),
        ("search query searxng=nowhere tower", "'nowhere' is not an address"),
        ("search query serper tower", "SERPER_API_KEY"),
        ("search query c.jsonl x --recording g.sqlite --recording-mode replay", "no such recording"),
        ("search query c.jsonl x --recording c.jsonl", "c.jsonl: not a recording"),
        ("search serve hollow", "hollow: not an index; build one by arft search build"),
        ("search serve i --port 70000", "70000"),
        ("search stats gone", "gone: no such recording"),
        ("search stats hollow", "hollow: not an index"),
        ("search stats c.jsonl", "c.jsonl: not a recording"),
    ],
)  # fmt: skip
def test_wrong_use_ends_with_2_and_a_short_message_that_names_it(
    line: str, named: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    result = arft(line)
    assert result.exit_code == 2, result.output
    assert named in result.stderr
    assert "Traceback" not in result.output
    assert line == "search" or 1 <= len(result.stderr.strip().splitlines()) <= 3


@pytest.mark.parametrize("command", ["", "build", "query", "serve", "stats"])
def test_every_help_text_teaches_by_an_example(command: str):
    result = arft(f"search {command} --help")
    assert result.exit_code == 0
    assert "arft search " in result.stdout.split("Usage:")[1].partition("\n")[2]
