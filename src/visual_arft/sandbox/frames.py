"""The wire between the trainer and a child: typed, length-prefixed frames, with hard bounds.

The trainer reads what a hostile process may have written. So nothing is unpickled or decoded: a
frame is a kind, a length and that many bytes, and a picture is its height, its width and raw RGB.

    trainer -> child    REQUEST (JSON: code, names)   IMAGE for each name
    child -> trainer    STARTED   STDOUT and IMAGE, any number   ERROR or MEMORY, at most one   DONE
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from visual_arft.images import Pixels

OUTPUT_FILE = "path_to_output_image.jpg"
"""The file that code writes to give an image back."""

REQUEST, STARTED, STDOUT, IMAGE, ERROR, MEMORY, DONE = b"R", b"S", b"O", b"I", b"E", b"M", b"D"

MAX_STDOUT = 64 * 1024
MAX_ERROR = 16 * 1024
MAX_IMAGES = 8
MAX_PIXELS = 4096 * 4096

_HEADER = struct.Struct("!cI")
_SIZE = struct.Struct("!II")
_REPORT = struct.Struct("!i?ddd")
_LARGEST = {
    STARTED: 0,
    STDOUT: MAX_STDOUT,
    IMAGE: _SIZE.size + 3 * MAX_PIXELS,
    ERROR: MAX_ERROR,
    MEMORY: MAX_ERROR,
    DONE: 0,
}


class BadFrame(Exception):
    """The child sent what its side of the protocol never sends."""


class Report(NamedTuple):
    """How a child ended, as the zygote saw it; the child has no say in it."""

    wait_status: int
    overran: bool
    """Killed at the wall limit."""
    cpu_s: float
    wall_s: float
    peak_mb: float

    def pack(self) -> bytes:
        """The report as bytes."""
        return _REPORT.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Report:
        """The report that `pack` wrote; raises `struct.error` when bytes are missing."""
        return cls(*_REPORT.unpack(data))


def send(channel: socket.socket, kind: bytes, payload: bytes = b"") -> None:
    """Sends one frame."""
    channel.sendall(_HEADER.pack(kind, len(payload)) + payload)


def send_image(channel: socket.socket, pixels: Pixels) -> None:
    """Sends one frame of raw RGB."""
    height, width, _ = pixels.shape
    channel.sendall(_HEADER.pack(IMAGE, _SIZE.size + pixels.size) + _SIZE.pack(height, width))
    channel.sendall(np.ascontiguousarray(pixels).data.cast("B"))


def receive(channel: socket.socket) -> tuple[bytes, bytearray]:
    """The next frame, whatever its size: for the child, which may trust the trainer."""
    kind, length = _HEADER.unpack(_exactly(channel, _HEADER.size))
    return kind, _exactly(channel, length)


def receive_bounded(channel: socket.socket) -> tuple[bytes, bytearray]:
    """The next frame from a child; raises `BadFrame` before reading one that is too large."""
    kind, length = _HEADER.unpack(_exactly(channel, _HEADER.size))
    if kind not in _LARGEST or length > _LARGEST[kind]:
        raise BadFrame(f"a frame of kind {kind!r} and {length} bytes")
    return kind, _exactly(channel, length)


def pixels_of(payload: bytearray) -> Pixels:
    """The picture in an IMAGE frame, read-only; raises `BadFrame` when its size is a lie."""
    if len(payload) < _SIZE.size:
        raise BadFrame("an image frame without a size")
    height, width = _SIZE.unpack_from(payload)
    if height * width == 0 or height * width * 3 != len(payload) - _SIZE.size:
        raise BadFrame(f"an image of {width} x {height} pixels in {len(payload)} bytes")
    pixels = np.frombuffer(payload, np.uint8, offset=_SIZE.size).reshape(height, width, 3)
    pixels.flags.writeable = False
    return pixels


def _exactly(channel: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        received = channel.recv_into(view)
        if received == 0:
            raise EOFError("the other side is gone")
        view = view[received:]
    return data
