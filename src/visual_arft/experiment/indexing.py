"""What `arft search` does: building an index in sight, asking an engine, counting what is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from visual_arft.envs.search import index
from visual_arft.envs.search.recording import Mode, Recording
from visual_arft.envs.search.results import Result
from visual_arft.envs.search.unavailable import Refused, Unavailable
from visual_arft.errors import UserError
from visual_arft.experiment.rules import open_desk, searcher


def build(sources: Sequence[Path], folder: Path) -> index.Manifest:
    """Builds an index, with word of how far it is on standard error."""
    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    began = time.monotonic()
    first: list[int] = []
    with Progress(*columns, console=console, transient=True) as progress:
        row = progress.add_task("reading", total=None)

        def tell(passages: int) -> None:
            first[:] = first or [passages]
            rate = (passages - first[0]) / max(time.monotonic() - began, 1e-9)
            progress.update(row, description=f"{passages:,} passages, {rate:,.0f} a second")

        return index.build(sources, folder, tell)


def ask(
    engine: str, query: str, limit: int, recording: Path | None, mode: Mode
) -> Sequence[Result]:
    """One query to an engine."""
    asked = searcher(engine, open_desk(recording, mode))
    try:
        return asyncio.run(asked.search(query, limit))
    except (Refused, Unavailable) as error:
        raise UserError(f"{error}; see arft search query --help") from None


def stats_of(path: Path) -> dict[str, Any]:
    """What an index or a recording holds."""
    return _index_stats(path) if path.is_dir() or index.is_index(path) else _recording_stats(path)


def _index_stats(path: Path) -> dict[str, Any]:
    manifest = index.read_manifest(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    return {
        "passages": manifest.passages,
        "characters": manifest.characters,
        "megabytes": round(size / 2**20, 1),
        "sources": [source.path for source in manifest.sources],
    }


def _recording_stats(path: Path) -> dict[str, Any]:
    recording = Recording(path, read_only=True)
    found = recording.stats()
    recording.close()
    return {
        "answers": found.answers,
        "backends": found.backends,
        "first": _date(found.first),
        "last": _date(found.last),
    }


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
