"""Playing with a model: a benchmark from end to end, or one question, watched."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from visual_arft.bench.run import run_suite
from visual_arft.bench.score import Report, score
from visual_arft.bench.settings import BenchConfig
from visual_arft.bench.suites import suite
from visual_arft.envs.coding.data import load_mat_coding
from visual_arft.envs.search.data import load_mat_search, load_multihop
from visual_arft.envs.search.engines import ENGINES
from visual_arft.envs.search.env import SEARCH
from visual_arft.envs.search.recording import Desk, Limits
from visual_arft.episode import Episode
from visual_arft.errors import UserError
from visual_arft.experiment.player import EnvName, Player, find_player
from visual_arft.experiment.rules import open_desk, python_tools, search_tools
from visual_arft.experiment.talk import Talk
from visual_arft.images import Images, MemoryImages, load
from visual_arft.policies import Policy, Sampling
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.provenance import write_run
from visual_arft.rollout import rounds
from visual_arft.sandbox import Sandbox
from visual_arft.store import Store
from visual_arft.synth.coding import MiniMatCoding
from visual_arft.synth.search import MiniMatSearch
from visual_arft.synth.splits import TEST
from visual_arft.tools import Tools
from visual_arft.types import Prompt, Task, Trajectory, Turn

MINI = {"mini-mat-coding": MiniMatCoding, "mini-mat-search": MiniMatSearch}
"""The suites that make their own tasks."""

_MINI_TASKS = 400

Tell = Callable[[Turn], None]
"""Told of a turn as soon as its result is there."""


def bench(config: BenchConfig, out: Path, *, limit: int | None = None) -> Report:
    """Plays a benchmark into a folder and scores it; what is recorded there is not played again."""
    talk, store, rules = Talk(), Store(out), suite(config.suite)
    player = find_player(config.model, rules.env)
    if config.actions is not None:
        player = replace(player, actions=config.actions)
    if player.run is not None and config.mode == "agent":
        how = "at once" if player.is_direct else f"in the {player.context} context"
        talk.line(f"{config.model} plays as it was trained to: {how}")
    tasks = _tasks(config, store.images, limit)
    desk = open_desk(config.recording, config.recording_mode, Limits(budget=config.search_budget))
    with Sandbox(workers=2) as sandbox:
        tools: Tools = {}
        if config.mode != "direct":
            mini = config.suite in MINI
            python = partial(python_tools, sandbox, player.context_in(config.mode))
            search = partial(search_tools, desk=desk, actions=player.actions)
            tools = _tools(
                rules.env, store.images, config.corpus, python=python, search=search, mini=mini
            )
        policy = _policy(config, player, store.images)
        write_run(out, config, sys.argv)
        played = asyncio.run(
            run_suite(
                tasks,
                player.rules(config.mode),
                policy,
                tools,
                store,
                max_turns=player.max_turns,
                batch_size=player.batch_size,
                progress=lambda done, total: talk.line(f"{config.suite} {done}/{total}"),
            )
        )
    if desk.counts.asked:
        store.append_metrics({"phase": "search", **desk.counts.model_dump()})
    report = score(played, cjk=rules.cjk, name=config.suite)
    store.append_scores(report.model_dump(mode="json"))
    return report


def chat(
    image: Path, question: str, *, model: str, env: EnvName, corpus: str | None, tell: Tell
) -> Trajectory:
    """One episode about an image."""
    images = MemoryImages()
    task = Task(id=image.name, question=question, answers=(), images=(load(image, images),))
    player = find_player(model, env)
    with Sandbox() as sandbox:
        python = partial(python_tools, sandbox, player.context)
        search = partial(search_tools, desk=Desk(), actions=player.actions)
        tools = _tools(env, images, corpus, python=python, search=search, mini=player.is_tiny)
        policy = _sampler(player, Sampling(temperature=0), images)
        episode = Episode(task, player.rules("agent"), max_turns=player.max_turns)
        asyncio.run(_watch(episode, policy, tools, tell))
    return episode.trajectory


async def _watch(episode: Episode, policy: Policy, tools: Tools, tell: Tell) -> None:
    async for _ in rounds([episode], policy, tools):
        tell(episode.turns[-1])


def _tasks(config: BenchConfig, images: Images, limit: int | None) -> Sequence[Task]:
    """The first tasks of a benchmark, or all of them."""
    name, data = config.suite, config.data
    if name in MINI:
        if data is not None:
            raise UserError(f"--data {data}: {name} makes its own tasks; leave out --data")
        return MINI[name](TEST, 0, images)(0, limit or _MINI_TASKS)
    if data is None:
        raise UserError(f"{name} does not come with this package; give its file by --data")
    if name == "mat-coding":
        return load_mat_coding(data, images)[:limit]
    if name == "mat-search":
        return load_mat_search(data, images)[:limit]
    return load_multihop(data)[:limit]


def _tools(
    env: EnvName,
    images: Images,
    corpus: str | None,
    *,
    python: Callable[[Images], Tools],
    search: Callable[[str], Callable[[Images], Tools]],
    mini: bool,
) -> Tools:
    """What the actions of a game can ask for; `mini` searches mini-MAT's corpus if no other."""
    if env == "coding":
        if corpus is not None:
            raise UserError(f"--corpus {corpus}: the coding agent does not search; leave it out")
        return python(images)
    if corpus is not None:
        return search(corpus)(images)
    if mini:
        return {SEARCH: MiniMatSearch(TEST, 0, images).tool()}
    raise UserError(f"the agent searches, and --corpus is not given; give {ENGINES}")


def _policy(config: BenchConfig, player: Player, images: Images) -> Policy:
    if config.engine == "scripted":
        return _script(Path(config.model))
    sampling = Sampling(
        temperature=config.temperature, max_new_tokens=player.max_new_tokens, seed=config.seed
    )
    return _sampler(player, sampling, images)


def _sampler(player: Player, sampling: Sampling, images: Images) -> Policy:
    # Here, so that what is wrong with the rest of the command shows before torch loads.
    from visual_arft.model.load import load as load_model
    from visual_arft.policies.transformers import TransformersPolicy

    return TransformersPolicy(load_model(player.model, images), sampling)


def _script(path: Path) -> Policy:
    """The policy of a file of replies: the first whose key occurs in the prompt is given."""
    try:
        replies = TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a JSON file of replies") from None
    except ValidationError:
        raise UserError(
            f"{path}: not a JSON object of texts; write {{TEXT IN THE PROMPT: REPLY, …}}"
        ) from None

    def reply(prompt: Prompt) -> str:
        text = "\n".join(message.text for message in prompt.messages)
        found = next((key for key in replies if key in text), None)
        if found is None:
            raise UserError(
                f'{path}: no key occurs in the prompt {text[-40:]!r}; add "" for any prompt'
            )
        return replies[found]

    return ScriptedPolicy(reply)
