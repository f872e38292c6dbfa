"""What can be wrong with an image, as functions that make it so."""

from __future__ import annotations

import cv2
import numpy as np

from visual_arft.envs.coding.grammar import PROBLEMS
from visual_arft.errors import UserError
from visual_arft.images import Pixels

_SIGMA = (1.5, 2.5)  # pixels
_LIGHT = (0.15, 0.3)  # what is left of the contrast
_HIT = (0.2, 0.35)  # share of the pixels


def degrade(pixels: Pixels, problem: str, rng: np.random.Generator) -> Pixels:
    """The image with a problem; `crop` and `none` leave it as it is.

    The same image, problem and state of `rng` give the same pixels. Two problems are two calls.
    """
    match problem:
        case "rotation90":
            made = cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
        case "rotation180":
            made = cv2.rotate(pixels, cv2.ROTATE_180)
        case "dark":
            made = cv2.convertScaleAbs(pixels, alpha=rng.uniform(*_LIGHT))
        case "overexposure":
            made = 255 - cv2.convertScaleAbs(255 - pixels, alpha=rng.uniform(*_LIGHT))
        case "blur":
            made = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(*_SIGMA))
        case "noise":
            made = _speckled(pixels, rng)
        case "crop" | "none":
            made = pixels
        case _:
            raise UserError(f"no problem is named {problem!r}; choose from {', '.join(PROBLEMS)}")
    return np.asarray(made, np.uint8)


def _speckled(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The image with some of its pixels black and as many white."""
    dice, share = rng.random(pixels.shape[:2]), rng.uniform(*_HIT)
    made = pixels.copy()
    made[dice < share / 2] = 0
    made[dice > 1 - share / 2] = 255
    return made
