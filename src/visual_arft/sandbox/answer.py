"""What a child sends during a step, read within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visual_arft.jail import frames

if TYPE_CHECKING:
    from visual_arft.images import Pixels


@dataclass
class Answer:
    """All that came over the channel, as far as the bounds allow."""

    is_done: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    images: list[Pixels] = field(default_factory=list)
    kind: bytes | None = None
    """ERROR or MEMORY, when the code raised."""
    error: str | None = None

    def add(self, kind: bytes, payload: bytearray) -> None:
        """Takes a frame; raises `BadFrame` for one that our own harness never sends."""
        if kind == frames.STDOUT and payload and self._has_room(payload):
            self.stdout += payload
        elif kind == frames.IMAGE and len(self.images) < frames.MAX_IMAGES:
            self.images.append(frames.pixels_of(payload))
        elif kind in (frames.ERROR, frames.MEMORY) and self.error is None:
            self.kind, self.error = kind, payload.decode("utf-8", "replace")
        elif kind == frames.DONE:
            self.is_done = True
        else:
            raise frames.BadFrame(f"one frame of kind {kind!r} too many")

    def _has_room(self, payload: bytearray) -> bool:
        return len(self.stdout) + len(payload) <= frames.MAX_STDOUT
