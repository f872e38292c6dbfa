"""Extraction in a process of its own, ended when a page takes it too long."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import weakref
from typing import Any, BinaryIO, cast

from visual_arft.envs.search.egress import Blocked
from visual_arft.envs.search.egress.fetch import Fetched
from visual_arft.envs.search.read.extract import Page, read_frame, write_frame
from visual_arft.errors import ToolFailure, UserError

_STARTS_S = 30.0


class Extractor:
    """One process that extracts pages, one after the other; it starts with the first."""

    def __init__(self, seconds: float = 10.0) -> None:
        """Sets how long one page may take."""
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    async def extract(self, page: Fetched) -> Page:
        """The text of a page; raises `Blocked` where it takes too long or breaks the parser."""
        return await asyncio.to_thread(self._extract, page)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _extract(self, page: Fetched) -> Page:
        with self._lock:
            is_new = self._process is None
            answer = self._ask(page, self._seconds + _STARTS_S * is_new)
        if answer is None:
            raise Blocked(f"{page.url} cannot be read: extracting its text took too long")
        if "error" in answer:
            raise UserError(answer["error"])
        if "broken" in answer:
            raise Blocked(f"{page.url} cannot be read ({answer['broken']})")
        return Page.model_validate(answer["page"])

    def _ask(self, page: Fetched, seconds: float) -> Any:
        """What the process answers; None where it died or was ended."""
        if self._process is None:
            self._process = _start()
            weakref.finalize(self, _end, self._process)
        process = self._process
        how = {"kind": page.kind, "charset": page.charset, "url": page.url}
        pipe = cast(BinaryIO, process.stdin)
        alarm = threading.Timer(seconds, process.kill)
        alarm.start()
        try:
            write_frame(pipe, json.dumps(how).encode())
            write_frame(pipe, page.body)
            answer = read_frame(cast(BinaryIO, process.stdout))
        except OSError:
            answer = None
        finally:
            alarm.cancel()
        if answer is None:
            self._end()
            return None
        return json.loads(answer)

    def _end(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _start() -> subprocess.Popen[bytes]:
    module = "visual_arft.envs.search.read.extract"
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise ToolFailure(f"the extractor does not start: {error}") from error
