"""What the code hands over: pictures and printed text, sent as frames at once."""

from __future__ import annotations

import io
import socket
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from visual_arft.sandbox import frames

if TYPE_CHECKING:
    from visual_arft.images import Pixels

_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


class Gallery:
    """The pictures that an execution gives back."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._count = 0

    def show(self, image: object) -> None:
        """Gives a picture back: a PIL image, or an array in OpenCV's channel order (BGR)."""
        if self._count == frames.MAX_IMAGES:
            raise ValueError(f"more than {frames.MAX_IMAGES} images")
        frames.send_image(self._channel, _rgb(image))
        self._count += 1

    def add_output_file(self) -> None:
        """Gives the output file back, where the code wrote one."""
        if Path(frames.OUTPUT_FILE).exists():
            pixels = cv2.imread(frames.OUTPUT_FILE, cv2.IMREAD_COLOR)
            if pixels is None:
                raise ValueError(f"{frames.OUTPUT_FILE} does not hold an image")
            self.show(pixels)


def _rgb(image: object) -> Pixels:
    if isinstance(image, Image.Image):
        _check_size(image.width, image.height)
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
    if width * height == 0:
        raise ValueError(f"the image is {width} x {height} pixels")
    if width * height > frames.MAX_PIXELS:
        most = frames.MAX_PIXELS // 2**20
        raise ValueError(f"the image is {width} x {height} pixels; {most} megapixels are allowed")


@contextmanager
def printing_to(channel: socket.socket) -> Generator[None]:
    """Stdout and stderr are frames on the channel, line by line, so that they survive a timeout."""
    raw = io.BufferedWriter(_Stdout(channel))
    stream = io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=True)
    with redirect_stdout(stream), redirect_stderr(stream):
        try:
            yield
        finally:
            stream.flush()


class _Stdout(io.RawIOBase):
    """A stream that sends what is written, up to the bound, and drops the rest."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._room = frames.MAX_STDOUT

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if piece := bytes(data[: self._room]):
            frames.send(self._channel, frames.STDOUT, piece)
            self._room -= len(piece)
        return len(data)
