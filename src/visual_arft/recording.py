"""Answers of the world in one SQLite file, so that a run can be repeated without the world."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path

from pydantic import JsonValue

from visual_arft.errors import UserError
from visual_arft.types import Record

FORMAT = 1

_TABLE = """
create table if not exists answers (
    key text primary key, backend text, request text, answer text, asked_at real
) without rowid
"""
_WAIT_S = 30.0


class RecordingStats(Record):
    """What a recording holds."""

    answers: int
    backends: dict[str, int]
    """Answers by who gave them."""
    first: float | None
    last: float | None
    """When the first and the last answer was asked for, in seconds since 1970."""


class Recording:
    """A file of answers; many threads and processes may read and write it at once."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens a file, or makes it; a read-only one must be there.

        Raises:
            UserError: it is missing, is something else, or cannot be written.
        """
        self.path = path
        if read_only and not path.is_file():
            raise UserError(f"{path}: no such recording; make one in the mode record")
        self._lock = threading.Lock()
        try:
            self._database = self._open(read_only)
        except sqlite3.Error as error:
            raise UserError(f"{path}: not a recording ({error}); give another file") from None

    def get(self, backend: str, request: JsonValue) -> JsonValue:
        """What was answered; raises `KeyError` where that was never asked."""
        with self._lock:
            row = self._database.execute(
                "select answer from answers where key = ?", (_key(backend, request),)
            ).fetchone()
        if row is None:
            raise KeyError(backend)
        return json.loads(row[0])

    def put(self, backend: str, request: JsonValue, answer: JsonValue, *, again: bool) -> JsonValue:
        """Keeps an answer and returns the one that is kept.

        Where another process was quicker its answer stays, so that what the agent reads is what
        the file says; `again` replaces it.
        """
        asked, said = _text(request), _text(answer)
        row = (_key(backend, request), backend, asked, said, time.time())
        how = "replace" if again else "ignore"
        try:
            with self._lock, self._database:
                self._database.execute(f"insert or {how} into answers values (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be written ({error}); free space on that disk, or choose "
                "another file"
            ) from None
        return self.get(backend, request)

    def stats(self) -> RecordingStats:
        """What it holds."""
        with self._lock:
            counts = self._database.execute(
                "select backend, count(*) from answers group by backend order by backend"
            ).fetchall()
            times = self._database.execute("select min(asked_at), max(asked_at) from answers")
            first, last = times.fetchone()
        backends = dict(counts)
        return RecordingStats(
            answers=sum(backends.values()), backends=backends, first=first, last=last
        )

    def close(self) -> None:
        """Leaves one file that can be carried away; open it again to go on."""
        with self._lock:
            self._database.close()  # the last one to close writes the log into the file

    def _open(self, read_only: bool) -> sqlite3.Connection:
        if read_only:
            return self._open_read_only()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; choose another file") from None
        database = sqlite3.connect(self.path, timeout=_WAIT_S, check_same_thread=False)
        [mode] = database.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"its journal mode is {mode}")
        database.execute("pragma synchronous = normal")
        [found] = database.execute("pragma user_version").fetchone()
        tables = database.execute("select count(*) from sqlite_master").fetchone()[0]
        if tables and found != FORMAT:
            raise sqlite3.DatabaseError("a database of another program")
        with database:
            database.execute(_TABLE)
            database.execute(f"pragma user_version = {FORMAT}")
        return database

    def _open_read_only(self) -> sqlite3.Connection:
        address = f"{self.path.resolve().as_uri()}?mode=ro"
        # Beside a log another process may be writing; without one the file can be on a disc.
        if not self.path.with_name(f"{self.path.name}-wal").exists():
            address += "&immutable=1"
        database = sqlite3.connect(address, uri=True, timeout=_WAIT_S, check_same_thread=False)
        [found] = database.execute("pragma user_version").fetchone()
        if found != FORMAT:
            raise sqlite3.DatabaseError("a database of another program")
        return database


def _key(backend: str, request: JsonValue) -> str:
    return hashlib.sha256(_text([backend, request]).encode()).hexdigest()


def _text(value: JsonValue) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
