"""The look tool: a page as a picture, in a session for each episode."""

from __future__ import annotations

import asyncio
import base64
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import JsonValue

from visual_arft.envs.search.actions import LOOK
from visual_arft.envs.search.egress import Blocked, Guard
from visual_arft.envs.search.look.browser import Browser
from visual_arft.envs.search.look.page import OpenPage, View
from visual_arft.envs.search.recording import Desk
from visual_arft.errors import ToolFailure
from visual_arft.images import Images
from visual_arft.tools import Tool
from visual_arft.types import ToolCall, ToolResult


class LookTool:
    """Sessions of looking, each of one episode and alone in its part of the browser."""

    def __init__(self, guard: Guard, images: Images, desk: Desk | None = None) -> None:
        """Starts no browser yet.

        Args:
            guard: where pages may take the browser.
            images: where the pictures go.
            desk: where requests are handed in, so that they are recorded and replayed.
        """
        self._guard = guard
        self._images = images
        self._desk = desk or Desk()
        self._browsers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Browser] = (
            weakref.WeakKeyDictionary()
        )

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Tool]:
        """What one episode looks with; its page is closed at the end."""
        looking = _Session(self._guard, self._images, self._desk, self._browser())
        try:
            yield looking
        finally:
            await looking.close()

    async def run(self, call: ToolCall) -> ToolResult:
        """One look in a session of its own, for who has nothing to go on with."""
        async with self.session() as looking:
            return await looking.run(call)

    def _browser(self) -> Browser:
        """The browser of the running loop, to which its connection belongs."""
        loop = asyncio.get_running_loop()
        return self._browsers.setdefault(loop, Browser(self._guard))


class _Session:
    """The steps of one episode; those that were answered by a recording are done when needed."""

    def __init__(self, guard: Guard, images: Images, desk: Desk, browser: Browser) -> None:
        self._images = images
        self._desk = desk
        self._page = OpenPage(browser, guard)
        self._steps: list[tuple[str, str]] = []
        self._done = 0

    async def run(self, call: ToolCall) -> ToolResult:
        if "refused" in call.arguments:
            return ToolResult(error=str(call.arguments["refused"]))
        step = str(call.arguments["step"])
        rest = str(call.arguments["url" if step == "open" else "with"])
        if step == "open":  # nothing of what was before matters to a page that is opened
            self._steps, self._done = [], 0
        self._steps.append((step, rest))
        request: JsonValue = {"url": self._steps[0][1], "steps": [list(s) for s in self._steps]}
        try:
            answer = await self._desk.ask(LOOK, request, self._live)
        except OSError as error:
            raise ToolFailure(f"{LOOK}: {error}") from error
        return self._result(answer)

    async def close(self) -> None:
        await self._page.close()

    async def _live(self) -> JsonValue:
        """Does what was not done yet; a page that cannot be shown is an answer of the web too."""
        view: View | None = None
        try:
            for step, rest in self._steps[self._done :]:
                self._done += 1
                view = await self._page.do(step, rest)
        except Blocked as blocked:
            return {"error": str(blocked)}
        assert view is not None
        return {**view.model_dump(exclude={"picture"}), "picture": _as_text(view.picture)}

    def _result(self, answer: JsonValue) -> ToolResult:
        if not isinstance(answer, dict):
            raise ToolFailure(f"{LOOK}: the recording holds {str(answer)[:40]!r}, which is no look")
        if "error" in answer:
            return ToolResult(error=str(answer["error"]))
        picture = base64.b64decode(str(answer["picture"]))
        view = View.model_validate({**answer, "picture": picture})
        hrefs = (each.href for each in view.elements if each.href.startswith("http"))
        return ToolResult(
            text=described(view),
            images=(self._images.add(view.picture),),
            links=tuple(dict.fromkeys([view.url, *hrefs])),
        )


def described(view: View) -> str:
    """A page's title, address and numbered elements, in words."""
    lines = [f"{_line(view.title)}", view.url]
    if view.dialogs:
        lines.append(f"({view.dialogs} message boxes were closed)")
    for number, element in enumerate(view.elements, start=1):
        lines.append(f"{number}. {element.kind} {_line(element.label)!r}")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _as_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
