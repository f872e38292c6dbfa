"""A child's end of its channel: nothing but reads and writes of one descriptor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import frames

if TYPE_CHECKING:
    from .frames import Pixels


class Channel:
    """Frames to and from the trainer."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Sends one frame."""
        self.send_whole(frames.frame(kind, payload))

    def send_image(self, pixels: Pixels) -> None:
        """Sends one frame of raw RGB."""
        for part in frames.image_frame(pixels):
            self.send_whole(part)

    def send_whole(self, data: bytes | memoryview) -> None:
        """Sends bytes that are a frame already."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def receive(self) -> tuple[bytes, bytearray]:
        """The next frame, whatever its size: the trainer is trusted. Raises `EOFError`."""
        kind, length = frames.HEADER.unpack(self._exactly(frames.HEADER.size))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            received = os.readv(self._fd, [view])
            if received == 0:
                raise EOFError("the trainer wants no more")
            view = view[received:]
        return data
