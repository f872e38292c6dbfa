"""Signs: rows of characters drawn in several fonts, the same for the same random generator.

The fonts are those that OpenCV and Pillow carry, since a fresh machine has none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from visual_arft.images import Pixels

SIDE = 84
"""A sign fills a square of this many pixels."""

_SCALE = 2
"""Signs are drawn larger and scaled down, which smooths their edges."""

_HERSHEY = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
FONTS = len(_HERSHEY) + 1


def draw_sign(rows: Sequence[str], rng: random.Random) -> Pixels:
    """A square sign (84 x 84 pixels, RGB) of a few characters in each row, dark on light."""
    side = SIDE * _SCALE
    ink = np.zeros((side, side), np.float32)
    font = rng.randrange(FONTS)
    height = rng.uniform(0.30, 0.36) * side
    pitch = side * rng.uniform(0.42, 0.46)
    top = side / 2 - pitch * (len(rows) - 1) / 2 + rng.uniform(-0.03, 0.03) * side
    for number, row in enumerate(rows):
        width = side * (0.28 if len(row) > 2 else 0.36) * rng.uniform(0.95, 1.05)
        left = side / 2 - width * (len(row) - 1) / 2 + rng.uniform(-0.03, 0.03) * side
        for place, character in enumerate(row):
            centre = (left + place * width, top + number * pitch)
            _stamp(ink, _glyph(character, font, 2 * round(height / 2)), centre)
    light = np.array([rng.randint(190, 235) for _ in range(3)], np.float32)
    dark = np.array([rng.randint(15, 60) for _ in range(3)], np.float32)
    small = cv2.resize(ink, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.rint(light + (dark - light) * small[:, :, None]).astype(np.uint8)


def draw_scene(
    sign: Pixels, rng: random.Random, scale: int
) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A sign somewhere in a scene `scale` times as wide, and its box (x_min, y_min, x_max, y_max).

    The box is in thousandths of the scene's width and height, as MAT writes them. The rest of the
    scene holds plain shapes. Seen whole at a sign's own size the text cannot be read.
    """
    side = SIDE * scale
    ground = np.array([rng.randint(90, 170) for _ in range(3)], np.uint8)
    scene = np.full((side, side, 3), ground, np.uint8)
    for _ in range(6):
        corner = (rng.randrange(side), rng.randrange(side))
        colour = [rng.randint(60, 200) for _ in range(3)]
        size = (rng.randint(SIDE // 4, SIDE), rng.randint(SIDE // 4, SIDE))
        cv2.rectangle(scene, corner, (corner[0] + size[0], corner[1] + size[1]), colour, -1)
    x, y = rng.randint(0, side - SIDE), rng.randint(0, side - SIDE)
    scene[y : y + SIDE, x : x + SIDE] = sign
    box = tuple(round(1000 * v / side) for v in (x, y, x + SIDE, y + SIDE))
    return scene, (box[0], box[1], box[2], box[3])


@lru_cache(maxsize=4096)
def _glyph(character: str, font: int, height: int) -> NDArray[np.float32]:
    """The ink (0 to 1) of one character, `height` pixels high, cut to its edges."""
    canvas = np.zeros((160, 160), np.uint8)
    if font < len(_HERSHEY):
        cv2.putText(canvas, character, (30, 120), _HERSHEY[font], 3.4, 255, 7, cv2.LINE_AA)
    else:
        picture = Pil.fromarray(canvas)
        ImageDraw.Draw(picture).text((30, 10), character, 255, ImageFont.load_default(size=110))
        canvas = np.asarray(picture)
    ys, xs = np.nonzero(canvas > 40)
    cut = canvas[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    width = max(2, round(cut.shape[1] * height / cut.shape[0]))
    small = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255)


def _stamp(
    ink: NDArray[np.float32], glyph: NDArray[np.float32], centre: tuple[float, float]
) -> None:
    height, width = glyph.shape
    y = min(max(round(centre[1] - height / 2), 0), ink.shape[0] - height)
    x = min(max(round(centre[0] - width / 2), 0), ink.shape[1] - width)
    part = ink[y : y + height, x : x + width]
    np.maximum(part, glyph, out=part)
