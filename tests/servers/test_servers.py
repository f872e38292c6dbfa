"""Servers that other people wrote, with the tiny model, as what a benchmark asks.

Each runs in a virtual environment of its own, which `make servers` sets up; without it the test
skips.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from visual_arft.cli import main
from visual_arft.envs.coding.grammar import fenced, problem_set
from visual_arft.envs.coding.repairs import program
from visual_arft.envs.coding.tool import PythonSessions
from visual_arft.episode import Episode
from visual_arft.experiment.rules import coding_env
from visual_arft.images import MemoryImages
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.policies import Sampling
from visual_arft.policies.openai import OpenAIPolicy
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.policies.settings import ServerConfig
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rollout import play
from visual_arft.sandbox import Sandbox
from visual_arft.store import Store
from visual_arft.synth.coding import MiniMatCoding
from visual_arft.tags import wrap
from visual_arft.types import Prompt

HERE = Path(__file__).parent
VENVS = HERE.parents[1] / ".cache" / "venvs"
RECIPE = """
env = "coding"
context = "append"
data.source = "mini-mat-coding"
rubric.answer = 1.0
grpo.max_new_tokens = 48
"""
GREEDY = Sampling(temperature=0, max_new_tokens=48)
START_S = 300


def transformers_serve(folder: Path, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return ["-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu",
            "--dtype", "float32", *where]  # fmt: skip


def vllm(folder: Path, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32",
            "--max-model-len", "2048", "--max-num-seqs", "8", "--enforce-eager",
            "--limit-mm-per-prompt", '{"image": 8, "video": 0}', *where]  # fmt: skip


SERVERS = [
    pytest.param("serve", transformers_serve, marks=pytest.mark.serve, id="transformers serve"),
    pytest.param("vllm", vllm, marks=pytest.mark.vllm, id="vLLM"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder whose model is the embedded base."""
    folder = tmp_path_factory.mktemp("run")
    load(ModelConfig(), MemoryImages()).save(folder / "model")
    (folder / "config.toml").write_text(RECIPE)
    return folder


@contextmanager
def served(name: str, command: Any, folder: Path) -> Generator[str]:
    """The address of a server that has started."""
    python = Path(os.environ.get(f"ARFT_{name.upper()}_PYTHON", VENVS / name / "bin" / "python"))
    if not python.exists():
        pytest.skip(f"{python} is not there; make servers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        **{"PYTHONPATH": str(HERE / "shim"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        **{"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        **{"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
    }
    log = folder.parent / f"{name}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [python, *command(folder, port)], env={**os.environ, **settings}, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(address, timeout=5).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def prompts(images: MemoryImages, count: int) -> list[Prompt]:
    """What a good agent sees on its way: chats of one to three turns, with one or two pictures."""
    seen: list[Prompt] = []
    with Sandbox() as sandbox:
        for task in MiniMatCoding("test", 0, images)(0, count):
            names = (task.kind,)
            box = (100, 100, 600, 600)
            replies = [
                wrap(".", "problem", problem_set(names)),
                wrap(".", "code", fenced(program(*names, box=box))),
                wrap(".", "answer", "x"),
            ]
            policy = ScriptedPolicy(replies if task.kind != "none" else [replies[0], replies[2]])
            episode = Episode(task, coding_env("append", tiny=True))
            asyncio.run(play([episode], policy, {"python": PythonSessions(sandbox, images)}))
            seen += policy.prompts
    return seen


def bench(arguments: Sequence[str], out: Path) -> dict[str, Any]:
    line = ["bench", "mini-mat-coding", *arguments, "--limit", "24", "--out", str(out), "--json"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def answers(out: Path) -> list[str | None]:
    played = {entry.trajectory.task.id: entry.trajectory.answer for entry in Store(out)}
    return [played[task] for task in sorted(played)]


def same(left: Sequence[object], right: Sequence[object]) -> float:
    """The share of places at which both say the same."""
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)


@pytest.mark.parametrize(("name", "command"), SERVERS)
def test_a_server_says_what_the_model_says_here(name: str, command: Any, run: Path, tmp_path: Path):
    images = MemoryImages()
    asked = prompts(images, 8)
    assert max(len(prompt.images) for prompt in asked) == 2
    local = TransformersPolicy(load(ModelConfig(path=str(run / "model")), images), GREEDY)
    here = asyncio.run(local.generate(asked))
    with served(name, command, run / "model") as address:
        server = ServerConfig(base_url=address)

        async def ask() -> list[str]:
            policy = OpenAIPolicy(str(run / "model"), server, GREEDY, images)
            try:
                return [reply.text for reply in await policy.generate(asked)]
            finally:
                await policy.close()

        there = asyncio.run(ask())
        engine = ("--engine", "openai", "--base-url", address, "--served-as", str(run / "model"))
        direct = bench([*engine, "--model", str(run), "--mode", "direct"], tmp_path / "direct")
        agent = bench([*engine, "--model", str(run)], tmp_path / "agent")
    # Not all: kernels round differently, and a tie may fall the other way.
    assert same([reply.text for reply in here], there) >= 0.9
    ours = bench(["--model", str(run), "--mode", "direct"], tmp_path / "ours")
    assert same(answers(tmp_path / "direct"), answers(tmp_path / "ours")) >= 0.9
    assert abs(direct["overall"]["paper"]["em"] - ours["overall"]["paper"]["em"]) < 9
    assert direct["tokens"]["completion"] > 0
    assert agent["overall"]["paper"]["n"] == 24
