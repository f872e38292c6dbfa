from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

import numpy as np
import pytest

from visual_arft.envs.coding.degradations import degrade
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.coding.grammar import MENDABLE, PROBLEMS, problem_names
from visual_arft.envs.coding.repairs import program
from visual_arft.envs.coding.tool import PythonTool
from visual_arft.episode import replay
from visual_arft.images import MemoryImages, decode, encode
from visual_arft.sandbox import Sandbox
from visual_arft.synth.coding import (
    FAMILIES,
    TEMPLATE,
    WORDING,
    CodingDemonstrations,
    MiniMatCoding,
    box_in,
    mended,
    noise,
)
from visual_arft.synth.signs import SIDE, draw_sign
from visual_arft.synth.splits import split_of, stream
from visual_arft.types import StopReason, ToolCall, Trajectory

IMAGES = MemoryImages()


@pytest.fixture(scope="module")
def tasks():
    return MiniMatCoding("test", 0, IMAGES)(0, 400)


def demonstrations(
    count: int, *, blind: bool, context: Literal["retell", "append"] = "append"
) -> list[Trajectory]:
    env = CodingEnv(context, TEMPLATE, WORDING)
    return CodingDemonstrations(MiniMatCoding("train", 7, IMAGES), env, IMAGES, blind=blind)(
        0, count
    )


def named(demonstration: Trajectory) -> str:
    [problem] = problem_names(demonstration.turns[0].action)
    return problem


def test_the_eight_problems_come_about_equally_often(tasks):
    kinds = Counter(task.kind for task in tasks)
    assert set(kinds) == set(PROBLEMS)
    assert 30 < min(kinds.values()) <= max(kinds.values()) < 72  # 50 expected, 6.6 the deviation


def test_answers_are_of_the_split_and_no_task_is_like_another(tasks):
    assert {split_of(answer) for task in tasks for answer in task.answers} == {"test"}
    known = MiniMatCoding("train", 0, IMAGES)(0, 100)
    assert {split_of(answer) for task in known for answer in task.answers} == {"train"}
    assert len({task.id for task in (*tasks, *known)}) == 500
    assert len({task.images for task in (*tasks, *known)}) == 500


def test_a_task_is_the_same_for_its_number_whatever_else_is_drawn(tasks):
    again = MiniMatCoding("test", 0, MemoryImages())
    assert again(250, 2) == tasks[250:252]
    assert again(3, 1) == tasks[3:4]
    assert MiniMatCoding("test", 1, MemoryImages())(3, 1)[0].answers != tasks[3].answers


def test_only_a_crop_has_a_box_and_its_sign_can_be_cut_out(tasks):
    for task in tasks[:80]:
        box = box_in(task.question)
        assert (box is not None) == (task.kind == "crop")
        if box is not None:
            scene = decode(IMAGES.read(task.images[0]))
            cut = mended(scene, "crop", box)
            assert all(abs(side - SIDE) <= 1 for side in cut.shape[:2])
            assert scene.shape[0] == 3 * SIDE


@pytest.mark.parametrize("context", ["retell", "append"])
def test_a_demonstration_that_sees_is_an_episode_to_the_gold_answer(
    context: Literal["retell", "append"],
):
    for each in demonstrations(60, blind=False, context=context):
        assert each.stop_reason is StopReason.ANSWERED
        assert each.answer == each.task.answers[0]
        assert named(each) == each.task.kind
        assert len(each.turns) == (2 if each.task.kind == "none" else 3)
        assert replay(each, CodingEnv(context, TEMPLATE, WORDING)) == each


def test_a_blind_demonstration_guesses_within_the_family():
    guesses = Counter((each.task.kind, named(each)) for each in demonstrations(600, blind=True))
    allowed = {(one, other) for family in FAMILIES for one in family for other in family}
    assert set(guesses) == allowed | {("crop", "crop"), ("none", "none")}
    for family in FAMILIES:
        right = sum(guesses[kind, kind] for kind in family)
        share = right / sum(guesses[one, other] for one in family for other in family)
        assert 0.75 < share * len(family) < 1.25  # each member equally often


def test_a_wrong_guess_is_carried_out_and_no_answer_is_shown():
    for each in demonstrations(80, blind=True):
        if named(each) == each.task.kind:
            assert each.answer == each.task.answers[0]
        else:
            assert each.answer is None
            [made] = [turn.result for turn in each.turns if turn.result]
            assert made.images
            assert all(each.task.answers[0] not in turn.completion.text for turn in each.turns)


def test_what_a_demonstration_shows_is_what_the_sandbox_makes():
    images = MemoryImages()
    with Sandbox() as sandbox:
        tool = PythonTool(sandbox, images)
        for number, problem in enumerate((*MENDABLE, "crop")):
            rng = stream("a spoilt sign", number)
            spoilt = degrade(draw_sign(["907", "314"], rng), problem, noise(rng))
            box = (100, 250, 613, 900) if problem == "crop" else None
            call = ToolCall(
                tool="python",
                arguments={"code": program(problem, box=box)},
                images=(images.add(encode(spoilt)),),
            )
            result = asyncio.run(tool.run(call))
            assert result.error is None
            made = decode(images.read(result.images[0]))
            np.testing.assert_array_equal(made, mended(spoilt, problem, box))
