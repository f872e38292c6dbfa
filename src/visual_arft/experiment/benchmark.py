"""A benchmark from end to end: tasks, rules, tools, what makes the replies, and scores."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from visual_arft.bench.run import Play, run_suite
from visual_arft.bench.score import Report, score
from visual_arft.bench.settings import TOOLLESS, BenchConfig
from visual_arft.bench.suites import MINI, Suite, find_data, suite
from visual_arft.config import Context
from visual_arft.envs.coding.data import load_mat_coding
from visual_arft.envs.rag import look_up
from visual_arft.envs.search.actions import SearchAction
from visual_arft.envs.search.data import load_mat_search, load_multihop
from visual_arft.envs.search.engines import ENGINES
from visual_arft.envs.search.env import SEARCH
from visual_arft.envs.search.recording import Desk, Limits
from visual_arft.errors import UserError
from visual_arft.experiment.engines import Engine, open_engine
from visual_arft.experiment.pace import Pace
from visual_arft.experiment.player import EnvName, Player, find_player
from visual_arft.experiment.rules import open_desk, python_tools, read_template, search_tools
from visual_arft.experiment.talk import Talk
from visual_arft.images import Images
from visual_arft.provenance import write_run
from visual_arft.sandbox import Sandbox
from visual_arft.store import Store
from visual_arft.synth.coding import MiniMatCoding
from visual_arft.synth.search import MiniMatSearch
from visual_arft.synth.splits import TEST
from visual_arft.tools import Tools
from visual_arft.types import Task, Trajectory

_MAKERS = {"mini-mat-coding": MiniMatCoding, "mini-mat-search": MiniMatSearch}
_MINI_TASKS = 400


def bench(config: BenchConfig, out: Path, pace: Pace = Pace()) -> Report:  # noqa: B008
    """Plays a benchmark into a folder and scores it; what is recorded there is not played again."""
    talk, store = Talk(), Store(out)
    player = player_of(config)
    if player.run is not None and config.mode == "agent":
        how = "at once" if player.is_direct else f"in the {player.context} context"
        talk.line(f"{config.model} plays as it was trained to: {how}")
    if pace.repeat > 1 and config.temperature == 0 and config.engine == "transformers":
        talk.line("a local model at temperature 0 says the same each time; set --temperature")
    tasks = suite_tasks(config.suite, config.data, store.images, pace.limit)
    desk = open_desk(config.recording, config.recording_mode, Limits(budget=config.search_budget))
    with ExitStack() as stack:
        tools = suite_tools(config, player, desk, store.images, stack)
        engine = open_engine(config, pace, player, store)
        write_run(out, config, sys.argv)
        how = replace(
            play_of(config, player, tools), batch_size=engine.concurrency, freely=engine.freely
        )
        try:
            played = asyncio.run(_play(tasks, how, engine, store, pace.repeat, talk, config.suite))
        finally:
            _note(store, talk, desk, engine)
    report = score(*played, cjk=suite(config.suite).cjk, name=config.suite)
    store.append_scores(report.model_dump(mode="json"))
    return report


async def _play(
    tasks: Sequence[Task],
    how: Play,
    engine: Engine,
    store: Store,
    repeat: int,
    talk: Talk,
    name: str,
) -> list[list[Trajectory]]:
    """The trajectories of each play of the tasks."""
    played: list[list[Trajectory]] = []
    try:
        for number in range(repeat):
            what = name if repeat == 1 else f"{name}, play {number + 1} of {repeat}"
            with talk.bar(what, len(tasks)) as progress:
                policy = partial(engine.policy, number)
                played.append(
                    await run_suite(tasks, how, policy, store, repeat=number, progress=progress)
                )
    finally:
        await engine.close()
    return played


def _note(store: Store, talk: Talk, desk: Desk, engine: Engine) -> None:
    """Records what was asked of the world and of the model's server in this process."""
    if desk.counts.asked:
        store.append_metrics({"phase": "search", **desk.counts.model_dump()})
    if tally := engine.tally():
        store.append_metrics({"phase": "model", **tally})
        talk.line(", ".join(f"{name} {value:,}" for name, value in tally.items() if value))


def player_of(config: BenchConfig) -> Player:
    """What plays, with what a benchmark run says of how; raises `UserError` for what cannot be."""
    rules = suite(config.suite)
    _check(config, rules)
    player = find_player(config.model, rules.env)
    given = {
        "actions": config.actions,
        "max_turns": config.max_turns,
        "max_new_tokens": config.max_new_tokens,
        "prompt": config.prompt_file and read_template(config.prompt_file, "--prompt-file"),
    }
    return replace(
        player,
        has_images=rules.has_images,
        shortcuts=config.shortcuts,
        **{name: value for name, value in given.items() if value is not None},
    )


def play_of(config: BenchConfig, player: Player, tools: Tools) -> Play:
    """How the tasks of a benchmark become trajectories."""
    env = player.rules(config.mode)
    if config.mode == "rag":
        return Play(env, tools, max_turns=2, opening=look_up)
    return Play(env, tools, max_turns=player.max_turns)


def suite_tasks(
    name: str, data: Path | None, images: Images, limit: int | None = None
) -> Sequence[Task]:
    """The first tasks of a benchmark, or all; raises `UserError` for data that is missing."""
    if name in MINI:
        if data is not None:
            raise UserError(f"--data {data}: {name} makes its own tasks; leave out --data")
        return _MAKERS[name](TEST, 0, images)(0, limit or _MINI_TASKS)
    path = find_data(name, data)
    if name == "mat-coding":
        return load_mat_coding(path, images)[:limit]
    if name == "mat-search":
        return load_mat_search(path, images)[:limit]
    return load_multihop(path)[:limit]


def suite_tools(
    config: BenchConfig, player: Player, desk: Desk, images: Images, stack: ExitStack
) -> Tools:
    """What the actions of a benchmark's agent can ask for; `stack` ends what they run in."""
    if config.mode in TOOLLESS:
        return {}
    return env_tools(
        player.env,
        images,
        config.corpus,
        context=player.context_in(config.mode),
        actions=(SEARCH,) if config.mode == "rag" else player.actions,
        desk=desk,
        mini=config.suite in MINI,
        stack=stack,
    )


def env_tools(
    env: EnvName,
    images: Images,
    corpus: str | None,
    *,
    context: Context,
    actions: Sequence[SearchAction],
    desk: Desk,
    mini: bool,
    stack: ExitStack,
) -> Tools:
    """The tools of a game; `mini` searches mini-MAT's corpus if no other is given."""
    if env == "coding":
        if corpus is not None:
            raise UserError(f"--corpus {corpus}: the coding agent does not search; leave it out")
        return python_tools(stack.enter_context(Sandbox(workers=2)), context, images)
    if corpus is not None:
        return search_tools(corpus, desk, actions)(images)
    if mini:
        return {SEARCH: MiniMatSearch(TEST, 0, images).tool()}
    raise UserError(f"the agent searches, and --corpus is not given; give {ENGINES}")


def _check(config: BenchConfig, rules: Suite) -> None:
    """Raises `UserError` for settings that do not go together."""
    if rules.env == "coding" and config.mode == "rag":
        raise UserError(
            f"--mode rag: {config.suite} is not searched; choose direct, cot, agent or agent-append"
        )
    if config.shortcuts and (rules.env != "coding" or config.mode in TOOLLESS):
        raise UserError(
            f"--shortcut {config.shortcuts[0]}: only for agents that write code; leave it out"
        )
