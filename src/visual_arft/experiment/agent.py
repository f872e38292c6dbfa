"""One agent's part of the demo, in a process and on a core of its own."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visual_arft.config import RECIPES, load_recipe
from visual_arft.envs.coding.env import PYTHON
from visual_arft.envs.search.backends.memory import Silent
from visual_arft.envs.search.env import SEARCH
from visual_arft.envs.search.tool import SearchTool
from visual_arft.errors import UserError
from visual_arft.experiment.controls import Swapped, Unchanged, swapped_pictures
from visual_arft.experiment.rules import direct_env
from visual_arft.experiment.summary import RESHUFFLED, T1
from visual_arft.experiment.talk import Talk
from visual_arft.sandbox.settings import open_sandbox
from visual_arft.store import Store
from visual_arft.synth.search import MiniMatSearch
from visual_arft.synth.splits import TEST
from visual_arft.types import Trajectory

if TYPE_CHECKING:
    from visual_arft.experiment.training import Run


def run_agent(out: Path, seed: int, agent: str, overrides: Sequence[str] = ()) -> None:
    """Trains one agent, measures it, and plays the controls."""
    from visual_arft.experiment.training import Run

    recipe = load_recipe(RECIPES / f"demo-{agent}.toml", [*overrides, f"seed={seed}"])
    with open_sandbox(recipe.sandbox, workers=2) as sandbox:
        run = Run(recipe, out / agent, sandbox, Talk(agent))
        with _peak_memory(run.store):
            # The base answers at once; practice has taught it to.
            _both(run, "direct", env=direct_env(tiny=True))
            run.cold_start()
            _both(run, "cold_start")
            run.grpo()
            played = _both(run, "trained")
            controls = _coding_controls if agent == "coding" else _search_controls
            controls(run, played)


def _coding_controls(run: Run, played: Sequence[Trajectory]) -> None:
    swapped = Swapped(run.game.held_out_tools(run.store.images)[PYTHON], played)
    _both(run, "trained_tools_off", tools={PYTHON: Unchanged()})
    _both(run, "trained_images_shuffled", tools={PYTHON: swapped})


def _search_controls(run: Run, played: Sequence[Trajectory]) -> None:
    reshuffled = MiniMatSearch(TEST, 0, run.store.images).tool(seed=1)
    _both(run, "trained_tools_off", tools={SEARCH: SearchTool(Silent())})
    _both(run, "trained_images_shuffled", tasks=swapped_pictures([each.task for each in played]))
    _both(run, RESHUFFLED, tools={SEARCH: reshuffled})


def _both(run: Run, phase: str, **how: Any) -> list[Trajectory]:
    """The greedy episodes of a phase, after playing it greedily and at temperature 1."""
    played = run.measure(phase, temperature=0.0, **how)
    run.measure(phase + T1, temperature=1.0, **how)
    return played


@contextmanager
def _peak_memory(store: Store) -> Generator[None]:
    """Records the most memory that this process took, however it ends; its sandbox is small."""
    try:
        yield
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        store.append_metrics({"phase": "memory", "peak_mb": peak})


def _main(out: str, seed: str, agent: str, *overrides: str) -> int:
    signal.signal(signal.SIGINT, _stop)
    try:
        run_agent(Path(out), int(seed), agent, overrides)
    except UserError as error:
        click.echo(f"[{agent}] {error}", err=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _stop(*_: object) -> None:
    # Ctrl-C reaches an agent twice, from the terminal and from the demo: once is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
