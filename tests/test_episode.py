"""The game's rules of play, on the smallest env: search asks a tool, problem asks none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.episode import Episode, replay
from visual_arft.errors import EpisodeError
from visual_arft.tags import parse, wrap
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
    Turn,
)

TASK = Task(id="tower", question="Who built it?", answers=("Gustave Eiffel",))
SEARCH, PROBLEM = wrap("look", "search", "tower"), wrap("hm", "problem", "{'dark'}")
ANSWER = wrap("so", "answer", "Gustave Eiffel")
FOUND = ToolResult(text="by Gustave Eiffel")


class Notebook:
    """An env whose prompt lists everything that was said and found."""

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        lines = [f"{turn.completion.text}={turn.result and turn.result.text}" for turn in turns]
        return Prompt(messages=(Message(role="user", text="\n".join([task.question, *lines])),))

    def parse(self, text: str) -> Action | Malformed:
        return parse(text, ("search", "problem", "answer"))

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        arguments = {"query": action.content, "after": len(turns)}
        return ToolCall(tool="search", arguments=arguments) if action.kind == "search" else None


def episode(task: Task = TASK, **settings: int) -> Episode:
    return Episode(task, Notebook(), **settings)


def text(pending: Prompt | ToolCall | None) -> str:
    assert isinstance(pending, Prompt)
    return pending.messages[0].text


def test_a_search_then_an_answer():
    game = episode()
    assert text(game.pending) == "Who built it?"
    game.act(Completion(text=SEARCH))
    assert game.pending == ToolCall(tool="search", arguments={"query": "tower", "after": 0})
    game.observe(FOUND)
    assert text(game.pending) == f"Who built it?\n{SEARCH}=by Gustave Eiffel"
    game.act(Completion(text=ANSWER))
    assert game.pending is None
    assert game.trajectory.stop_reason is StopReason.ANSWERED
    assert game.trajectory.answer == "Gustave Eiffel"
    assert [turn.result for turn in game.trajectory.turns] == [FOUND, None]


def test_an_action_without_a_tool_goes_straight_to_the_next_prompt():
    game = episode()
    game.act(Completion(text=PROBLEM))
    assert text(game.pending) == f"Who built it?\n{PROBLEM}=None"


def test_a_malformed_reply_ends_the_episode_without_an_answer():
    game = episode()
    game.act(Completion(text="the answer is 42"))
    assert game.trajectory.stop_reason is StopReason.MALFORMED
    assert game.trajectory.answer is None
    assert game.trajectory.turns[0].action == Malformed(reason="the reply has no <think>")


def test_a_reply_cut_at_the_limit_is_no_answer_even_if_it_reads_as_one():
    game = episode()
    game.act(Completion(text=ANSWER, finish_reason="length"))
    assert game.trajectory.stop_reason is StopReason.TRUNCATED
    assert game.trajectory.answer is None


def test_the_last_turns_tool_is_not_run():
    game = episode(max_turns=1)
    game.act(Completion(text=SEARCH))
    assert game.trajectory.stop_reason is StopReason.MAX_TURNS


def test_the_last_turns_tool_is_run_on_demand():
    game = episode(max_turns=1, run_last_tool=True)
    game.act(Completion(text=SEARCH))
    game.observe(FOUND)
    assert game.trajectory.stop_reason is StopReason.MAX_TURNS
    assert game.trajectory.turns[0].result == FOUND


def step_task(*prefix: Turn) -> Task:
    return TASK.model_copy(
        update={"prefix": prefix, "expected": Action(kind="answer", content="x")}
    )


def test_a_step_task_starts_where_the_whole_episode_would_be():
    whole = episode()
    whole.act(Completion(text=SEARCH))
    whole.observe(FOUND)
    expected = whole.pending
    whole.act(Completion(text=ANSWER))
    assert episode(step_task(whole.trajectory.turns[0])).pending == expected


def test_a_step_task_lasts_one_turn_and_its_tool_sees_the_prefix():
    before = Turn(
        prompt=Notebook().prompt(TASK, ()),
        completion=Completion(text=PROBLEM),
        action=Action(kind="problem", content="{'dark'}"),
    )
    game = episode(step_task(before), max_turns=5, run_last_tool=True)
    game.act(Completion(text=SEARCH))
    assert game.pending == ToolCall(tool="search", arguments={"query": "tower", "after": 1})
    game.observe(FOUND)
    assert game.trajectory.stop_reason is StopReason.MAX_TURNS
    assert len(game.trajectory.turns) == 1


def test_machinery_that_failed_is_on_the_record():
    game = episode()
    game.act(Completion(text=SEARCH))
    game.abort("the search engine is down")
    assert game.trajectory.stop_reason is StopReason.TOOL_FAILED
    assert game.trajectory.failure == "the search engine is down"
    assert game.trajectory.answer is None


def test_an_episode_refuses_what_it_did_not_ask_for():
    game = episode()
    with pytest.raises(EpisodeError, match="'tower': no tool call is pending"):
        game.observe(FOUND)
    with pytest.raises(EpisodeError, match="'tower': the episode still waits"):
        _ = game.trajectory
    game.act(Completion(text=SEARCH))
    with pytest.raises(EpisodeError, match="'tower': no prompt is pending"):
        game.act(Completion(text=ANSWER))
    game.abort("down")
    with pytest.raises(EpisodeError, match="'tower': the episode is over"):
        game.abort("down again")


def test_an_episode_of_no_turns_is_refused():
    with pytest.raises(ValueError, match="max_turns is 0; an episode needs at least 1"):
        episode(max_turns=0)


@given(
    st.lists(
        st.sampled_from([SEARCH, PROBLEM, ANSWER, "gibberish", "cut"]), min_size=6, max_size=6
    ),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 6),
)
def test_a_replay_is_equal(
    script: list[str], max_turns: int, run_last_tool: bool, failing_call: int
):
    game = episode(max_turns=max_turns, run_last_tool=run_last_tool)
    calls = 0
    while game.pending is not None:
        if isinstance(game.pending, Prompt):
            reply = script.pop()
            game.act(Completion(text=reply, finish_reason="length" if reply == "cut" else "stop"))
        else:
            calls += 1
            if calls == failing_call:
                game.abort("down")
            else:
                game.observe(ToolResult(text=f"found {calls}"))
    again = replay(game.trajectory, Notebook(), max_turns=max_turns, run_last_tool=run_last_tool)
    assert again == game.trajectory
