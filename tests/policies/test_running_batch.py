"""Calls of one policy that are under way at once share a batch, and none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache

import pytest
import torch

from tiny_vlm import ask, lively_vlm, picture
from visual_arft.envs.search.env import SearchEnv
from visual_arft.episode import Episode
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages
from visual_arft.model import decoder
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import _JOIN_EVERY, TransformersPolicy
from visual_arft.rollout import play, play_freely
from visual_arft.types import (
    Action,
    Completion,
    Image,
    Malformed,
    Prompt,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)

IMAGES = MemoryImages()
SIGN = picture(IMAGES, 1)
PROMPTS = [ask("hi"), ask("What does the sign say?", SIGN), *(ask(f"{n} is it?") for n in range(6))]


@cache
def vlm() -> VisionLanguageModel:
    return lively_vlm(IMAGES)


class Watched(TransformersPolicy):
    """A policy that says how many replies run at each step, and breaks at one of them."""

    def __init__(self, *, break_at: int | None = None, **sampling: object) -> None:
        settings = Sampling.model_validate({"temperature": 0, "max_new_tokens": 24, **sampling})
        super().__init__(vlm(), settings, batch_size=6)
        self.sizes: list[int] = []
        self.break_at = break_at

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.sizes.append(len(self._running))
        if len(self.sizes) - 1 == self.break_at:
            raise RuntimeError("out of memory")
        return super()._draw()

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running and not len(self._decoder)


def ids(completions: Sequence[Completion]) -> list[tuple[int, ...] | None]:
    return [each.token_ids for each in completions]


@cache
def alone() -> list[tuple[int, ...] | None]:
    return [ids(asyncio.run(Watched().generate([prompt])))[0] for prompt in PROMPTS]


def longest() -> list[int]:
    """The three prompts with the longest replies."""
    numbers = sorted(range(len(PROMPTS)), key=lambda number: -len(alone()[number] or ()))[:3]
    assert len(alone()[numbers[2]] or ()) > 6, "choose another model"
    return numbers


def test_calls_at_once_are_answered_as_each_alone_and_in_fewer_steps():
    policy = Watched()

    async def calls() -> list[list[Completion]]:
        parts = [PROMPTS[:3], PROMPTS[3:4], [], PROMPTS[4:]]
        return await asyncio.gather(*(policy.generate(part) for part in parts))

    answers = [each for part in asyncio.run(calls()) for each in part]
    assert ids(answers) == alone()
    assert len(policy.sizes) < sum(len(each or ()) for each in alone()) / 2
    assert policy.is_idle


def test_no_more_replies_run_than_the_batch_holds_and_the_next_need_not_wait_for_all():
    policy = Watched()
    answers = asyncio.run(policy.generate(PROMPTS * 3))
    assert ids(answers) == alone() * 3
    assert max(policy.sizes) == policy.sizes[0] == 6
    pairs = enumerate(zip(policy.sizes, policy.sizes[1:], strict=False), start=1)
    grown = [step for step, (before, after) in pairs if after > before]
    assert len(grown) > 1
    gaps = zip([0, *grown], grown, strict=False)
    assert all(after - before >= _JOIN_EVERY for before, after in gaps), "several join at once"


def test_a_call_that_comes_later_joins_the_batch_that_runs():
    policy = Watched()

    async def late(prompt: Prompt) -> list[Completion]:
        while len(policy.sizes) < 3:
            await asyncio.sleep(0)
        return await policy.generate([prompt])

    async def calls() -> list[list[Completion]]:
        first, second, third = (PROMPTS[number] for number in longest())
        return await asyncio.gather(policy.generate([first, second]), late(third))

    first, second = asyncio.run(calls())
    assert ids(first + second) == [alone()[number] for number in longest()]
    assert policy.sizes[:3] == [2, 2, 2]
    assert 3 in policy.sizes


class Chat(SearchEnv):
    """A growing chat in which every reply is a search."""

    def __init__(self) -> None:
        super().__init__("append", "{question}")

    def parse(self, text: str) -> Action | Malformed:
        return Action(kind="search", content=text)


def tasks(count: int) -> list[Task]:
    return [Task(id=f"t{n}", question=f"{n} is it?", answers=()) for n in range(count)]


def test_while_a_tool_runs_the_other_episodes_go_on():
    policy = Watched(temperature=1.0, keyed=True, max_new_tokens=200)

    class Slow:
        """A tool that for the first task takes until the policy has made ten more steps."""

        async def run(self, call: ToolCall) -> ToolResult:
            goal = len(policy.sizes) + 10
            while call.arguments["task"] == "t0" and len(policy.sizes) < goal:
                await asyncio.sleep(0)
            return ToolResult(text="found")

    class Named(Chat):
        def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall:
            return ToolCall(tool="search", arguments={"task": task.id})

    async def playing() -> list[Trajectory]:
        episodes = [Episode(task, Named(), max_turns=3) for task in tasks(6)]
        async with asyncio.timeout(30):
            return await play_freely(episodes, policy, {"search": Slow()}, concurrency=6)

    assert [len(each.turns) for each in asyncio.run(playing())] == [3] * 6


def test_free_running_episodes_are_those_of_lockstep():
    def episodes() -> list[Episode]:
        return [Episode(task, Chat(), max_turns=3) for task in tasks(5)]

    class Search:
        async def run(self, call: ToolCall) -> ToolResult:
            await asyncio.sleep(0.001 * len(str(call.arguments)))
            return ToolResult(text="<search> found")

    for sampling in ({}, {"temperature": 1.0, "keyed": True}):
        locked = asyncio.run(play(episodes(), Watched(**sampling), {"search": Search()}))
        policy = Watched(**sampling)
        free = asyncio.run(play_freely(episodes(), policy, {"search": Search()}, concurrency=5))
        for one, other in zip(locked, free, strict=True):
            assert ids([t.completion for t in one.turns]) == ids(
                [t.completion for t in other.turns]
            )
            assert one.stop_reason == other.stop_reason


def test_equal_runs_give_equal_replies_and_logprobs_to_the_bit():
    def run() -> list[list[Completion]]:
        policy = Watched(temperature=1.0)
        return [asyncio.run(policy.generate(part)) for part in (PROMPTS, PROMPTS[:3], PROMPTS * 2)]

    assert run() == run()


def test_an_error_reaches_every_caller_and_the_next_call_is_served():
    policy = Watched(break_at=2)

    async def calls() -> list[object]:
        both = [policy.generate(PROMPTS[:2]), policy.generate(PROMPTS[2:])]
        return await asyncio.gather(*both, return_exceptions=True)

    errors = asyncio.run(asyncio.wait_for(calls(), 30))
    assert [str(error) for error in errors] == ["out of memory"] * 2
    assert policy.is_idle
    assert ids(asyncio.run(policy.generate(PROMPTS))) == alone()


def test_an_error_among_new_prompts_leaves_none_of_them_in_the_batch(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(decoder, "_PASS_TOKENS", 1)  # the first is computed when the second breaks
    policy = Watched()
    lost = Image(sha256="0" * 64, width=40, height=40)
    with pytest.raises(UserError, match="is not in this store"):
        asyncio.run(policy.generate([PROMPTS[0], ask("What does the sign say?", lost)]))
    assert policy.is_idle
    assert ids(asyncio.run(policy.generate(PROMPTS))) == alone()


@pytest.mark.parametrize("moment", range(5))
def test_a_caller_who_gives_up_leaves_the_batch_and_disturbs_nobody(moment: int):
    policy = Watched()

    async def calls() -> list[Completion]:
        async def give_up() -> None:
            patient = asyncio.create_task(policy.generate(PROMPTS[4:]))
            while len(policy.sizes) < 2:
                await asyncio.sleep(0)
            for _ in range(moment):
                await asyncio.sleep(0)
            patient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await patient

        kept, _ = await asyncio.gather(policy.generate(PROMPTS[:4]), give_up())
        return kept

    assert ids(asyncio.run(calls())) == alone()[:4]
    assert policy.sizes[0] == 6
    assert max(policy.sizes[5:], default=0) <= 4
    assert policy.is_idle


def test_no_step_is_made_when_nobody_waits_any_more():
    policy = Watched(temperature=1.0)

    async def given_up() -> None:
        asked = asyncio.create_task(policy.generate(PROMPTS))
        await asyncio.sleep(0)  # it asks for a step, which is not begun yet
        asked.cancel()
        for _ in range(9):
            await asyncio.sleep(0)

    asyncio.run(given_up())
    assert policy.sizes == []
    assert policy.is_idle


def test_a_rollout_that_is_stopped_leaves_a_policy_that_can_go_on():
    policy = Watched()

    async def stopped() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await policy.generate(PROMPTS)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped())
    assert policy.is_idle
    assert ids(asyncio.run(policy.generate(PROMPTS))) == alone()
