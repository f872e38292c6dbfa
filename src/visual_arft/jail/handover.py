"""What the code hands over: pictures and printed text, sent as frames at once."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from . import frames

if TYPE_CHECKING:
    from .channel import Channel
    from .files import Files
    from .frames import Pixels

_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


class Gallery:
    """The pictures that the steps of a session give back."""

    def __init__(self, channel: Channel, files: Files) -> None:
        self._channel = channel
        self._files = files
        self._count = 0
        self._seen: object = None

    def begin_step(self) -> None:
        """Counts the pictures of a step from none; what was written before is not its work."""
        self._count = 0
        self._seen = self._files.version(frames.OUTPUT_FILE)

    def show(self, image: object) -> None:
        """Gives a picture back: a PIL image, or an array in OpenCV's channel order (BGR)."""
        if self._count == frames.MAX_IMAGES:
            raise ValueError(f"more than {frames.MAX_IMAGES} images")
        self._channel.send_image(_rgb(image))
        self._count += 1

    def add_output_file(self) -> None:
        """Gives the output file back, where the step wrote one."""
        if self._files.version(frames.OUTPUT_FILE) not in (None, self._seen):
            pixels = cv2.imread(frames.OUTPUT_FILE, cv2.IMREAD_COLOR)
            if pixels is None:
                raise ValueError(f"{frames.OUTPUT_FILE} does not hold an image")
            self.show(pixels)


@contextmanager
def printing_to(channel: Channel) -> Generator[None]:
    """Stdout and stderr are frames on the channel, line by line, so that they survive a timeout."""
    raw = io.BufferedWriter(_Stdout(channel))
    stream = io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=True)
    with redirect_stdout(stream), redirect_stderr(stream):
        try:
            yield
        finally:
            with suppress(ValueError):  # the code closed it
                stream.flush()


class _Stdout(io.RawIOBase):
    """A stream that sends what is written, up to the bound, and drops the rest."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._room = frames.MAX_STDOUT

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if piece := bytes(data[: self._room]):
            self._channel.send(frames.STDOUT, piece)
            self._room -= len(piece)
        return len(data)


def _rgb(image: object) -> Pixels:
    if isinstance(image, Image.Image):
        _check_size(image.width, image.height)
        if image.mode.startswith("I;16"):  # which Pillow cuts off at 255 rather than scales
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TypeError(
            f"an image is uint8, height x width x channels; this is {array.dtype}, {array.shape}"
        )
    _check_size(array.shape[1], array.shape[0])
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels not in _TO_RGB:
        raise TypeError(f"an image has 1, 3 or 4 channels; this one has {channels}")
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(array), _TO_RGB[channels]), np.uint8)


def _check_size(width: int, height: int) -> None:
    if fault := frames.size_fault(width, height):
        raise ValueError(fault)
