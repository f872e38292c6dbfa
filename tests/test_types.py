from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from visual_arft.types import (
    Action,
    Completion,
    Image,
    Malformed,
    Message,
    Prompt,
    StopReason,
    Task,
    ToolResult,
    Trajectory,
    Turn,
)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
images = st.builds(
    Image, sha256=st.sampled_from(["0" * 64, "f" * 64]), width=st.just(2), height=st.just(3)
)
some_images = st.lists(images, max_size=2).map(tuple)
prompts = st.builds(
    Prompt,
    messages=st.lists(
        st.builds(
            Message, role=st.sampled_from(["user", "assistant"]), text=names, images=some_images
        ),
        max_size=2,
    ).map(tuple),
)
ids = st.none() | st.lists(st.integers(0, 2**31), max_size=3).map(tuple)
completions = st.builds(
    Completion,
    text=names,
    prompt_ids=ids,
    token_ids=ids,
    logprobs=st.none() | st.lists(st.floats(-50, 0), max_size=3).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
)
actions = st.builds(Action, kind=names, content=names, thought=names) | st.builds(
    Malformed, reason=names
)
turns = st.builds(
    Turn,
    prompt=prompts,
    completion=completions,
    action=actions,
    result=st.none()
    | st.builds(ToolResult, text=names, images=some_images, error=st.none() | names),
)
many_turns = st.lists(turns, max_size=2).map(tuple)
tasks = st.builds(
    Task,
    id=names,
    question=names,
    answers=st.lists(names, max_size=2).map(tuple),
    images=some_images,
    prefix=many_turns,
    expected=st.none() | st.builds(Action, kind=names, content=names),
)
trajectories = st.builds(
    Trajectory,
    task=tasks,
    turns=many_turns,
    stop_reason=st.sampled_from([*StopReason][1:]),
    failure=st.none() | names,
)


@given(trajectories)
def test_a_trajectory_survives_json_to_the_last_bit(trajectory: Trajectory):
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory


def test_a_record_of_a_run_that_went_astray_can_still_be_read():
    broken = Completion(text="", token_ids=(1, 2), logprobs=(math.nan, -math.inf))
    again = Completion.model_validate_json(broken.model_dump_json())
    assert again.logprobs is not None
    assert math.isnan(again.logprobs[0])
    assert again.logprobs[1] == -math.inf


@given(prompts)
def test_a_prompt_shows_its_images_in_the_order_of_its_messages(prompt: Prompt):
    assert [image for message in prompt.messages for image in message.images] == [*prompt.images]


@pytest.mark.parametrize("reason", [each for each in StopReason if each is not StopReason.ANSWERED])
def test_only_an_answered_episode_has_an_answer(reason: StopReason):
    turn = Turn(
        prompt=Prompt(messages=()),
        completion=Completion(text="…"),
        action=Action(kind="answer", content=" 42\n"),
    )
    played = Trajectory(
        task=Task(id="t", question="?", answers=("42",)),
        turns=(turn,),
        stop_reason=StopReason.ANSWERED,
    )
    assert played.answer == "42"
    assert played.model_copy(update={"stop_reason": reason}).answer is None


def test_a_record_is_frozen_and_knows_its_names():
    action = Action(kind="answer", content="42")
    with pytest.raises(ValidationError):
        action.content = "43"  # pyright: ignore
    with pytest.raises(ValidationError, match="contents"):
        Action(kind="answer", contents="42")  # pyright: ignore


@pytest.mark.parametrize("sha256", ["", "0" * 63, "G" * 64, "../" + "0" * 61, "0" * 64 + "\n"])
def test_an_image_is_named_by_a_hash_and_nothing_else(sha256: str):
    with pytest.raises(ValidationError):
        Image(sha256=sha256, width=1, height=1)
