from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from visual_arft.envs.coding.tool import PythonSessions, PythonTool
from visual_arft.images import MemoryImages, decode, encode
from visual_arft.sandbox import Sandbox
from visual_arft.types import Image, ToolCall, ToolResult

IMAGES = MemoryImages()
PICTURE = IMAGES.add(encode(np.full((30, 40, 3), 90, np.uint8)))
READ = "import cv2, numpy as np\nimg = cv2.imread('path_to_input_image.jpg')\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def run(
    sandbox: Sandbox, code: str, picture: Image | None = PICTURE, max_side: int = 64
) -> ToolResult:
    call = ToolCall(tool="python", arguments={"code": code}, images=(picture,) if picture else ())
    return asyncio.run(PythonTool(sandbox, IMAGES, max_side=max_side).run(call))


def test_the_last_image_is_kept_in_the_store(sandbox: Sandbox):
    result = run(sandbox, READ + "print(img.shape)\nshow(img)\nshow(img[:10] + 1)")
    [image] = result.images
    assert (result.text, result.error) == ("(30, 40, 3)", None)
    assert (image.width, image.height) == (40, 10)
    np.testing.assert_array_equal(decode(IMAGES.read(image)), np.full((10, 40, 3), 91))


def test_an_error_is_for_the_model_and_brings_no_image(sandbox: Sandbox):
    result = run(sandbox, READ + "show(img)\nimg.crop()")
    assert result.images == ()
    assert result.error == (
        "line 4: img.crop()\nAttributeError: 'numpy.ndarray' object has no attribute 'crop'"
    )


def test_code_that_makes_no_image_is_no_error(sandbox: Sandbox):
    assert run(sandbox, "print('hello')") == ToolResult(text="hello")


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ("(65, 8)", "the image is 8 x 65 pixels; its longer side may have 64"),
        ("(1, 64)", None),
    ],
)
def test_outputs_are_bounded(sandbox: Sandbox, size: str, error: str | None):
    assert run(sandbox, f"import numpy as np\nshow(np.zeros({size}, np.uint8))").error == error


def test_an_output_too_narrow_to_look_at_is_an_error(sandbox: Sandbox):
    result = run(sandbox, "import numpy as np\nshow(np.zeros((1, 200), np.uint8))", max_side=200)
    assert result.error == "the image is 200 x 1 pixels; that is too narrow to be looked at"


def test_a_large_input_is_scaled_down(sandbox: Sandbox):
    assert run(sandbox, READ + "print(img.shape)", max_side=20).text == "(15, 20, 3)"


def test_text_is_cut(sandbox: Sandbox):
    result = run(sandbox, "print('x' * 9999)\nraise ValueError('y' * 9999)")
    assert result.text == "x" * 2000
    assert result.error == "y" * 2000


def test_a_task_without_an_image_runs_code_too(sandbox: Sandbox):
    assert run(sandbox, "print(6 * 7)", picture=None).text == "42"


def steps(sandbox: Sandbox, *codes: str) -> list[ToolResult]:
    """What an episode is told of these steps, each on the same picture."""

    async def play() -> list[ToolResult]:
        calls = [
            ToolCall(tool="python", arguments={"code": code}, images=(PICTURE,)) for code in codes
        ]
        async with PythonSessions(sandbox, IMAGES).session() as session:
            return [await session.run(call) for call in calls]

    return asyncio.run(play())


def test_the_steps_of_an_episode_share_their_variables(sandbox: Sandbox):
    _, second = steps(sandbox, READ + "top = img[:10]", "print(top.shape)\nshow(top)")
    assert second.text == "(10, 40, 3)"
    assert (second.images[0].width, second.images[0].height) == (40, 10)


def test_a_step_that_ends_the_session_is_told_and_costs_only_itself(sandbox: Sandbox):
    _, ended, after = steps(sandbox, "x = 7", "x = 8\nimport os; os._exit(1)", "print(x)")
    assert ended.error == (
        "the code ended Python itself (exit status 1)\n"
        "What this step made is lost; what the steps before it made is still there."
    )
    assert (after.text, after.error) == ("7", None)


def test_episodes_do_not_share(sandbox: Sandbox):
    steps(sandbox, "x = 1")
    [other] = steps(sandbox, "x")
    assert "NameError" in (other.error or "")
