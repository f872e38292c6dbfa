"""What an execution may use, and how it ended.

Plain dataclasses and no records: an outcome holds pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from visual_arft.errors import UserError

if TYPE_CHECKING:
    from visual_arft.images import Pixels

Status = Literal["ok", "error", "timeout", "memory", "crashed", "rejected"]
"""How the code ended; `rejected` means that it sent or wrote more than its bounds allow."""


@dataclass(frozen=True)
class Limits:
    """What one execution, or one step of a session, may use."""

    cpu_s: float = 5
    """Seconds of CPU time: the fair limit, since waiting for a busy machine does not count."""
    wall_s: float = 15
    """Seconds on the clock, after which the code is killed whatever it does."""
    memory_mb: int = 1024
    """Address space beyond what the preloaded libraries take; for a session, all of its life."""

    def __post_init__(self) -> None:
        for name, least in (("cpu_s", 0.1), ("wall_s", 0.1), ("memory_mb", 16)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"sandbox limit {name} is {value}; give at least {least}")


@dataclass(frozen=True)
class Outcome:
    """How one execution ended, and what it gave back."""

    status: Status
    stdout: str
    """What the code printed, to stdout or stderr; cut at 64 KiB."""
    error: str | None
    """What the model should read: the end of its traceback, or a sentence. None if all is well."""
    images: tuple[Pixels, ...]
    """RGB, read-only: what was handed to `show`, in order, then the output file."""
    cpu_s: float
    wall_s: float
    peak_mb: float
    """Largest resident memory of the process, the preloaded libraries (about 40 MB) included."""
