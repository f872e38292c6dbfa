"""The main job: both agents trained side by side on the embedded base, measured, and reported.

Each agent has a process and a core of its own. Everything is recorded as it is done, so a demo that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from visual_arft.bench.score import gain, score
from visual_arft.config import load_recipe
from visual_arft.envs.coding.env import PYTHON
from visual_arft.envs.direct import DirectEnv
from visual_arft.envs.search.engines import Silent
from visual_arft.envs.search.env import SEARCH
from visual_arft.envs.search.tool import SearchTool
from visual_arft.errors import UserError
from visual_arft.experiment.controls import Swapped, Unchanged, swapped_pictures
from visual_arft.store import Store
from visual_arft.synth.search import MiniMatSearch
from visual_arft.synth.splits import TEST
from visual_arft.types import Trajectory
from visual_arft.viewer import Section, write_report

if TYPE_CHECKING:
    from visual_arft.experiment.training import Run

AGENTS = ("coding", "search")
PHASES = ("direct", "cold_start", "trained", "trained_tools_off", "trained_images_shuffled")
"""What is measured of each agent, greedily and at temperature 1."""

RESHUFFLED = "trained_passages_reshuffled"
"""Search only: other passages in another order come back, and the gain must stay."""

T1 = "_t1"
"""Ends the name of a phase that was played at temperature 1."""

_SHOWN_EPISODES = 8
_CHARTED = ("step", "reward", "reward_answer", "reward_format", "tool_use", "turns", "reply_tokens")


def demo(out: Path, seed: int, tasks: Sequence[str]) -> None:
    """Trains and measures the agents named, then prints the table and writes the report."""
    kept = out / "summary.json"
    if _is_done(kept, seed, tasks):
        click.echo(
            f"{out} is complete, and this is its table; remove it, or choose another --out, to "
            "train again.",
            err=True,
        )
    else:
        _run_agents(out, seed, tasks)
        summary = _summarise(out, seed)
        _report(out, summary)
        kept.write_text(json.dumps(summary, indent=2) + "\n")
    _print(json.loads(kept.read_text()))
    click.echo(f"See {out / 'report.html'}; every episode: arft view {out / tasks[0]}", err=True)


def run_agent(out: Path, seed: int, task: str) -> None:
    """One agent's whole part, in this process: training, measurements and controls."""
    import torch

    from visual_arft.experiment.talk import Talk
    from visual_arft.experiment.training import COLD_START, TRAINED, Run
    from visual_arft.sandbox import Sandbox

    torch.set_num_threads(1)
    with as_file(files("visual_arft") / "recipes" / f"demo-{task}.toml") as path:
        recipe = load_recipe(path, [f"seed={seed}"])
    with Sandbox(workers=2) as sandbox:
        run = Run(recipe, out / task, sandbox, Talk(task))
        # The base answers at once; practice has taught it to.
        _both(run, "direct", env=DirectEnv("{question}"))
        run.cold_start()
        _both(run, COLD_START)
        run.grpo()
        played = _both(run, TRAINED)
        images = run.store.images
        if task == "coding":
            swapped = Swapped(run.game.held_out_tools(images)[PYTHON], played)
            _both(run, "trained_tools_off", tools={PYTHON: Unchanged()})
            _both(run, "trained_images_shuffled", tools={PYTHON: swapped})
        else:
            searcher = MiniMatSearch(TEST, 0, images)
            _both(run, "trained_tools_off", tools={SEARCH: SearchTool(Silent())})
            _both(run, "trained_images_shuffled", tasks=swapped_pictures(run.held_out))
            _both(run, RESHUFFLED, tools={SEARCH: searcher.tool(seed=1)})
    own, children = (
        resource.getrusage(who).ru_maxrss // 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    run.store.append_metrics({"phase": "memory", "peak_mb": own + children})


def _both(run: Run, phase: str, **how: Any) -> list[Trajectory]:
    """The greedy episodes of a phase, after playing it greedily and at temperature 1."""
    played = run.measure(phase, temperature=0.0, **how)
    run.measure(phase + T1, temperature=1.0, **how)
    return played


def _run_agents(out: Path, seed: int, tasks: Sequence[str]) -> None:
    """Each agent in its own process, on one thread: side by side they do not slow each other."""
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = {
        task: subprocess.Popen(
            [sys.executable, "-m", __name__, str(out), str(seed), task], env=environment
        )
        for task in tasks
    }
    try:
        failed = [task for task, process in started.items() if process.wait() != 0]
    except KeyboardInterrupt:
        for process in started.values():
            process.send_signal(signal.SIGINT)
            process.wait()
        raise
    if failed:
        raise RuntimeError(f"the {' and the '.join(failed)} agent failed; see the lines above")


def _is_done(summary: Path, seed: int, tasks: Sequence[str]) -> bool:
    """Whether these agents are measured; a folder of another seed is not to be mixed with."""
    if not summary.exists():
        return False
    known = json.loads(summary.read_text())
    if known["seed"] != seed:
        raise UserError(
            f"{summary}: a demo with --seed {known['seed']}; choose another --out for seed {seed}"
        )
    return all(task in known for task in tasks)


def _summarise(out: Path, seed: int) -> dict[str, Any]:
    """What every agent in the folder reached; the form is part of the command's contract."""
    agents = {task: Store(out / task) for task in AGENTS if _trained(out / task)}
    summary: dict[str, Any] = {"seed": seed}
    for task, store in agents.items():
        phases: defaultdict[str, list[Trajectory]] = defaultdict(list)
        for entry in store:
            phases[entry.phase].append(entry.trajectory)
        wanted = [phase for phase in (*PHASES, RESHUFFLED) if phase in phases]
        summary[task] = {
            phase: {
                **score(phases[phase]).overall["paper"].model_dump(mode="json"),
                "em_t1": score(phases[phase + T1]).overall["paper"].em,
                "by_kind": {k: c["paper"].em for k, c in score(phases[phase]).kinds.items()},
            }
            for phase in wanted
        }
        gained = gain(phases["trained"], phases["cold_start"])
        summary[task]["gain"] = gained.model_dump(mode="json")
    summary["seconds"] = {task: _seconds(store) for task, store in agents.items()}
    summary["peak_memory_mb"] = sum(map(_peak_mb, agents.values()))  # they run side by side
    return summary


def _trained(folder: Path) -> bool:
    return (folder / "model").exists()


def _seconds(store: Store) -> dict[str, float]:
    """Seconds spent on each part, over all the times the demo was started."""
    spent: defaultdict[str, float] = defaultdict(float)
    for row in store.metrics():
        if row["phase"] == "seconds":
            spent[row["part"]] += row["seconds"]
    return {part: round(seconds, 1) for part, seconds in spent.items()}


def _peak_mb(store: Store) -> int:
    return max((row["peak_mb"] for row in store.metrics() if row["phase"] == "memory"), default=0)


def _report(out: Path, summary: Mapping[str, Any]) -> None:
    sections: list[Section] = []
    for task in AGENTS:
        if task not in summary:
            continue
        store = Store(out / task)
        results = {phase: cell for phase, cell in summary[task].items() if phase != "gain"}
        sections.append(
            Section(
                name=task,
                results=results,
                metrics=[
                    {key: row[key] for key in _CHARTED if key in row}
                    for row in store.metrics()
                    if row["phase"] == "grpo"
                ],
                episodes=_before_and_after(store),
                images=store.images,
            )
        )
    minutes = max(sum(parts.values()) for parts in summary["seconds"].values()) / 60
    facts = {
        "seed": str(summary["seed"]),
        "minutes": f"{minutes:.1f}",
        "peak memory": f"{summary['peak_memory_mb']} MB",
    }
    write_report(out / "report.html", title="arft demo", facts=facts, sections=sections)


def _before_and_after(store: Store) -> list[tuple[Trajectory, Trajectory]]:
    """The same tasks after the cold start and after reinforcement learning, one of each kind first."""
    sides: dict[str, dict[str, Trajectory]] = {"cold_start": {}, "trained": {}}
    for entry in store:
        if entry.phase in sides:
            sides[entry.phase][entry.trajectory.task.id] = entry.trajectory
    before, after = sides["cold_start"], sides["trained"]
    by_kind = {before[task].task.kind: task for task in reversed(before) if task in after}
    others = [task for task in before if task in after and task not in by_kind.values()]
    chosen = [*by_kind.values(), *others][:_SHOWN_EPISODES]
    return [(before[task], after[task]) for task in chosen]


def _print(summary: Mapping[str, Any]) -> None:
    table = Table(title=f"Held-out tasks never trained on, greedy; seed {summary['seed']}")
    for heading in ("agent", "phase", "n", "EM [95%]", "F1 [95%]", "EM at T=1"):
        table.add_column(heading, justify="left" if heading in ("agent", "phase") else "right")
    for task in AGENTS:
        for phase, cell in summary.get(task, {}).items():
            table.add_row(
                task,
                "gain: trained - cold_start" if phase == "gain" else phase,
                str(cell["n"]),
                f"{cell['em']:.1f} [{cell['em_ci'][0]:.1f}, {cell['em_ci'][1]:.1f}]",
                f"{cell['f1']:.1f} [{cell['f1_ci'][0]:.1f}, {cell['f1_ci'][1]:.1f}]",
                f"{cell['em_t1']:.1f}" if "em_t1" in cell else "",
            )
        table.add_section()
    Console().print(table)


def _main(out: str, seed: str, task: str) -> int:
    try:
        run_agent(Path(out), int(seed), task)
    except UserError as error:
        click.echo(f"[{task}] {error}", err=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
