"""What a demo reached, out of its records: numbers, a table and a page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from visual_arft.bench.cells import Cell
from visual_arft.bench.compare import gain
from visual_arft.bench.score import score
from visual_arft.store import Store
from visual_arft.types import Trajectory
from visual_arft.viewer import Section, write_report

T1 = "_t1"
"""Ends the name of a phase that was played at temperature 1."""

RESHUFFLED = "trained_passages_reshuffled"
"""Other passages in another order come back from each search, and the gain must stay."""

_COMMON = ("direct", "cold_start", "trained", "trained_tools_off", "trained_images_shuffled")
PHASES = {"coding": _COMMON, "search": (*_COMMON, RESHUFFLED)}
"""What is measured of each agent, greedily and at temperature 1."""

_SHOWN_EPISODES = 8
_CHARTED = ("step", "reward", "reward_answer", "reward_format", "tool_use", "turns", "reply_tokens")

Summary = dict[str, Any]
Played = Mapping[str, Sequence[Trajectory]]
"""Episodes by their phase."""


def conclude(out: Path, seed: int) -> Summary:
    """The summary of a demo, once it is written as `summary.json` beside `report.html`."""
    summary = summarise(out, seed)
    write_page(out, summary)
    partial = out / "summary.part"
    partial.write_text(json.dumps(summary, indent=2) + "\n")
    partial.replace(out / "summary.json")  # whole or not at all: it says that the demo is complete
    return summary


def summarise(out: Path, seed: int) -> Summary:
    """What each agent reached that has been measured to the end.

    Under an agent's name are its phases, `{"n", "em", "em_ci", "f1", "f1_ci", "em_t1"}` in percent.
    `gain` is what it gained over its cold start, in points and task by task; `kinds` has the phases
    by kind of task; `seconds` the time spent, over all the times the demo was started.
    """
    stores = {agent: Store(out / agent) for agent in PHASES}
    played = {agent: _played(store) for agent, store in stores.items()}
    agents = [agent for agent in PHASES if _is_complete(agent, played[agent])]
    return {
        "seed": seed,
        **{agent: _phases(agent, played[agent]) for agent in agents},
        "gain": {agent: _gain(played[agent]) for agent in agents},
        "kinds": {agent: _kinds(agent, played[agent]) for agent in agents},
        "seconds": {agent: _seconds(stores[agent]) for agent in agents},
        "peak_memory_mb": sum(_peak_mb(stores[agent]) for agent in agents),  # side by side
    }


def print_table(summary: Summary) -> None:
    """Prints the phases of each agent with their intervals, and what it gained."""
    title = f"Held-out tasks never trained on, greedy; seed {summary['seed']}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, title_justify="left")
    table.add_column("agent and phase", no_wrap=True)
    for heading in ("n", "EM [95%]", "F1 [95%]", "EM, T=1"):
        table.add_column(heading, justify="right")
    for agent, gained in summary["gain"].items():
        table.add_row(agent)
        for phase, cell in summary[agent].items():
            name = phase.removeprefix("trained_").replace("_", " ")
            table.add_row(f"  {name}", *_texts(cell), f"{cell['em_t1']:.1f}")
        table.add_row("  gain", *_texts(gained))
        table.add_section()
    Console().print(table)


def write_page(out: Path, summary: Summary) -> None:
    """Writes `report.html`: the phases, curves of training, and episodes before and after."""
    seconds = [sum(parts.values()) for parts in summary["seconds"].values()]
    facts = {
        "seed": str(summary["seed"]),
        "minutes": f"{max(seconds) / 60:.1f}",
        "peak memory": f"{summary['peak_memory_mb']} MB",
    }
    sections = [_section(agent, Store(out / agent), summary[agent]) for agent in summary["gain"]]
    write_report(out / "report.html", title="arft demo", facts=facts, sections=sections)


def _played(store: Store) -> Played:
    phases: defaultdict[str, list[Trajectory]] = defaultdict(list)
    for entry in store:
        phases[entry.phase].append(entry.trajectory)
    return phases


def _is_complete(agent: str, played: Played) -> bool:
    """Whether every phase was played on the same tasks, so that none was cut short."""
    wanted = [phase + end for phase in PHASES[agent] for end in ("", T1)]
    tasks = [{each.task.id for each in played.get(phase, ())} for phase in wanted]
    return bool(tasks[0]) and all(each == tasks[0] for each in tasks)


def _phases(agent: str, played: Played) -> Summary:
    cells = {phase: _cell(played[phase]) for phase in PHASES[agent]}
    warm = {phase: _cell(played[phase + T1]).em for phase in PHASES[agent]}
    return {phase: {**_plain(cell), "em_t1": warm[phase]} for phase, cell in cells.items()}


def _cell(trajectories: Sequence[Trajectory]) -> Cell:
    return score(trajectories).overall["paper"]


def _plain(cell: Cell) -> Summary:
    return cell.model_dump(mode="json")


def _gain(played: Played) -> Summary:
    return _plain(gain(played["trained"], played["cold_start"]))


def _kinds(agent: str, played: Played) -> Summary:
    reports = {phase: score(played[phase]).kinds for phase in PHASES[agent]}
    return {
        phase: {kind: _plain(cells["paper"]) for kind, cells in sorted(kinds.items())}
        for phase, kinds in reports.items()
    }


def _seconds(store: Store) -> dict[str, float]:
    spent: defaultdict[str, float] = defaultdict(float)
    for row in store.metrics():
        if row["phase"] == "seconds":
            spent[row["part"]] += row["seconds"]
    return {part: round(seconds, 1) for part, seconds in spent.items()}


def _peak_mb(store: Store) -> int:
    return max((row["peak_mb"] for row in store.metrics() if row["phase"] == "memory"), default=0)


def _section(agent: str, store: Store, results: Mapping[str, Any]) -> Section:
    trained = [row for row in store.metrics() if row["phase"] == "grpo"]
    return Section(
        name=agent,
        results=results,
        metrics=[{key: row[key] for key in _CHARTED if key in row} for row in trained],
        episodes=_before_and_after(_played(store)),
        images=store.images,
    )


def _before_and_after(played: Played) -> list[tuple[Trajectory, Trajectory]]:
    """The same tasks before and after reinforcement learning, first one of each kind."""
    before = {each.task.id: each for each in played["cold_start"]}
    after = {each.task.id: each for each in played["trained"]}
    by_kind = {before[task].task.kind: task for task in reversed(before)}
    others = [task for task in before if task not in by_kind.values()]
    return [(before[task], after[task]) for task in [*by_kind.values(), *others][:_SHOWN_EPISODES]]


def _texts(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    em, f1 = (
        f"{cell[name]:.1f} [{cell[name + '_ci'][0]:.1f}, {cell[name + '_ci'][1]:.1f}]"
        for name in ("em", "f1")
    )
    return str(cell["n"]), em, f1
