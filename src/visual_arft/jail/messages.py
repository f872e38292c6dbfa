"""What the trainer and a zygote say to each other.

trainer -> zygote    FORK
zygote -> trainer    HELLO (version of Landlock), when it is up
BORN (number), with the trainer's end of a new child's channel and a pidfd
ENDED (a Report)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FORK, HELLO, BORN, ENDED = b"F", b"H", b"B", b"E"
"""The first byte of a message."""

NUMBER = struct.Struct("!I")

_REPORT = struct.Struct("!Ii?dd")


class Report(NamedTuple):
    """How a child ended, as its zygote saw it; the child has no say in it."""

    number: int
    """Which child."""
    wait_status: int
    is_over_quota: bool
    """Killed because its scratch folder held too much."""
    cpu_s: float
    peak_mb: float

    def pack(self) -> bytes:
        """The report as bytes."""
        return _REPORT.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Report:
        """The report that `pack` wrote."""
        return cls(*_REPORT.unpack(data))
