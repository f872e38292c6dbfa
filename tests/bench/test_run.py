from __future__ import annotations

import asyncio

import pytest

from visual_arft.bench.run import run_suite
from visual_arft.errors import ToolFailure, UserError
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.store import Store
from visual_arft.tags import parse, wrap
from visual_arft.types import Message, Prompt, StopReason, Task, ToolCall, ToolResult

TASKS = [Task(id=name, question=f"Who is {name}?", answers=(name,)) for name in "abcde"]


class LookUp:
    """An env that looks the question up once and then wants the answer."""

    def prompt(self, task, turns):
        seen = "".join(turn.result.text for turn in turns if turn.result)
        return Prompt(messages=(Message(role="user", text=task.question + seen),))

    def parse(self, text):
        return parse(text, ("search", "answer"))

    def tool_call(self, task, turns, action):
        return ToolCall(tool="search", arguments={"query": task.id})


class Index:
    """A search whose machinery fails for some queries."""

    def __init__(self, broken=""):
        self.broken = broken

    async def run(self, call):
        if call.arguments["query"] in self.broken:
            raise ToolFailure("the index is away")
        return ToolResult(text=f" It is {call.arguments['query']}.")


def reply(prompt):
    question, _, fact = prompt.messages[0].text.partition("? It is ")
    return wrap("", "answer", fact.strip(".")) if fact else wrap("", "search", question)


def run(store, *, policy=None, index=None, tasks=TASKS, **options):
    policy, tools = policy or ScriptedPolicy(reply), {"search": index or Index()}
    return asyncio.run(run_suite(tasks, LookUp(), policy, tools, store, **options))


def test_every_task_is_played_recorded_and_returned_in_order(tmp_path):
    seen = []
    trajectories = run(
        Store(tmp_path), batch_size=2, phase="agent", progress=lambda *told: seen.append(told)
    )
    assert [each.answer for each in trajectories] == list("abcde")
    assert [entry.trajectory for entry in Store(tmp_path)] == trajectories
    assert {entry.phase for entry in Store(tmp_path)} == {"agent"}
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_run_that_was_cut_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(IndexError):  # the script ends in the second batch
        run(Store(tmp_path), policy=ScriptedPolicy([wrap("", "answer", "x")] * 3), batch_size=2)
    policy = ScriptedPolicy(reply)
    trajectories = run(Store(tmp_path), policy=policy)
    assert [each.answer for each in trajectories] == ["x", "x", "c", "d", "e"]
    assert len(policy.prompts) == 2 * 3
    assert run(Store(tmp_path), policy=ScriptedPolicy([])) == trajectories


def test_another_phase_is_played_anew(tmp_path):
    run(Store(tmp_path), phase="before")
    policy = ScriptedPolicy(reply)
    run(Store(tmp_path), policy=policy, phase="after")
    assert len(policy.prompts) == 2 * 5


def test_an_episode_whose_tool_failed_is_recorded_and_played_again(tmp_path):
    first = run(Store(tmp_path), index=Index(broken="bd"))
    assert [each.stop_reason for each in first].count(StopReason.TOOL_FAILED) == 2
    policy = ScriptedPolicy(reply)
    second = run(Store(tmp_path), policy=policy)
    assert [each.answer for each in second] == list("abcde")
    assert len(policy.prompts) == 2 * 2


def test_a_record_of_other_tasks_is_not_mixed_in(tmp_path):
    run(Store(tmp_path))
    changed = [TASKS[0].model_copy(update={"question": "Where is a?"})]
    with pytest.raises(UserError, match="task 'a' was recorded with another content"):
        run(Store(tmp_path), tasks=changed)


def test_an_id_that_occurs_twice_is_an_error(tmp_path):
    with pytest.raises(UserError, match="task id 'b' occurs twice"):
        run(Store(tmp_path), tasks=[*TASKS, TASKS[1]])
