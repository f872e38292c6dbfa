"""The main job: both agents trained side by side on the embedded base, measured, and reported.

Everything is recorded as it is done, so a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from visual_arft.errors import UserError
from visual_arft.experiment.summary import Summary, conclude, print_table

# One thread each: side by side they do not slow each other.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def demo(out: Path, seed: int, tasks: Sequence[str], overrides: Sequence[str] = ()) -> None:
    """Trains and measures the agents named, then prints the table and writes the report.

    Args:
        out: the demo's folder.
        seed: of everything.
        tasks: the agents: `coding`, `search` or both.
        overrides: `key.sub=value` on top of the agents' recipes, as `arft train` takes them.
    """
    known = _known(out / "summary.json", seed)
    missing = [task for task in tasks if task not in known]
    if missing:
        _run_agents(out, seed, missing, overrides)
        known = conclude(out, seed)
    else:
        click.echo(
            f"{out} is complete, and this is its table; remove it, or choose another --out, to "
            "train again.",
            err=True,
        )
    print_table(known)
    click.echo(f"See {out / 'report.html'}; every episode: arft view {out / tasks[0]}", err=True)


def _known(summary: Path, seed: int) -> Summary:
    """What is measured already; a folder of another seed is not to be mixed with."""
    if not summary.exists():
        return {}
    known = json.loads(summary.read_text())
    if known["seed"] != seed:
        raise UserError(
            f"{summary}: a demo with --seed {known['seed']}; choose another --out for seed {seed}"
        )
    return known


def _run_agents(out: Path, seed: int, agents: Sequence[str], overrides: Sequence[str]) -> None:
    """Each agent in its own process, until all have ended."""
    out.mkdir(parents=True, exist_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for agent in agents:
            started[agent] = _start(out, seed, agent, overrides)
        ended = {agent: process.wait() for agent, process in started.items()}
    finally:
        _stop(started.values())
    failed = " and the ".join(agent for agent, status in ended.items() if status)
    if 2 in ended.values():
        raise UserError(f"the {failed} agent stopped, see above; mend that and run the demo again")
    if failed:
        raise RuntimeError(f"the {failed} agent ended with {list(ended.values())}, see above")


def _start(out: Path, seed: int, agent: str, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    module = f"{__package__}.agent"
    line = [sys.executable, "-m", module, str(out), str(seed), agent, *overrides]
    return subprocess.Popen(line, env=os.environ | _ENVIRONMENT)


def _stop(started: Iterable[subprocess.Popen[bytes]]) -> None:
    """Asks agents to end, as Ctrl-C does, and waits for them to leave their records in order."""
    while running := [process for process in started if process.poll() is None]:
        for process in running:
            process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # and again: an agent that is still importing may not have noticed
