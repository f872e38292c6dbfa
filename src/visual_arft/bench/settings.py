"""What can be set about a benchmark run: data, no code."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from visual_arft.envs.coding.shortcuts import Shortcut
from visual_arft.envs.search.actions import SearchAction
from visual_arft.envs.search.recording.mode import Mode as RecordingMode
from visual_arft.errors import UserError
from visual_arft.types import Record

Engine = Literal["transformers", "openai", "scripted"]
Mode = Literal["direct", "cot", "rag", "agent", "agent-append"]

TOOLLESS: tuple[Mode, ...] = ("direct", "cot")
"""Modes in which nothing but the model is asked."""

Count = Annotated[int, Field(ge=1)]


class BenchConfig(Record):
    """What is played, by which model, and how: all that a score depends on.

    How many tasks are played, how often, and how fast is said elsewhere: that is the same run.
    """

    suite: str
    """The benchmark's name."""
    model: str
    """`tiny`, a folder, a hub id, a run of ours, or what its server calls it; for the scripted
    engine, its file of replies."""
    engine: Engine = "transformers"
    """What makes the replies."""
    base_url: str | None = None
    """Address of the server that the engine `openai` asks."""
    served_as: str | None = None
    """What that server calls the model, where it is not called `model`."""
    mode: Mode = "agent"
    """`direct` answers at once, `cot` thinks aloud first, `rag` searches the question once and
    answers, `agent` plays as the model was trained to or else as the paper, and `agent-append` lets
    the conversation grow."""
    data: Path | None = None
    """The benchmark's file or folder, where it does not make its own tasks."""
    prompt_file: Path | None = None
    """Text of the instructions, with `{question}` in it; without one, our own are used."""
    shortcuts: tuple[Shortcut, ...] = ()
    """What is done for the policy, as the authors' evaluation does."""
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
    max_turns: Count | None = None
    """Turns of an episode; None for what the model was trained with, or else the paper's 5."""
    max_new_tokens: Count | None = None
    """Tokens of a reply; None for what the model was trained with, or else 1024."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of sampling; 0 is greedy."""
    seed: int = 0
    """Of sampling; a task's k-th repetition is played with the seed after k others."""


def load_bench(path: Path) -> BenchConfig:
    """The settings that a benchmark run recorded."""
    try:
        return BenchConfig.model_validate(_read(path))
    except (tomllib.TOMLDecodeError, ValidationError):
        raise UserError(
            f"{path}: not the settings of a benchmark run; choose another --out"
        ) from None


def suite_of(run: Path) -> str | None:
    """The benchmark that a run's folder says it is of; None where it says nothing of one."""
    try:
        name = _read(run / "config.toml").get("suite")
    except (OSError, tomllib.TOMLDecodeError):
        return None
    return name if isinstance(name, str) else None


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
