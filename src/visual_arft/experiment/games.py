"""What a recipe plays: its rules, its tools, its tasks and its rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from visual_arft.config import Recipe
from visual_arft.envs.coding import rewards as coding_rewards
from visual_arft.envs.coding.data import load_coding_steps, load_mat_coding
from visual_arft.envs.search.data import load_mat_search, load_search_steps
from visual_arft.envs.search.embedder import MiniLm
from visual_arft.envs.search.env import SEARCH
from visual_arft.envs.search.recording import Counts
from visual_arft.envs.search.rewards import query_similarity, search_step_reward
from visual_arft.episode import Env
from visual_arft.errors import UserError
from visual_arft.experiment.rules import (
    PRACTICE,
    coding_env,
    direct_env,
    is_tiny,
    open_desk,
    python_tools,
    search_env,
    search_tools,
    template_of,
)
from visual_arft.experiment.streams import Demonstrations, Tasks, cycle, split, with_practice
from visual_arft.images import Images
from visual_arft.rewards import Reward, Scores, answer_em, answer_f1, format_reward, score
from visual_arft.sandbox import Sandbox
from visual_arft.synth import coding as mini_coding
from visual_arft.synth import search as mini_search
from visual_arft.synth.practice import Practice
from visual_arft.synth.splits import TEST, TRAIN
from visual_arft.tools import Tools
from visual_arft.types import Task, Trajectory

_APART = 1_000_000
"""Added to a seed, for a stream that has nothing in common with the seed's own."""

_STEP_REWARDS = ("problem", "code", "query", "paper")


@dataclass(frozen=True)
class Game:
    """Everything about a run that is not the model."""

    env: Env
    tools: Callable[[Images], Tools]
    """The tools over a split's world; the images are where theirs are read from and go."""
    train: Callable[[Images], Tasks]
    held_out: Callable[[Images], Sequence[Task]]
    held_out_tools: Callable[[Images], Tools]
    rewards: Mapping[str, Reward]
    demonstrations: Callable[[Images], Demonstrations] | None
    cjk: bool = False
    search_counts: Callable[[], Counts] | None = None
    """How the searches since the last call were answered."""


def make_game(recipe: Recipe, sandbox: Sandbox) -> Game:
    """The game a recipe names; raises `UserError` for data that is not there or not right."""
    _check(recipe)
    if recipe.data.source == PRACTICE:
        return _practice(recipe)
    makers = {
        "mini-mat-coding": _mini_coding,
        "mini-mat-search": _mini_search,
        "coding": _coding_from_files,
        "search": _search_from_files,
    }
    game = makers.get(recipe.data.source, makers[recipe.env])(recipe, sandbox)
    return _without_tools(recipe, game) if recipe.direct else game


def scorer(recipe: Recipe, game: Game) -> Callable[[Trajectory], Scores]:
    """What an episode earns under the recipe's rubric."""
    return partial(score, rewards=game.rewards, weights=recipe.rubric)


def _check(recipe: Recipe) -> None:
    """Raises `UserError` for GRPO on data that is not of its kind."""
    source, mode = recipe.data.source, recipe.grpo.mode
    if not recipe.grpo.steps:
        return
    if source == PRACTICE:
        raise UserError(f"data.source = {source!r} has no tasks to play; set grpo.steps = 0")
    if mode == "stepwise" and is_tiny(recipe):
        raise UserError(
            f"grpo.mode = {mode!r} trains on single decisions, and data.source = {source!r} brings "
            "whole episodes; set grpo.mode = 'episode', or give a file of step tasks"
        )
    alien = [name for name in _STEP_REWARDS if name in recipe.rubric]
    if mode == "episode" and alien:
        raise UserError(
            f"rubric.{alien[0]} scores single decisions, and grpo.mode = {mode!r} plays whole "
            "episodes; leave it out, or set grpo.mode = 'stepwise'"
        )


def _without_tools(recipe: Recipe, game: Game) -> Game:
    """The same tasks, answered at once."""
    env = direct_env(template_of(recipe), tiny=is_tiny(recipe))
    return replace(game, env=env, demonstrations=None)


def _practice(recipe: Recipe) -> Game:
    nothing: Tools = {}
    return Game(
        env=coding_env("append", tiny=True),
        tools=lambda images: nothing,
        train=lambda images: lambda start, count: (),
        held_out=lambda images: (),
        held_out_tools=lambda images: nothing,
        rewards=_common(cjk=False),
        demonstrations=partial(Practice, recipe.seed),
    )


