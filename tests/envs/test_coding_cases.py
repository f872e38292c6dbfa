"""The benchmark's own cases through the coding environment, with code that a good agent writes."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import numpy as np
import pytest

from visual_arft import tags
from visual_arft.envs.coding.data import load_mat_coding
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.coding.grammar import fenced, problem_set
from visual_arft.envs.coding.repairs import program
from visual_arft.envs.coding.tool import PythonTool
from visual_arft.episode import Episode
from visual_arft.images import MemoryImages, Pixels, decode
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.rollout import play
from visual_arft.sandbox import Sandbox
from visual_arft.types import Task

REFERENCE = Path(
    os.environ.get("ARFT_REFERENCE", Path(__file__).parents[2] / ".." / "shared" / "reference")
)
CASES = REFERENCE / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the benchmark's published cases")


def replies(task: Task) -> list[str]:
    """What a good agent says to a case: the problem, code unless there is none, the answer."""
    problems = task.kind.split("+")
    code = program(*problems, box=box_of(task.question))
    steps = [("problem", problem_set(tuple(problems))), ("code", fenced(code))]
    if problems == ["none"]:
        steps.pop()
    return [tags.wrap("I look.", *step) for step in [*steps, ("answer", task.answers[0])]]


def box_of(question: str) -> tuple[int, int, int, int] | None:
    """The box in a question, in thousandths."""
    found = re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", question)
    return (int(found[1]), int(found[2]), int(found[3]), int(found[4])) if found else None


@pytest.fixture(scope="module")
def processed() -> dict[str, tuple[Pixels, Pixels]]:
    """The image that each case starts from, and the one that its answer is read from."""
    images = MemoryImages()
    seen = {}
    with Sandbox() as sandbox:
        tools = {"python": PythonTool(sandbox, images)}
        for task in load_mat_coding(CASES, images):
            policy = ScriptedPolicy(replies(task))
            [trajectory] = asyncio.run(play([Episode(task, CodingEnv())], policy, tools))
            assert trajectory.answer == task.answers[0].strip()
            [last] = policy.prompts[-1].images
            pixels = [decode(images.read(image)) for image in (task.images[0], last)]
            seen[f"{task.kind} {task.id}"] = (pixels[0], pixels[1])
    return seen


def test_all_six_cases_are_played_to_their_answer(processed: dict[str, tuple[Pixels, Pixels]]):
    assert sorted(processed) == [
        "crop 119",
        "crop 124",
        "dark 22",
        "none 63",
        "rotation180 12",
        "rotation90+dark 71",
    ]


def test_a_case_without_a_problem_keeps_its_image(processed: dict[str, tuple[Pixels, Pixels]]):
    start, end = processed["none 63"]
    np.testing.assert_array_equal(start, end)


def test_a_turn_is_undone(processed: dict[str, tuple[Pixels, Pixels]]):
    start, end = processed["rotation180 12"]
    assert np.abs(end[::-1, ::-1].astype(int) - start).mean() < 2  # JPEG


def test_a_dark_page_gets_light_again(processed: dict[str, tuple[Pixels, Pixels]]):
    start, end = processed["dark 22"]
    assert start.max() < 64
    assert np.median(end) > 150


def test_a_dark_page_on_its_side_is_turned_and_lightened(
    processed: dict[str, tuple[Pixels, Pixels]],
):
    start, end = processed["rotation90+dark 71"]
    assert end.shape == (start.shape[1], start.shape[0], 3)
    # Its top left corner lay at the bottom left: a quarter turn clockwise brings it up.
    expected = np.clip(np.rot90(start, -1).astype(int) * 4, 0, 255)
    assert np.abs(end - expected).mean() < 3


@pytest.mark.parametrize(
    ("case", "box"), [("crop 119", (366, 723, 506, 851)), ("crop 124", (489, 155, 595, 259))]
)
def test_a_crop_shows_the_box(
    processed: dict[str, tuple[Pixels, Pixels]], case: str, box: tuple[int, int, int, int]
):
    start, end = processed[case]
    height, width, _ = start.shape
    left, right = (x * width // 1000 for x in box[0::2])
    top, bottom = (y * height // 1000 for y in box[1::2])
    assert np.abs(end.astype(int) - start[top:bottom, left:right]).mean() < 8  # JPEG
