"""What a recipe plays: its rules, its tools, its tasks and its rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from visual_arft.config import Context, Recipe
from visual_arft.envs.coding import rewards as coding_rewards
from visual_arft.envs.coding.data import load_coding_steps, load_mat_coding
from visual_arft.envs.coding.env import DEFAULT_TEMPLATE as CODING_TEMPLATE
from visual_arft.envs.coding.env import PYTHON, CodingEnv, Wording
from visual_arft.envs.coding.tool import PythonTool
from visual_arft.envs.direct import DEFAULT_TEMPLATE as DIRECT_TEMPLATE
from visual_arft.envs.direct import DirectEnv
from visual_arft.envs.search.data import load_corpus, load_mat_search, load_search_steps
from visual_arft.envs.search.embedder import MiniLm
from visual_arft.envs.search.engines import Bm25Searcher
from visual_arft.envs.search.env import DEFAULT_TEMPLATE as SEARCH_TEMPLATE
from visual_arft.envs.search.env import SEARCH, SearchEnv
from visual_arft.envs.search.rewards import query_similarity, search_step_reward
from visual_arft.envs.search.tool import SearchTool
from visual_arft.episode import Env
from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.rewards import Reward, Scores, answer_em, answer_f1, format_reward, score
from visual_arft.sandbox import Sandbox
from visual_arft.synth import coding as mini_coding
from visual_arft.synth import search as mini_search
from visual_arft.synth.practice import Practice
from visual_arft.synth.splits import TEST, TRAIN
from visual_arft.synth.splits import stream as random_stream
from visual_arft.tools import Tools
from visual_arft.types import Task, Trajectory

PRACTICE = "practice"
"""The data source of a base model: no tasks, no tools."""

_PRACTICE_EVERY = 4
_RECALL_FIRST = 28_800
_APART = 1_000_000
"""Added to a seed, for a stream that has nothing in common with the seed's own."""

Stream = Callable[[int, int], Sequence[Task]]
Demonstrations = Callable[[int, int], Sequence[Trajectory]]


@dataclass(frozen=True)
class Game:
    """Everything about a run that is not the model."""

    env: Env
    tools: Callable[[Images], Tools]
    """The tools over a split's world; the images are where theirs are read from and go."""
    train: Callable[[Images], Stream]
    held_out: Callable[[Images], Sequence[Task]]
    held_out_tools: Callable[[Images], Tools]
    rewards: Mapping[str, Reward]
    demonstrations: Callable[[Images], Demonstrations] | None
    cjk: bool = False


def make_game(recipe: Recipe, sandbox: Sandbox) -> Game:
    """The game a recipe names; raises `UserError` for data that is not there or not right."""
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


def coding_env(context: Context, template: str | None = None, *, tiny: bool = False) -> CodingEnv:
    """The coding agent's rules; the tiny model has instructions of its own."""
    default = mini_coding.TEMPLATE if tiny else CODING_TEMPLATE
    wording = mini_coding.WORDING if tiny else Wording()
    return CodingEnv(context, template or default, wording)


def search_env(context: Context, template: str | None = None, *, tiny: bool = False) -> SearchEnv:
    """The search agent's rules; the tiny model has instructions of its own."""
    return SearchEnv(context, template or (mini_search.TEMPLATE if tiny else SEARCH_TEMPLATE))


def direct_env(template: str | None = None, *, tiny: bool = False) -> DirectEnv:
    """The rules without tools; the tiny model's practice was questions as they are."""
    return DirectEnv(template or ("{question}" if tiny else DIRECT_TEMPLATE))


def is_tiny(recipe: Recipe) -> bool:
    """Whether a recipe trains on the generated tasks, which are worded for the tiny model."""
    return recipe.data.source == PRACTICE or recipe.data.source.startswith("mini-mat-")


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
        demonstrations=partial(Practice, recipe.seed, recall_first=_RECALL_FIRST),
    )


