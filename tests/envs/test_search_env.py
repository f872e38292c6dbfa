from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft import tags
from visual_arft.envs.search.backends.memory import OfflineSearcher
from visual_arft.envs.search.env import SearchEnv
from visual_arft.envs.search.tool import SearchTool
from visual_arft.episode import Episode, replay
from visual_arft.errors import UserError
from visual_arft.types import (
    Action,
    Completion,
    Image,
    Malformed,
    Prompt,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Turn,
)

PHOTO = Image(sha256="0" * 64, width=640, height=480)
TOWER = Task(id="tower", question="Who built this?", answers=("Gustave Eiffel",), images=(PHOTO,))
CONTEXTS: tuple[Literal["retell", "append"], ...] = ("retell", "append")
context = st.sampled_from(CONTEXTS)

query = st.text(st.characters(exclude_categories=("Cs",)), max_size=30).map(
    lambda text: "q" + text.replace("<", "(")
)
found = st.builds(ToolResult, text=st.text(max_size=60)) | st.builds(
    ToolResult, error=st.text(max_size=30)
)
steps = st.lists(st.tuples(query, found), min_size=1, max_size=4)


def play(env: SearchEnv, task: Task, steps: list[tuple[str, ToolResult]]) -> Episode:
    episode = Episode(task, env, max_turns=len(steps) + 1)
    for number, (words, result) in enumerate(steps):
        reply = tags.wrap("I look it up.", "search", words)
        episode.act(Completion(text=reply, token_ids=(number, 7)))
        episode.observe(result)
    return episode


def text_of(prompt: Prompt | ToolCall | None) -> str:
    assert isinstance(prompt, Prompt)
    [message] = prompt.messages
    return message.text


def test_a_search_and_then_an_answer():
    episode = Episode(TOWER, SearchEnv(), max_turns=5)
    tool = SearchTool(OfflineSearcher({"tower on the Seine": ["By Eiffel.", "In Paris."]}))

    episode.act(Completion(text=tags.wrap("A tower.", "search", "tower on the Seine")))
    assert episode.pending == ToolCall(tool="search", arguments={"query": "tower on the Seine"})
    episode.observe(asyncio.run(tool.run(episode.pending)))
    assert text_of(episode.pending).endswith(
        "<query>Who built this?</query>\n"
        "<think>A tower.</think><search>tower on the Seine</search>\n"
        "<information> 1. Content:By Eiffel. 2. Content:In Paris. </information>"
    )
    episode.act(Completion(text=tags.wrap("It says so.", "answer", "Eiffel")))

    assert episode.trajectory.stop_reason is StopReason.ANSWERED
    assert episode.trajectory.answer == "Eiffel"
    assert replay(episode.trajectory, SearchEnv()) == episode.trajectory


def test_the_first_prompt_is_the_same_in_both_contexts_and_shows_the_image_once():
    retold, appended = (SearchEnv(context).prompt(TOWER, ()) for context in CONTEXTS)
    assert retold == appended
    assert retold.images == (PHOTO,)


def test_a_task_without_an_image_shows_none():
    task = Task(id="text", question="Who built it?", answers=("Eiffel",))
    assert SearchEnv().prompt(task, ()).images == ()


@given(context=context, steps=steps)
def test_a_step_task_sees_what_the_whole_episode_sees_at_that_turn(
    context: Literal["retell", "append"], steps: list[tuple[str, ToolResult]]
):
    env = SearchEnv(context)
    whole = play(env, TOWER, steps)
    seen = whole.pending
    whole.abort("only its prompt is wanted")
    step = TOWER.model_copy(
        update={
            "prefix": whole.trajectory.turns,
            "expected": Action(kind="answer", content="Eiffel"),
        }
    )
    assert Episode(step, env).pending == seen


@given(steps=steps)
def test_appending_never_changes_an_earlier_message(steps: list[tuple[str, ToolResult]]):
    episode = play(SearchEnv("append"), TOWER, steps)
    last = episode.pending
    episode.abort("only its prompts are wanted")
    prompts = [turn.prompt for turn in episode.trajectory.turns] + [last]
    for before, after in pairwise(prompts):
        assert isinstance(before, Prompt)
        assert isinstance(after, Prompt)
        assert after.messages[: len(before.messages)] == before.messages
        assert [message.role for message in after.messages[len(before.messages) :]] == [
            "assistant",
            "user",
        ]


def test_appending_keeps_the_sampled_tokens_of_each_reply():
    steps = [("Eiffel Tower", ToolResult(text="1. Content:a tower"))] * 2
    prompt = play(SearchEnv("append"), TOWER, steps).pending
    assert isinstance(prompt, Prompt)
    sampled = [message.token_ids for message in prompt.messages if message.role == "assistant"]
    assert sampled == [(0, 7), (1, 7)]


bits = ["<", ">", "/", " ", "‹", "a", "answer", "SEARCH", "information", "<think>", "</query>"]


@given(st.lists(st.sampled_from(bits)).map("".join))
def test_what_a_search_brings_cannot_speak_for_the_agent_or_close_its_frame(page: str):
    prompt = play(SearchEnv("append"), TOWER, [("q", ToolResult(text=page))]).pending
    assert isinstance(prompt, Prompt)
    shown = prompt.messages[-1].text.removeprefix("<information> ").removesuffix(" </information>")
    assert not re.search(r"<\s*/?\s*(answer|search|information|think|query)\s*>", shown, re.I)
    assert shown.replace("‹", "<").replace("›", ">") == page.replace("‹", "<")


def test_a_page_of_blanks_after_an_open_bracket_costs_no_more_than_its_length():
    page = "<" + " " * 1_000_000  # hours, were its square the cost
    assert tags.defuse(page) == page


def test_a_failed_search_is_shown_as_its_error():
    episode = play(SearchEnv(), TOWER, [("q", ToolResult(error="no results"))])
    assert text_of(episode.pending).endswith("<information> no results </information>")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (tags.wrap("hm", "search", "  "), "the <search> is empty"),
        (tags.wrap("hm", "code", "print(1)"), "<code> is not an action of this agent"),
        ("<search>Eiffel</search>", "the reply has no <think>"),
    ],
)
def test_a_reply_that_is_no_action_says_why(reply: str, why: str):
    assert SearchEnv().parse(reply) == Malformed(reason=why)


def test_a_template_says_where_question_and_chain_go():
    env = SearchEnv(template="{chain}\nQ: {question}")
    result = ToolResult(text="1. Content:A")
    assert text_of(play(env, TOWER, [("x", result)]).pending) == (
        "\n<think>I look it up.</think><search>x</search>"
        "\n<information> 1. Content:A </information>\nQ: Who built this?"
    )


def test_braces_in_a_question_stay_as_they_were_asked():
    task = Task(id="braces", question="What is {chain} in {question}?", answers=("x",))
    assert "<query>What is {chain} in {question}?</query>" in text_of(SearchEnv().prompt(task, ()))


def test_a_template_without_a_place_for_the_question_is_an_error():
    with pytest.raises(UserError, match=r"'Answer!'… has no \{question\}; write"):
        SearchEnv(template="Answer!")


def test_a_search_of_the_prefix_that_lacks_its_result_is_an_error():
    action = Action(kind="search", content="q")
    completion = Completion(text=tags.wrap("", "search", "q"))
    turn = Turn(prompt=Prompt(messages=()), completion=completion, action=action)
    with pytest.raises(UserError, match="task 'tower', turn 1: the search has no result"):
        SearchEnv().prompt(TOWER, (turn,))
