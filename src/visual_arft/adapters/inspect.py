"""The benchmarks as tasks of Inspect: `inspect eval visual_arft/mat_coding --model …`.

Inspect asks the model, keeps the log and shows it; tasks, rules, tools and scores are this
package's. A sample's store holds its whole episode.
"""

# Where Inspect is not installed its types are unknown; `make inspect` checks with it.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inspect_ai import Task as InspectTask
from inspect_ai import task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.log import transcript
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import Score, Scorer, Target, ci, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from pydantic import ValidationError
from rich.text import Text

from visual_arft import __version__
from visual_arft.bench.cells import groups
from visual_arft.bench.run import Play, by_id
from visual_arft.bench.settings import BenchConfig
from visual_arft.bench.suites import suite
from visual_arft.envs.search.recording import Limits
from visual_arft.errors import ToolFailure, UserError
from visual_arft.experiment.benchmark import play_of, player_of, suite_tasks, suite_tools
from visual_arft.experiment.pace import Pace
from visual_arft.experiment.rules import open_desk
from visual_arft.images import FolderImages, Images, data_url
from visual_arft.metrics import METRICS
from visual_arft.rollout import rounds
from visual_arft.types import (
    Completion,
    Malformed,
    Message,
    Prompt,
    StopReason,
    Task,
    Trajectory,
    Usage,
)

TRAJECTORY = "trajectory"
"""Where a sample's store holds its episode, a `Trajectory`."""

_ARGUMENTS = {
    "mode": "mode",
    "data": "data",
    "prompt_file": "prompt_file",
    "shortcut": "shortcuts",
    "corpus": "corpus",
    "recording": "recording",
    "recording_mode": "recording_mode",
    "search_budget": "search_budget",
    "action": "actions",
    "max_turns": "max_turns",
    "trained": "model",
    "limit": "limit",
}
"""What `-T` may say, and the field of our settings that it becomes."""

_NOBODY = "the model that Inspect asks"
"""Stands where the settings want a run or a folder: there is none to load."""

_SUMMARY = [mean(), stderr(), ci(method="bootstrap")]
"""What is told of each score over all samples."""


@task
def mat_coding(**arguments: Any) -> InspectTask:
    """MAT-Coding: questions about spoilt pictures, which the model mends with code."""
    return _task("mat-coding", arguments)


@task
def mat_search(**arguments: Any) -> InspectTask:
    """MAT-Search: questions about pictures that only a search can answer."""
    return _task("mat-search", arguments)


@task
def hotpotqa(**arguments: Any) -> InspectTask:
    """HotpotQA: questions of two hops."""
    return _task("hotpotqa", arguments)


@task(name="2wiki")  # as the suite is called, which is no name in Python
@task
def wiki2(**arguments: Any) -> InspectTask:
    """2WikiMultihopQA: questions of two hops and more."""
    return _task("2wiki", arguments)


@task
def musique(**arguments: Any) -> InspectTask:
    """MuSiQue: questions of two to four hops."""
    return _task("musique", arguments)


@task
def bamboogle(**arguments: Any) -> InspectTask:
    """Bamboogle: questions of two hops that no page answers."""
    return _task("bamboogle", arguments)


@task
def mini_mat_coding(**arguments: Any) -> InspectTask:
    """mini-MAT-Coding: generated signs, spoilt in the paper's eight ways."""
    return _task("mini-mat-coding", arguments)


@task
def mini_mat_search(**arguments: Any) -> InspectTask:
    """mini-MAT-Search: generated questions over a generated corpus."""
    return _task("mini-mat-search", arguments)


def _task(name: str, arguments: Mapping[str, Any]) -> InspectTask:
    """A benchmark as Inspect plays it; wrong arguments end in a line and no traceback."""
    try:
        game = _game(*_settings(name, arguments))
    except UserError as error:
        # Our messages speak of the options of `arft bench`. In a `Text` brackets are no markup.
        said = re.sub(r"--([a-z-]+)", lambda found: f"-T {found[1].replace('-', '_')}", str(error))
        raise PrerequisiteError(Text(said)) from None
    tasks = list(game.tasks.values())
    by_split = [grouped(mean(), "split", all=False)] if groups([t.split for t in tasks]) else []
    return InspectTask(
        dataset=[_sample(each) for each in tasks],
        solver=episode(game),
        scorer=em_and_f1(cjk=suite(name).cjk),
        metrics={"*": [*_SUMMARY, *by_split]},
        config=GenerateConfig(temperature=0, max_tokens=game.max_new_tokens),
        version=__version__,
    )


def _settings(name: str, arguments: Mapping[str, Any]) -> tuple[BenchConfig, int | None]:
    """What decides the scores, and how many tasks are played."""
    if unknown := [argument for argument in arguments if argument not in _ARGUMENTS]:
        raise UserError(f"-T {unknown[0]}: unknown; choose from {', '.join(_ARGUMENTS)}")
    given = {_ARGUMENTS[argument]: value for argument, value in arguments.items()}
    for several in ("shortcuts", "actions"):
        if isinstance(given.get(several), str):
            given[several] = [given[several]]
    try:
        limit = Pace(limit=given.pop("limit", None)).limit
        return BenchConfig.model_validate({"model": _NOBODY, **given, "suite": name}), limit
    except ValidationError as error:
        first = error.errors()[0]
        [argument] = [each for each, field in _ARGUMENTS.items() if field == first["loc"][0]]
        raise UserError(f"-T {argument}={first['input']}: {first['msg'].lower()}") from None


