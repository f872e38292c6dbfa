from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.errors import UserError
from visual_arft.training.batch import pad
from visual_arft.training.segments import Segment, rows, segments
from visual_arft.types import (
    Action,
    Completion,
    Image,
    Message,
    Prompt,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

SIGN = Image(sha256="a" * 64, width=4, height=4)
FIXED = Image(sha256="b" * 64, width=4, height=4)


def turn(
    prompt_ids: tuple[int, ...] | None,
    token_ids: tuple[int, ...] | None,
    logprobs: tuple[float, ...] | None = None,
    images: tuple[Image, ...] = (SIGN,),
) -> Turn:
    if logprobs is None and token_ids is not None:
        logprobs = tuple(-0.1 * token for token in token_ids)
    return Turn(
        prompt=Prompt(messages=(Message(role="user", text="?", images=images),)),
        completion=Completion(
            text="…", prompt_ids=prompt_ids, token_ids=token_ids, logprobs=logprobs
        ),
        action=Action(kind="search", content="x"),
    )


def trajectory(*turns: Turn, stop_reason: StopReason = StopReason.MAX_TURNS) -> Trajectory:
    return Trajectory(
        task=Task(id="t1", question="?", answers=("x",)), turns=turns, stop_reason=stop_reason
    )


def test_a_segment_is_a_turn_with_what_was_sampled():
    played = trajectory(turn((1, 2), (3, 4), (-0.5, -0.25)))
    assert segments(played, 1.5) == [Segment("t1", 0, (1, 2), (3, 4), (-0.5, -0.25), (SIGN,), 1.5)]


@pytest.mark.parametrize(
    "broken",
    [
        turn(None, (3,)),
        turn((1,), None),
        turn((1,), (3,)).model_copy(
            update={"completion": Completion(text="", prompt_ids=(1,), token_ids=(3,))}
        ),
        turn((1,), (3, 4), (-0.5,)),
    ],
)
def test_a_turn_without_its_tokens_is_named_and_not_trained_on(broken: Turn):
    with pytest.raises(
        UserError, match=r"task 't1', turn 1: .*; sample with a backend that reports"
    ):
        segments(trajectory(turn((1,), (2,)), broken), 1.0)


def test_an_episode_whose_tool_failed_is_refused():
    with pytest.raises(ValueError, match="task 't1': a tool failed"):
        segments(trajectory(turn((1,), (2,)), stop_reason=StopReason.TOOL_FAILED), 1.0)


def test_turns_of_a_growing_chat_become_one_row():
    played = trajectory(turn((1, 2), (3, 4)), turn((1, 2, 3, 4, 5), (6,), images=(SIGN, FIXED)))
    [row] = rows(segments(played, 1.0))
    assert row.ids == (1, 2, 3, 4, 5, 6)
    assert row.mask == (False, False, True, True, False, True)
    assert row.old_logprobs == pytest.approx((0.0, 0.0, -0.3, -0.4, 0.0, -0.6))
    assert row.images == (SIGN, FIXED)


@pytest.mark.parametrize(
    "second",
    [
        turn((1, 2, 3, 9, 5), (6,)),  # other tokens than those sampled
        turn((1, 2, 3), (6,)),  # shorter than what went before
        turn((1, 2, 3, 4, 5), (6,), images=(FIXED,)),  # the image was replaced
        turn((1, 2, 3, 4, 5), (6,), images=()),  # the image was dropped
    ],
)
def test_a_turn_that_does_not_go_on_starts_its_own_row(second: Turn):
    first_row, second_row = rows(segments(trajectory(turn((1, 2), (3, 4)), second), 1.0))
    assert first_row.ids == (1, 2, 3, 4)
    assert second_row.ids == (*second.completion.prompt_ids, 6)
    assert second_row.images == second.prompt.images


def test_siblings_of_a_group_are_never_joined():
    one = segments(trajectory(turn((1,), (2,))), 1.0)
    assert len(rows([*one, *one])) == 2
    assert (
        len(rows([*one, *(replace(each, turn=1, prompt_ids=(1, 2), task_id="t2") for each in one)]))
        == 2
    )


def test_turns_with_different_credit_are_not_joined():
    first, second = segments(trajectory(turn((1,), (2,)), turn((1, 2), (3,))), 1.0)
    assert [row.advantage for row in rows([first, replace(second, advantage=-1.0)])] == [1.0, -1.0]


@st.composite
def groups(draw: st.DrawFn) -> list[Segment]:
    """Segments of a few episodes, some turns going on with the one before and some rebuilt."""
    ids = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
    out: list[Segment] = []
    for number in range(draw(st.integers(1, 3))):
        context: tuple[int, ...] = ()
        images: tuple[Image, ...] = ()
        for turn in range(draw(st.integers(1, 4))):
            if draw(st.booleans()):
                context, images = (), ()
            prompt, tokens = context + draw(ids), draw(ids)
            images += tuple(draw(st.lists(st.sampled_from([SIGN, FIXED]), max_size=1)))
            logprobs = tuple(-1.0 - len(out) - i / 10 for i in range(len(tokens)))
            out.append(Segment("t", turn, prompt, tokens, logprobs, images, float(number)))
            context = prompt + tokens
    return out


@given(groups())
def test_every_sampled_token_is_in_one_row_once_after_what_it_was_sampled_after(
    group: list[Segment],
):
    sampled = [
        (segment.prompt_ids + segment.token_ids[:i], token, logprob, segment.advantage)
        for segment in group
        for i, (token, logprob) in enumerate(
            zip(segment.token_ids, segment.old_logprobs, strict=True)
        )
    ]
    trained = [
        (row.ids[:i], row.ids[i], row.old_logprobs[i], row.advantage)
        for row in rows(group)
        for i, written in enumerate(row.mask)
        if written
    ]
    assert trained == sampled


@given(groups())
def test_a_padded_batch_holds_the_rows_and_nothing_else(group: list[Segment]):
    lines = rows(group)
    batch = pad(lines, pad_id=99)
    for i, row in enumerate(lines):
        kept = batch.is_token[i]
        assert tuple(batch.ids[i][kept].tolist()) == row.ids
        assert tuple(batch.mask[i][kept].tolist()) == row.mask
        assert batch.old_logprobs[i][kept].tolist() == pytest.approx(row.old_logprobs)
        assert math.isclose(batch.advantages[i].item(), row.advantage)
        assert batch.ids[i][~kept].eq(99).all()
        assert not batch.mask[i][~kept].any()
    assert batch.images == tuple(row.images for row in lines)
    assert batch.ids.shape[1] == max(len(row.ids) for row in lines)
