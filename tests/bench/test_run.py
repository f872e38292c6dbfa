from __future__ import annotations

import asyncio

import pytest

from visual_arft.bench.run import GIVE_UP_AFTER, Play, run_suite
from visual_arft.errors import RunFailure, ToolFailure, UserError
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.store import Store
from visual_arft.tags import parse, wrap
from visual_arft.types import Completion, Message, Prompt, StopReason, Task, ToolCall, ToolResult

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
        if call.arguments["query"][:1] in (*self.broken,):
            raise ToolFailure("the index is away")
        return ToolResult(text=f" It is {call.arguments['query']}.")


def reply(prompt):
    question, _, fact = prompt.messages[0].text.partition("? It is ")
    return wrap("", "answer", fact.strip(".")) if fact else wrap("", "search", question)


def run(store, *, policy=None, index=None, tasks=TASKS, batch_size=32, freely=False, **options):
    policy = policy or ScriptedPolicy(reply)
    how = Play(LookUp(), {"search": index or Index()}, batch_size=batch_size, freely=freely)
    return asyncio.run(run_suite(tasks, how, lambda: policy, store, **options))


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


def test_what_is_recorded_needs_no_policy(tmp_path):
    trajectories = run(Store(tmp_path))
    how = Play(LookUp(), {})
    again = run_suite(TASKS, how, lambda: pytest.fail("a policy was made"), Store(tmp_path))
    assert asyncio.run(again) == trajectories


class Late(ScriptedPolicy):
    """A policy that takes longest over the first question."""

    async def generate(self, prompts):
        await asyncio.sleep(0.05 if "Who is a?" in prompts[0].messages[0].text else 0)
        return await super().generate(prompts)


def test_episodes_that_run_freely_are_recorded_as_each_ends_and_returned_in_order(tmp_path):
    policy = Late(reply)
    trajectories = run(Store(tmp_path), policy=policy, freely=True, batch_size=3)
    assert [each.answer for each in trajectories] == list("abcde")
    recorded = [entry.trajectory.task.id for entry in Store(tmp_path)]
    assert sorted(recorded) == list("abcde")
    assert recorded[-1] == "a"


def test_no_more_episodes_run_freely_than_allowed(tmp_path):
    class Counted(ScriptedPolicy):
        now = most = 0

        async def generate(self, prompts):
            self.now += len(prompts)
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.001)
            self.now -= len(prompts)
            return await super().generate(prompts)

    policy = Counted(reply)
    run(Store(tmp_path), policy=policy, freely=True, batch_size=2)
    assert policy.most == 2


def test_what_was_played_freely_before_an_error_stays(tmp_path):
    policy = ScriptedPolicy([wrap("", "answer", "x")] * 3)
    with pytest.raises(IndexError):  # the script ends
        run(Store(tmp_path), policy=policy, freely=True, batch_size=1)
    trajectories = run(Store(tmp_path))
    assert [each.answer for each in trajectories] == ["x", "x", "x", "d", "e"]


def test_each_repetition_is_played_and_kept_apart(tmp_path):
    run(Store(tmp_path), policy=ScriptedPolicy([wrap("", "answer", "x")] * 5))
    again = run(Store(tmp_path), repeat=1)
    assert [each.answer for each in again] == list("abcde")
    assert [entry.repeat for entry in Store(tmp_path)] == [0] * 5 + [1] * 5
    assert run(Store(tmp_path), policy=ScriptedPolicy([]), repeat=1) == again


def test_batches_are_the_same_when_a_run_goes_on(tmp_path):
    """So that a local model pads, and rounds, as it would have."""
    run(Store(tmp_path), tasks=TASKS[:1])
    policy = Batched(reply)
    run(Store(tmp_path), policy=policy, batch_size=2)
    assert policy.sizes == [1, 1, 2, 2, 1, 1]


class Batched(ScriptedPolicy):
    sizes = ()

    async def generate(self, prompts):
        self.sizes = [*self.sizes, len(prompts)]
        return await super().generate(prompts)


@pytest.mark.parametrize("freely", [False, True])
def test_a_run_gives_up_when_everything_fails(tmp_path, freely):
    tasks = [Task(id=f"q{number}", question="Who?", answers=("a",)) for number in range(40)]
    with pytest.raises(RunFailure, match=r"16 episodes in a row.*the index is away"):
        run(Store(tmp_path), tasks=tasks, index=Index("q"), freely=freely, batch_size=4)
    failed = len(list(Store(tmp_path)))
    assert GIVE_UP_AFTER <= failed < GIVE_UP_AFTER + 4
    ones = [each for each in tasks if each.id.endswith("1")]
    run(Store(tmp_path), tasks=ones)  # and then it goes on


def test_the_rules_may_give_the_first_reply(tmp_path):
    policy = ScriptedPolicy(reply)
    how = Play(
        LookUp(),
        {"search": Index()},
        opening=lambda task: Completion(text=wrap("", "search", task.id)),
    )
    [played] = asyncio.run(run_suite(TASKS[:1], how, lambda: policy, Store(tmp_path)))
    assert (played.answer, len(played.turns), len(policy.prompts)) == ("a", 2, 1)
