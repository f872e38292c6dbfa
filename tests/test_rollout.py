from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from visual_arft.episode import Episode
from visual_arft.errors import EpisodeError, TokenMismatch, ToolFailure
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.rollout import play, play_freely, rounds
from visual_arft.tags import parse, wrap
from visual_arft.tools import Tool, Tools
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    Message,
    Prompt,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)

SEARCH, ANSWER = wrap("look", "search", "it"), wrap("so", "answer", "42")


class Steps:
    """An env whose prompt is the task's question and what was found so far."""

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        found = [turn.result.text for turn in turns if turn.result]
        return Prompt(messages=(Message(role="user", text=" ".join([task.question, *found])),))

    def parse(self, text: str) -> Action | Malformed:
        return parse(text, ("search", "answer"))

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        return ToolCall(tool="search", arguments={"query": task.question})


class Together:
    """A tool that answers only when `size` calls are under way at once."""

    def __init__(self, size: int) -> None:
        self._barrier = asyncio.Barrier(size)

    async def run(self, call: ToolCall) -> ToolResult:
        async with asyncio.timeout(5):
            await self._barrier.wait()
        return ToolResult(text=f"about {call.arguments['query']}")


class Broken:
    """A tool whose machinery fails for some questions."""

    async def run(self, call: ToolCall) -> ToolResult:
        if call.arguments["query"] == "b":
            raise ToolFailure("the engine is down")
        return ToolResult(text="fine")


class Batches(ScriptedPolicy):
    """A scripted policy that also counts the prompts of each call."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.sizes: list[int] = []

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.sizes.append(len(prompts))
        await asyncio.sleep(0)
        return await super().generate(prompts)


def episodes(names: str) -> list[Episode]:
    return [Episode(Task(id=name, question=name, answers=("42",)), Steps()) for name in names]


def search_once(prompt: Prompt) -> str:
    return ANSWER if " " in prompt.messages[0].text else SEARCH


def rollout(names: str, policy: ScriptedPolicy, tools: Tools) -> list[Trajectory]:
    return asyncio.run(play(episodes(names), policy, tools))


def test_prompts_go_to_the_policy_in_batches_and_tools_run_side_by_side():
    policy = Batches(search_once)
    trajectories = rollout("abc", policy, {"search": Together(3)})
    assert policy.sizes == [3, 3]
    assert [each.task.id for each in trajectories] == ["a", "b", "c"]
    assert [each.turns[0].result for each in trajectories] == [
        ToolResult(text=f"about {name}") for name in "abc"
    ]
    assert all(each.answer == "42" for each in trajectories)


def test_an_episode_that_is_over_is_asked_nothing_more():
    policy = Batches(
        lambda prompt: ANSWER if prompt.messages[0].text == "a" else search_once(prompt)
    )
    rollout("abc", policy, {"search": Together(2)})
    assert policy.sizes == [3, 2]


def test_a_tool_failure_ends_its_own_episode_only():
    one, two, three = rollout("abc", ScriptedPolicy(search_once), {"search": Broken()})
    assert (two.stop_reason, two.failure) == (StopReason.TOOL_FAILED, "the engine is down")
    assert one.answer == three.answer == "42"


def test_a_tool_that_is_not_there_is_named_with_the_task():
    with pytest.raises(
        EpisodeError, match=r"task 'a' asks for the tool 'search' and .* has python"
    ):
        rollout("a", ScriptedPolicy(search_once), {"python": Broken()})


def test_image_tokens_that_do_not_match_name_the_task():
    class Mismatched(ScriptedPolicy):
        async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
            raise TokenMismatch("9 image tokens and 12 features", index=1)

    with pytest.raises(TokenMismatch, match="task 'b': 9 image tokens and 12 features"):
        rollout("abc", Mismatched([]), {})


def test_a_policy_that_loses_a_reply_is_a_bug():
    class Short(ScriptedPolicy):
        async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
            return []

    with pytest.raises(ValueError):
        rollout("a", Short([]), {})


def test_lockstep_and_free_running_give_the_same_trajectories():
    locked = rollout("abcd", ScriptedPolicy(search_once), {"search": Broken()})
    policy = Batches(search_once)
    free = asyncio.run(play_freely(episodes("abcd"), policy, {"search": Broken()}, concurrency=2))
    assert free == locked
    assert set(policy.sizes) == {1}


def test_no_more_episodes_are_under_way_than_asked_for():
    under_way, most = 0, 0

    class Counting(ScriptedPolicy):
        async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return await super().generate(prompts)

    asyncio.run(play_freely(episodes("abcdef"), Counting(lambda _: ANSWER), {}, concurrency=2))
    assert most == 2


class Counting:
    """A tool that counts, for each episode, its calls; and how many sessions it has open."""

    opened = 0
    open_now = 0

    async def run(self, call: ToolCall) -> ToolResult:
        raise AssertionError("a call outside an episode")

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Tool]:
        self.opened += 1
        self.open_now += 1
        try:
            yield Counter()
        finally:
            self.open_now -= 1


class Counter:
    def __init__(self) -> None:
        self._calls = 0

    async def run(self, call: ToolCall) -> ToolResult:
        self._calls += 1
        return ToolResult(text=str(self._calls))


def test_each_episode_has_its_own_session_and_it_ends():
    tool = Counting()
    policy = ScriptedPolicy([SEARCH, SEARCH, SEARCH, SEARCH, ANSWER, ANSWER])
    played = asyncio.run(play(episodes("ab"), policy, {"search": tool}))
    assert [[turn.result.text for turn in each.turns[:2]] for each in played] == [["1", "2"]] * 2
    assert (tool.opened, tool.open_now) == (2, 0)


def test_a_session_ends_with_its_episode_and_not_with_the_rollout():
    tool = Counting()

    async def watch() -> list[int]:
        policy = ScriptedPolicy([SEARCH, SEARCH, ANSWER, SEARCH, ANSWER])
        return [tool.open_now async for _ in rounds(episodes("ab"), policy, {"search": tool})]

    assert asyncio.run(watch()) == [2, 1, 0]


def test_an_episode_that_does_not_call_a_tool_opens_no_session():
    tool = Counting()
    rollout("a", ScriptedPolicy([ANSWER]), {"search": tool})
    assert tool.opened == 0


def test_sessions_end_when_the_rollout_breaks():
    tool = Counting()
    with pytest.raises(IndexError):
        rollout("ab", ScriptedPolicy([SEARCH, SEARCH, ANSWER]), {"search": tool})
    assert (tool.opened, tool.open_now) == (2, 0)
