"""The wire between the trainer and a child: typed, length-prefixed frames, with hard bounds.

The trainer reads what a hostile process may have written. So nothing is unpickled or decoded: a
frame is a kind, a length and that many bytes, and a picture is its height, its width and raw RGB.

    child -> trainer    STARTED, or FAILED: it is confined, or could not be
    then, for each step
    trainer -> child    REQUEST (JSON: code, names), FILE (its bytes) for each name
    child -> trainer    STDOUT and IMAGE, any number   ERROR or MEMORY, at most one   DONE

What the zygote says of its children goes another way; see `messages`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

OUTPUT_FILE = "path_to_output_image.jpg"
"""The file that code writes to give an image back."""

STARTED, FAILED = b"S", b"F"
REQUEST, FILE = b"R", b"P"
STDOUT, IMAGE, ERROR, MEMORY, DONE = b"O", b"I", b"E", b"M", b"D"

MAX_STDOUT = 64 * 1024
MAX_ERROR = 16 * 1024
MAX_IMAGES = 8
MAX_SIDE = 8192
MAX_PIXELS = 4096 * 4096

HEADER = struct.Struct("!cI")
"""Of every frame: its kind and the length of its payload."""

_SIZE = struct.Struct("!II")
_LARGEST = {
    STARTED: 0,
    FAILED: MAX_ERROR,
    STDOUT: MAX_STDOUT,
    IMAGE: _SIZE.size + 3 * MAX_PIXELS,
    ERROR: MAX_ERROR,
    MEMORY: MAX_ERROR,
    DONE: 0,
}


class BadFrame(Exception):
    """The child sent what its side of the protocol never sends."""


def frame(kind: bytes, payload: bytes | bytearray = b"") -> bytes:
    """One frame as bytes."""
    return HEADER.pack(kind, len(payload)) + payload


def image_frame(pixels: Pixels) -> tuple[bytes, memoryview]:
    """One frame of raw RGB in two parts, so that the pixels need not be copied."""
    height, width, _ = pixels.shape
    start = HEADER.pack(IMAGE, _SIZE.size + pixels.size) + _SIZE.pack(height, width)
    return start, np.ascontiguousarray(pixels).data.cast("B")


def bounded(header: Any) -> tuple[bytes, int]:
    """Kind and length of a frame from a child; raises `BadFrame` for one that is too large."""
    kind, length = HEADER.unpack(header)
    if length > _LARGEST.get(kind, -1):
        raise BadFrame(f"a frame of kind {kind!r} and {length} bytes")
    return kind, length


def pixels_of(payload: bytearray) -> Pixels:
    """The picture in an IMAGE frame, read-only; raises `BadFrame` when its size is a lie."""
    if len(payload) < _SIZE.size:
        raise BadFrame("an image frame without a size")
    height, width = _SIZE.unpack_from(payload)
    if fault := size_fault(width, height):
        raise BadFrame(fault)
    if height * width * 3 != len(payload) - _SIZE.size:
        raise BadFrame(f"an image of {width} x {height} pixels in {len(payload)} bytes")
    pixels = np.frombuffer(payload, np.uint8, offset=_SIZE.size).reshape(height, width, 3)
    pixels.flags.writeable = False
    return pixels


def size_fault(width: int, height: int) -> str | None:
    """What is wrong with the size of a picture; None if nothing is."""
    found = f"the image is {width} x {height} pixels"
    if min(width, height) < 1:
        return f"{found}, a size with nothing to see"
    if max(width, height) > MAX_SIDE:
        return f"{found}; a side of this size is too long, {MAX_SIDE} are allowed"
    if width * height > MAX_PIXELS:
        return f"{found}; a size of {MAX_PIXELS // 2**20} megapixels is allowed"
    return None
