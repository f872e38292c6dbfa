"""What can be set about the playing of a benchmark, and not about what is played."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from visual_arft.policies.settings import ServerConfig
from visual_arft.types import Record

Count = Annotated[int, Field(ge=1)]


class Pace(Record):
    """How much of a benchmark is played, and how fast: nothing that a task's score depends on."""

    limit: Count | None = None
    """The first tasks only."""
    repeat: Count = 1
    """Plays of each task."""
    concurrency: Count | None = None
    """Episodes side by side; None for what suits the engine."""
    server: ServerConfig | None = None
    """How the server of the engine `openai` may be asked."""
    cache: Path | None = None
    """The file that a server's answers are kept in; None for one in the run's folder."""