def _mini_coding(recipe: Recipe, sandbox: Sandbox) -> Game:
    env = coding_env(recipe.context, template_of(recipe), tiny=True)
    tools = partial(python_tools, sandbox, recipe.context)
    count = recipe.data.held_out
    return Game(
        env=env,
        tools=tools,
        train=partial(mini_coding.MiniMatCoding, TRAIN, recipe.seed),
        held_out=lambda images: mini_coding.MiniMatCoding(TEST, 0, images)(0, count),
        held_out_tools=tools,
        rewards=_coding_rewards(cjk=False),
        demonstrations=lambda images: with_practice(
            mini_coding.CodingDemonstrations(
                # Another stream than that of reinforcement learning.
                mini_coding.MiniMatCoding(TRAIN, recipe.seed + _APART, images),
                env,
                images,
                blind=True,
            ),
            Practice(recipe.seed + _APART, images),
        ),
    )


def _mini_search(recipe: Recipe, sandbox: Sandbox) -> Game:
    env = search_env(recipe.context, template_of(recipe), tiny=True)
    count = recipe.data.held_out
    return Game(
        env=env,
        tools=lambda images: {SEARCH: mini_search.MiniMatSearch(TRAIN, recipe.seed, images).tool()},
        train=partial(mini_search.MiniMatSearch, TRAIN, recipe.seed),
        held_out=lambda images: mini_search.MiniMatSearch(TEST, 0, images)(0, count),
        held_out_tools=lambda images: {SEARCH: mini_search.MiniMatSearch(TEST, 0, images).tool()},
        rewards=_search_rewards(recipe),
        demonstrations=lambda images: with_practice(
            mini_search.SearchDemonstrations(
                mini_search.MiniMatSearch(TRAIN, recipe.seed + _APART, images), env, blind=True
            ),
            Practice(recipe.seed + _APART, images),
        ),
    )


def _coding_from_files(recipe: Recipe, sandbox: Sandbox) -> Game:
    stepwise = recipe.grpo.mode == "stepwise"
    read = partial(load_coding_steps if stepwise else load_mat_coding, Path(recipe.data.source))
    tools = partial(python_tools, sandbox, recipe.context)
    return Game(
        env=coding_env(recipe.context, template_of(recipe)),
        tools=tools,
        train=lambda images: cycle(split(recipe, read(images))[0], recipe.seed),
        held_out=lambda images: split(recipe, read(images))[1],
        held_out_tools=tools,
        rewards=_coding_rewards(cjk=True),
        demonstrations=None,
        cjk=True,
    )


def _search_from_files(recipe: Recipe, sandbox: Sandbox) -> Game:
    stepwise = recipe.grpo.mode == "stepwise"
    read = partial(load_search_steps if stepwise else load_mat_search, Path(recipe.data.source))
    corpus = recipe.data.corpus
    if corpus is None and not stepwise:
        raise UserError(
            f"data.source = {recipe.data.source!r} is played with search, and data.corpus is not "
            'set; give a JSONL of passages, {"id", "contents"} a line'
        )
    data = recipe.data
    desk = open_desk(data.recording, data.recording_mode, data.limits)
    tools = search_tools(corpus, desk, data.actions) if corpus is not None else _no_tools
    return Game(
        env=search_env(recipe.context, template_of(recipe), actions=data.actions),
        tools=tools,
        train=lambda images: cycle(split(recipe, read(images))[0], recipe.seed),
        held_out=lambda images: split(recipe, read(images))[1],
        held_out_tools=tools,
        rewards=_search_rewards(recipe),
        demonstrations=None,
        search_counts=desk.take_counts,
    )


def _no_tools(images: Images) -> Tools:
    return {}


def _common(*, cjk: bool) -> dict[str, Reward]:
    return {
        "answer": answer_f1(cjk=cjk),
        "exact": answer_em(cjk=cjk),
        "format": format_reward,
    }


def _coding_rewards(*, cjk: bool) -> dict[str, Reward]:
    return {
        **_common(cjk=cjk),
        "executed": coding_rewards.executed_reward,
        "problem": coding_rewards.problem_reward,
        "code": coding_rewards.code_reward_constant,
        "paper": coding_rewards.paper_reward,
    }


def _search_rewards(recipe: Recipe) -> dict[str, Reward]:
    if recipe.data.minilm is None:
        return _common(cjk=False)
    embedder = MiniLm(recipe.data.minilm)
    return {
        **_common(cjk=False),
        "query": query_similarity(embedder),
        "paper": search_step_reward(embedder),
    }
