from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from visual_arft.envs.coding.degradations import degrade
from visual_arft.envs.coding.grammar import MENDABLE, PROBLEMS
from visual_arft.envs.coding.repairs import REPAIRS, program
from visual_arft.envs.coding.tool import INPUT_FILE
from visual_arft.errors import UserError
from visual_arft.images import Pixels
from visual_arft.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def sign() -> Pixels:
    """A sign with text in colours, of uneven sides."""
    picture = Image.new("RGB", (240, 160), (230, 220, 190))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((10, 10, 230, 150), outline=(30, 60, 160), width=4)
    font = ImageFont.load_default(40)
    draw.text((30, 25), "ROOM 42", fill=(20, 20, 20), font=font)
    draw.text((30, 85), "7 to 9 pm", fill=(170, 30, 30), font=font)
    return np.asarray(picture)


def distance(left: Pixels, right: Pixels) -> float:
    """Root mean square of the differences; infinite where the sizes differ."""
    if left.shape != right.shape:
        return float("inf")
    return float(np.sqrt(np.mean((left.astype(float) - right) ** 2)))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_seed_degrades_alike_and_spares_the_original(sign: Pixels, problem: str):
    before = sign.copy()
    first, second = (degrade(sign, problem, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(sign, before)


@pytest.mark.parametrize("problem", MENDABLE)
@pytest.mark.parametrize("seed", range(3))
def test_a_repair_brings_the_picture_much_closer_to_the_original(
    sandbox: Sandbox, sign: Pixels, problem: str, seed: int
):
    bad = degrade(sign, problem, np.random.default_rng(seed))
    [mended] = sandbox.run(program(problem), {INPUT_FILE: bad}).images
    assert distance(mended, sign) < 0.8 * distance(bad, sign)


@pytest.mark.parametrize("problem", ["rotation90", "rotation180"])
def test_one_turn_mends_a_rotation_exactly(sign: Pixels, problem: str):
    scope = {"cv2": cv2, "img": degrade(sign, problem, np.random.default_rng(0))}
    exec(REPAIRS[problem], scope)
    np.testing.assert_array_equal(scope["img"], sign)


@pytest.mark.parametrize("problem", ["crop", "none"])
def test_what_is_no_fault_of_the_image_leaves_it_alone(sign: Pixels, problem: str):
    np.testing.assert_array_equal(degrade(sign, problem, np.random.default_rng(0)), sign)


def test_two_problems_are_mended_by_one_program(sandbox: Sandbox, sign: Pixels):
    rng = np.random.default_rng(0)
    bad = degrade(degrade(sign, "dark", rng), "rotation90", rng)
    [mended] = sandbox.run(program("rotation90", "dark"), {INPUT_FILE: bad}).images
    assert distance(mended, sign) < 40  # a dark sign, turned back, is at 150


def test_a_crop_takes_its_box_in_thousandths(sandbox: Sandbox, sign: Pixels):
    code = program("crop", box=(100, 500, 600, 1000))
    [cropped] = sandbox.run(code, {INPUT_FILE: sign}).images
    assert distance(cropped, sign[80:160, 24:144]) < 10  # JPEG


def test_a_crop_without_a_box_is_refused():
    with pytest.raises(ValueError, match="needs a box"):
        program("crop")


def test_an_unknown_problem_is_refused(sign: Pixels):
    with pytest.raises(UserError, match="'gloom'; choose from rotation90"):
        degrade(sign, "gloom", np.random.default_rng(0))