@dataclass(frozen=True)
class Game:
    """A benchmark ready to be played; what its tools run in ends with it."""

    tasks: Mapping[str, Task]
    """By their ids, which the samples have too."""
    play: Play
    images: Images
    max_new_tokens: int


def _game(config: BenchConfig, limit: int | None) -> Game:
    """The benchmark that the settings name."""
    with ExitStack() as stack:
        images = FolderImages(Path(stack.enter_context(TemporaryDirectory(prefix="arft-"))))
        player = player_of(config)
        if player.run is None and config.model != _NOBODY:
            raise UserError(f"-T trained={config.model}: no run of ours; give the folder of one")
        tasks = suite_tasks(config.suite, config.data, images, limit)
        budget = Limits(budget=config.search_budget)
        desk = open_desk(config.recording, config.recording_mode, budget)
        tools = suite_tools(config, player, desk, images, stack)
        play = play_of(config, player, tools)
        game = Game(by_id(tasks), play, images, player.max_new_tokens)
        weakref.finalize(game, stack.pop_all().close)  # Inspect does not say when it is done
    return game


def _sample(task: Task) -> Sample:
    metadata = {"split": task.split, "kind": task.kind}
    return Sample(id=task.id, input=task.question, target=list(task.answers), metadata=metadata)


@solver
def episode(game: Game) -> Solver:
    """Plays a sample's task; where a tool fails the sample is an error, which Inspect can retry."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        played = game.play.episode(game.tasks[str(state.sample_id)])
        state.messages.clear()
        async for _ in rounds([played], _Model(state, game.images), game.play.tools):
            if (result := played.turns[-1].result) is not None:
                transcript().info(result.model_dump(mode="json", exclude_defaults=True))
        trajectory = played.trajectory
        state.store.set(TRAJECTORY, trajectory.model_dump(mode="json"))
        if trajectory.stop_reason is StopReason.TOOL_FAILED:
            raise ToolFailure(trajectory.failure)
        return state

    return solve


class _Model:
    """The model that Inspect evaluates, as the policy of one sample."""

    def __init__(self, state: TaskState, images: Images) -> None:
        self._state = state
        self._images = images
        self._chat: tuple[Message, ...] = ()

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt, in order; both become messages of the sample."""
        return [await self._reply(prompt) for prompt in prompts]

    async def _reply(self, prompt: Prompt) -> Completion:
        messages = [self._message(message) for message in prompt.messages]
        grown = prompt.messages[: len(self._chat)] == self._chat  # or else told anew
        self._state.messages.extend(messages[len(self._chat) if grown else 0 :])
        output = await get_model().generate(messages)
        self._state.messages.append(output.message)
        self._state.output = output
        completion = _completion(output)
        self._chat = (*prompt.messages, Message(role="assistant", text=completion.text))
        return completion

    def _message(self, message: Message) -> ChatMessage:
        content: str | list[Content] = message.text
        if message.images:
            urls = [data_url(self._images.read(image)) for image in message.images]
            content = [*(ContentImage(image=url) for url in urls), ContentText(text=message.text)]
        match message.role:
            case "system":
                return ChatMessageSystem(content=content)
            case "user":
                return ChatMessageUser(content=content)
            case "assistant":
                return ChatMessageAssistant(content=content)


def _completion(output: ModelOutput) -> Completion:
    """A reply as our rules read it."""
    is_cut = output.stop_reason in ("max_tokens", "model_length")
    return Completion(
        text=_text(output.message),
        finish_reason="length" if is_cut else "stop",
        usage=output.usage and _usage(output.usage),
    )


def _text(message: ChatMessageAssistant) -> str:
    """What the model wrote, with the `<think>` that Inspect takes out of some servers' texts."""
    if isinstance(message.content, str):
        return message.content
    return "".join(
        part.text
        for part in message.content
        if isinstance(part, ContentText)
        or (isinstance(part, ContentReasoning) and part.internal == "think")
    )


def _usage(usage: ModelUsage) -> Usage:
    cached = (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)
    return Usage(prompt_tokens=usage.input_tokens + cached, completion_tokens=usage.output_tokens)


@scorer(metrics={"*": _SUMMARY})
def em_and_f1(cjk: bool = False) -> Scorer:
    """Exact match and F1 from 0 to 1, the paper's and SQuAD's; no answer scores 0.

    Args:
        cjk: MAT-Coding's rule for Chinese answers.
    """

    async def score(state: TaskState, target: Target) -> Score:
        told = state.store.get(TRAJECTORY)
        played = None if told is None else Trajectory.model_validate(told)
        said = None if played is None else played.answer
        value = {
            f"{name}_{part}": score(said, target, cjk=cjk)
            for name, metric in METRICS.items()
            for part, score in metric._asdict().items()
        }
        return Score(value=value, answer=said, explanation=_end(played))

    return score


def _end(played: Trajectory | None) -> str:
    """Why an episode ended."""
    if played is None:
        return "a limit of Inspect"
    last = played.turns[-1].action
    return f"malformed: {last.reason}" if isinstance(last, Malformed) else played.stop_reason
