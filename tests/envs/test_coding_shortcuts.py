from __future__ import annotations

import pytest

from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.coding.grammar import fenced
from visual_arft.tags import parse, wrap
from visual_arft.types import Action, Completion, Image, Prompt, Task, Turn

IMAGE = Image(sha256="0" * 64, width=200, height=400)
QUESTION = "What stands in [100, 250, 500, 750] of the image?"


def turn(problem):
    text = wrap("", "problem", problem)
    action = parse(text, ("problem",))
    return Turn(prompt=Prompt(messages=()), completion=Completion(text=text), action=action)


def code_run(code, *, problem="{'crop'}", question=QUESTION, shortcuts=("crop-box",)):
    task = Task(id="1", question=question, answers=("x",), images=(IMAGE,))
    action = Action(kind="code", content=fenced(code))
    call = CodingEnv(shortcuts=shortcuts).tool_call(task, [turn(problem)], action)
    assert call is not None
    return call.arguments["code"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("part = image[1:2, 3:4]", "part = image[100:300, 20:100]"),
        ("part = image[y:y + h, boxes[0]:boxes[1]]", "part = image[100:300, 20:100]"),
        ("red = image[a:b, c:d, 0]", "red = image[100:300, 20:100, 0]"),
        ("f(image[a:b, c:d], image[:, 0:9])", "f(image[100:300, 20:100], image[:, 0:9])"),
        ("grey = image[:, :, 0]", "grey = image[:, :, 0]"),
        ("half = image[0:9:2, 0:9:2]", "half = image[0:9:2, 0:9:2]"),
    ],
)
def test_a_slice_is_set_to_the_box_of_the_question_in_pixels(code, expected):
    # Thousandths of 200 x 400: left 20, top 100, right 100, bottom 300.
    assert code_run(code) == expected


@pytest.mark.parametrize(
    "how",
    [
        {"shortcuts": ()},
        {"problem": "{'dark'}"},
        {"question": "What is it?"},
    ],
)
def test_code_runs_as_it_is_without_the_switch_a_crop_or_a_box(how):
    code = "part = image[1:2,  3:4]"
    assert code_run(code, **how) == code


def test_code_that_is_not_python_runs_as_it_is():
    code = "part = image[1:2, 3:4"
    assert code_run(code) == code
