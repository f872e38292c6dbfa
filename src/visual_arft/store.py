"""A run on disk: trajectories, metrics and scores as JSON lines, and pictures by their hash.

Every file is appended to, by one process at a time. A process that is killed, or a disk that fills
up, costs at most the line being written: reading ignores it and the next append cuts it. Only a run
that goes on from a checkpoint takes something back: what it recorded after that checkpoint.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from visual_arft.errors import UserError
from visual_arft.images import FolderImages
from visual_arft.types import Record, Trajectory

Meta = Mapping[str, JsonValue]
"""What else is known of a trajectory, such as its phase, step, group and reward."""


class Entry(Record):
    """A recorded trajectory with what else is known of it."""

    trajectory: Trajectory
    meta: dict[str, JsonValue]

    @property
    def phase(self) -> str:
        """The part of the run it was played in; empty where the run has no parts."""
        return str(self.meta.get("phase", ""))

    @property
    def repeat(self) -> int:
        """How often its task had been played before in its phase."""
        repeat = self.meta.get("repeat", 0)
        return repeat if isinstance(repeat, int) else 0


class Store:
    """The records of one run in its folder; the folder is made with the first record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = FolderImages(folder / "images")
        self._trajectories = _Lines(folder / "trajectories.jsonl")
        self._metrics = _Lines(folder / "metrics.jsonl")
        self._scores = _Lines(folder / "scores.jsonl")

    def append(self, trajectories: Iterable[Trajectory], meta: Meta | None = None) -> None:
        """Records trajectories that share their `meta`: all of them, or none on a `UserError`."""
        entries = (Entry(trajectory=each, meta=dict(meta or {})) for each in trajectories)
        self._trajectories.append(entry.model_dump_json() for entry in entries)

    def __iter__(self) -> Iterator[Entry]:
        """All entries in the order of recording, read one by one."""
        for number, line in enumerate(self._trajectories, start=1):
            yield self._parse(line, number)

    def entry(self, number: int) -> Entry | None:
        """The entry at a place in the order of recording, from 0; None past the end."""
        line = next(islice(self._trajectories, number, None), None)
        return None if line is None else self._parse(line, number + 1)

    def append_metrics(self, row: Meta) -> None:
        """Records one row of numbers, such as those of a training step."""
        self._metrics.append([json.dumps(dict(row))])

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of numbers in the order of recording."""
        return self._metrics.rows()

    def append_scores(self, row: Meta) -> None:
        """Records one report on what was played."""
        self._scores.append([json.dumps(dict(row))])

    def scores(self) -> list[dict[str, Any]]:
        """All reports in the order of recording."""
        return self._scores.rows()

    def rewind(self, phase: str, step: int) -> None:
        """Takes back the rows and episodes of a phase after a step: they are made again."""
        self._metrics.keep(lambda row: not _is_after(row, phase, step))
        self._trajectories.keep(lambda row: not _is_after(row["meta"], phase, step))

    def _parse(self, line: bytes, number: int) -> Entry:
        try:
            return Entry.model_validate_json(line)
        except ValidationError as error:
            raise _broken(self._trajectories.path, number, error.errors()[0]["msg"]) from None


def open_run(folder: Path) -> Store:
    """The store of a recorded run; raises `UserError` when the folder holds none."""
    if (folder / "trajectories.jsonl").is_file():
        return Store(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a run")
    inside = sorted(str(path.parent) for path in folder.glob("*/trajectories.jsonl"))
    remedy = f"give one of {', '.join(inside)}" if inside else "give the folder of a run"
    raise UserError(f"{folder}: holds no trajectories.jsonl; {remedy}")


class _Lines:
    """A file of JSON lines in which every line but a torn last one is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, lines: Iterable[str]) -> None:
        """Adds all lines or, on a `UserError`, none."""
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(data)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __iter__(self) -> Iterator[bytes]:
        """The whole lines."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))

    def rows(self) -> list[dict[str, Any]]:
        """The whole lines, parsed."""
        return [self._parse(line, number) for number, line in enumerate(self, start=1)]

    def keep(self, stays: Callable[[dict[str, Any]], bool]) -> None:
        """Drops all other rows; a process that is killed meanwhile leaves the file as it was."""
        if not self.path.exists():
            return
        partial = self.path.with_suffix(".part")
        try:
            with partial.open("wb") as file:
                rows = enumerate(self, start=1)
                file.writelines(line for n, line in rows if stays(self._parse(line, n)))
            partial.replace(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _write(self, data: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:  # a buffer would be flushed after the cut
            whole = _end_of_last_line(self.path, file.tell())
            file.truncate(whole)
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(whole)
                raise

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            return json.loads(line)
        except ValueError as error:
            raise _broken(self.path, number, str(error)) from None


def _is_after(row: Meta, phase: str, step: int) -> bool:
    at = row.get("step")
    return row.get("phase") == phase and isinstance(at, int) and at > step


def _end_of_last_line(path: Path, size: int, block: int = 1 << 16) -> int:
    """The length of the file without a torn last line."""
    with path.open("rb") as file:
        end = size
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _broken(path: Path, number: int, reason: str) -> UserError:
    return UserError(
        f"{path}, line {number}: not a record of this version ({reason}); remove the line"
    )


def _unwritable(path: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "earlier records are intact; free space on that disk and run again"
    else:
        remedy = "give a folder that can be written"
    return UserError(f"{path}: cannot be written ({error.strerror}); {remedy}")