def _mini_coding(recipe: Recipe, sandbox: Sandbox) -> Game:
    env = coding_env(recipe.context, template_of(recipe), tiny=True)
    tools = partial(python_tools, sandbox)
    count = recipe.data.held_out
    return Game(
        env=env,
        tools=tools,
        train=partial(mini_coding.MiniMatCoding, TRAIN, recipe.seed),
        held_out=lambda images: mini_coding.MiniMatCoding(TEST, 0, images)(0, count),
        held_out_tools=tools,
        rewards=_coding_rewards(cjk=False),
        demonstrations=lambda images: _with_practice(
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
        demonstrations=lambda images: _with_practice(
            mini_search.SearchDemonstrations(
                mini_search.MiniMatSearch(TRAIN, recipe.seed + _APART, images), env, blind=True
            ),
            Practice(recipe.seed + _APART, images),
        ),
    )


def _with_practice(shown: Demonstrations, practice: Demonstrations) -> Demonstrations:
    """Demonstrations with the base's own practice among them, so that reading is not forgotten."""

    def draw(start: int, count: int) -> list[Trajectory]:
        return [each for number in range(start, start + count) for each in _one(number)]

    def _one(number: int) -> Sequence[Trajectory]:
        return (practice if number % _PRACTICE_EVERY == 0 else shown)(number, 1)

    return draw


def _coding_from_files(recipe: Recipe, sandbox: Sandbox) -> Game:
    stepwise = recipe.grpo.mode == "stepwise"
    read = partial(load_coding_steps if stepwise else load_mat_coding, Path(recipe.data.source))
    tools = partial(python_tools, sandbox)
    return Game(
        env=coding_env(recipe.context, template_of(recipe)),
        tools=tools,
        train=lambda images: _cycle(_split(recipe, read(images))[0], recipe.seed),
        held_out=lambda images: _split(recipe, read(images))[1],
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
    tool: Tools = search_tools(corpus) if corpus else {}
    return Game(
        env=search_env(recipe.context, template_of(recipe)),
        tools=lambda images: tool,
        train=lambda images: _cycle(_split(recipe, read(images))[0], recipe.seed),
        held_out=lambda images: _split(recipe, read(images))[1],
        held_out_tools=lambda images: tool,
        rewards=_search_rewards(recipe),
        demonstrations=None,
    )


def python_tools(sandbox: Sandbox, images: Images) -> Tools:
    """The coding agent's tools."""
    return {PYTHON: PythonTool(sandbox, images)}


def search_tools(corpus: Path) -> Tools:
    """The search agent's tools, over a file of passages."""
    return {SEARCH: SearchTool(Bm25Searcher(load_corpus(corpus)))}


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


def template_of(recipe: Recipe) -> str | None:
    """The instructions that a recipe brings; None where it leaves them to us."""
    path = recipe.data.prompt_file
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.prompt_file = {str(path)!r} cannot be read ({error}); give a text file"
        ) from None


def _split(recipe: Recipe, tasks: Sequence[Task]) -> tuple[Sequence[Task], Sequence[Task]]:
    """Tasks to train on and to measure on; which is which depends on the recipe's seed alone."""
    held_out = recipe.data.held_out
    if len(tasks) <= held_out:
        raise UserError(
            f"{recipe.data.source}: {len(tasks)} tasks, of which data.held_out = {held_out} are "
            "kept for measuring; lower data.held_out or give more tasks"
        )
    order = random_stream("held out", recipe.seed).sample(range(len(tasks)), len(tasks))
    return [tasks[i] for i in order[held_out:]], [tasks[i] for i in order[:held_out]]


def _cycle(tasks: Sequence[Task], seed: int) -> Stream:
    """An endless stream: all tasks in a new order, then all again."""

    def draw(start: int, count: int) -> list[Task]:
        return [_at(number) for number in range(start, start + count)]

    def _at(number: int) -> Task:
        epoch, place = divmod(number, len(tasks))
        order = random_stream("epoch", seed, epoch).sample(range(len(tasks)), len(tasks))
        return tasks[order[place]]

    return draw
