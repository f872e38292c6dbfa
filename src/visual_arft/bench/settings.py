"""What can be set about a benchmark run: data, no code."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from visual_arft.envs.search.actions import SearchAction
from visual_arft.envs.search.recording.mode import Mode as RecordingMode
from visual_arft.errors import UserError
from visual_arft.types import Record

Engine = Literal["transformers", "scripted"]
Mode = Literal["direct", "agent", "agent-append"]


class BenchConfig(Record):
    """What is played, by which model, and how; another number of tasks is the same run."""

    suite: str
    """The benchmark's name."""
    model: str
    """`tiny`, a folder, a hub id or a run of ours; for the scripted engine, its file of replies."""
    engine: Engine = "transformers"
    """What makes the replies."""
    mode: Mode = "agent"
    """`direct` answers at once; `agent` plays as the model was trained to, or else as the paper."""
    data: Path | None = None
    """The benchmark's file or folder, where it does not make its own tasks."""
    corpus: str | None = None
    """What is searched: an index, JSONL, a retrieval server's address, or a web search's name."""
    recording: Path | None = None
    """The file that the search's answers go into, or come from."""
    recording_mode: RecordingMode = "replay-or-live"
    """What is done with the recording."""
    search_budget: Annotated[int, Field(ge=0)] | None = None
    """Requests that may be made of the world behind the search; None is without end."""
    actions: tuple[SearchAction, ...] | None = None
    """What a search agent may do; None for what it was trained to, or else to search."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of sampling; 0 is greedy."""
    seed: int = 0
    """Of sampling."""


def load_bench(path: Path) -> BenchConfig:
    """The settings that a benchmark run recorded."""
    try:
        return BenchConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError):
        raise UserError(
            f"{path}: not the settings of a benchmark run; choose another --out"
        ) from None
