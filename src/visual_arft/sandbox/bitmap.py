"""Pictures as files that code can read."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from visual_arft.images import Pixels

_HEADER = struct.Struct("<2sIIIIiiHHIIiiII")


def bitmap(pixels: Pixels) -> bytearray:
    """A picture as a BMP file, which is lossless and costs no compression.

    OpenCV and Pillow go by a file's bytes and not by its name, so it may be called `.jpg`.
    """
    height, width, _ = pixels.shape
    stride = (3 * width + 3) // 4 * 4
    size = stride * height
    data = bytearray(_HEADER.size + size)
    _HEADER.pack_into(
        data,
        0,
        *(b"BM", len(data), 0, _HEADER.size),
        *(40, width, height, 1, 24, 0, size, 0, 0, 0, 0),
    )
    rows = np.ndarray((height, width, 3), np.uint8, data, _HEADER.size, (stride, 3, 1))
    for channel in range(3):  # stored from the bottom up, as BGR
        rows[..., channel] = pixels[::-1, :, 2 - channel]
    return data
