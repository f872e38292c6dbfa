"""One page in the browser: opening it, acting on it, and seeing it with its elements numbered."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image as Pil
from PIL import ImageDraw
from pydantic import Field

from visual_arft.envs.search.egress import Blocked, Guard
from visual_arft.envs.search.look.browser import HEIGHT, Browser
from visual_arft.types import Record

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Dialog, Page, Request, Route

_SECONDS = 15.0
"""For one step, the picture included."""
_OPENS_MS = 8000
_SETTLES_MS = 1000
_BEGINS_MS = 150
"""Before what a click set off shows."""
_MOST_ELEMENTS = 60
_WEB = ("http", "https")

# Boxes of what can be clicked or typed into and is in sight, and what it says of itself.
_ELEMENTS = """(most) => {
  const found = [];
  const kinds = 'a[href],button,input:not([type=hidden]),select,textarea,summary,' +
    '[role=button],[role=link],[role=tab],[contenteditable=true],[onclick]';
  for (const element of document.querySelectorAll(kinds)) {
    const box = element.getBoundingClientRect();
    const x = box.x + box.width / 2, y = box.y + box.height / 2;
    if (box.width < 4 || box.height < 4 || x < 0 || y < 0) continue;
    if (x > innerWidth || y > innerHeight) continue;
    const top = document.elementFromPoint(x, y);
    if (!top || !(element.contains(top) || top.contains(element))) continue;
    const label = element.innerText || element.value || element.placeholder ||
      element.getAttribute('aria-label') || element.title || element.alt || '';
    found.push({kind: String(element.tagName).toLowerCase(), label: String(label).slice(0, 80),
      href: typeof element.href === 'string' ? element.href : '',
      x: x, y: y, left: box.x, top: box.y});
    if (found.length >= most) break;
  }
  return found;
}"""


class Element(Record):
    """Something on a page that can be clicked or typed into."""

    kind: str
    label: str
    href: str
    x: float
    y: float
    left: float
    top: float


class View(Record):
    """What a page looks like."""

    url: str
    title: str
    elements: tuple[Element, ...]
    picture: bytes = Field(repr=False)
    """JPEG, the numbers of the elements drawn on it."""
    dialogs: int
    """Boxes that it opened and that were closed unread."""


class OpenPage:
    """One context of the browser with one page; whatever goes wrong in it ends in a sentence."""

    def __init__(self, browser: Browser, guard: Guard) -> None:
        """Opens nothing yet."""
        self._browser = browser
        self._guard = guard
        self._context: BrowserContext | None = None
        self._page: Page | None = None
        self._elements: Sequence[Element] = ()
        self._dialogs = 0
        self._blocked = ""
        self._popup = ""

    async def do(self, step: str, rest: str) -> View:
        """Carries out one step and looks; raises `Blocked`, after which the page may be closed."""
        from playwright.async_api import Error

        self._blocked = self._popup = ""
        try:
            async with asyncio.timeout(_SECONDS):
                await self._step(step, rest)
                return await self._view()
        except TimeoutError:
            await self.close()
            raise Blocked(
                f"the page hangs: it did nothing for {_SECONDS:g} s, and is closed"
            ) from None
        except Error as error:
            # A look at a page that is no more is tried once again by the model, not by us.
            await self.close()
            raise Blocked(self._blocked or _told(str(error))) from None

    async def close(self) -> None:
        """Ends the context and all it holds."""
        context, self._context, self._page = self._context, None, None
        if context is not None:
            await self._browser.close(context)

    async def _step(self, step: str, rest: str) -> None:
        if step == "open":
            await self._open(rest)
            return
        page = self._page
        if page is None:
            raise Blocked(f"no page is open to {step}; look at an address first")
        if step == "scroll":
            await page.mouse.wheel(0, HEIGHT * (-0.8 if rest.lower().startswith("up") else 0.8))
        elif step == "back":
            await page.go_back(timeout=_OPENS_MS, wait_until="domcontentloaded")
        else:
            await self._touch(page, step, rest)
        await page.wait_for_timeout(_BEGINS_MS)
        await self._settled(page)
        if self._popup:
            await self._open(self._popup)

    async def _touch(self, page: Page, step: str, rest: str) -> None:
        number, _, words = rest.partition(" ")
        if not number.isdecimal() or not 1 <= int(number) <= len(self._elements):
            raise Blocked(f"there is no element {number!r}: the page shows {len(self._elements)}")
        element = self._elements[int(number) - 1]
        await page.mouse.click(element.x, element.y)
        if step == "type":
            await page.keyboard.insert_text(words)
            if element.kind != "textarea":
                await page.keyboard.press("Enter")

    async def _open(self, url: str) -> None:
        target = self._guard.check(url)
        if target.scheme not in _WEB:
            raise Blocked(f"{url[:80]!r} is not opened: only http and https are")
        await self._guard.addresses(target.host, target.port)  # for a sentence that says why not
        page = await self._fresh()
        await page.goto(target.url, timeout=_OPENS_MS, wait_until="domcontentloaded")
        await self._settled(page)

    async def _fresh(self) -> Page:
        """The page, in a context of its own that is made with the first."""
        if self._page is not None:
            return self._page
        context = self._context = await self._browser.context()
        await context.route("**/*", self._routed)
        page = self._page = await context.new_page()
        page.on("dialog", self._dismiss)
        context.on("page", self._closed_popup)
        return page

    async def _routed(self, route: Route, request: Request) -> None:
        """Lets through what the guard has nothing against; what hosts are is the proxy's check."""
        scheme = urlsplit(request.url).scheme
        if scheme in ("data", "blob"):
            await route.continue_()
            return
        try:
            self._guard.check(request.url)
        except Blocked as blocked:
            if request.is_navigation_request():
                self._blocked = str(blocked)
            await route.abort("blockedbyclient")
        else:
            await route.continue_()

    async def _dismiss(self, dialog: Dialog) -> None:
        self._dialogs += 1
        await dialog.dismiss()

    async def _closed_popup(self, popup: Page) -> None:
        """A window of its own becomes this page's next address."""
        if self._page is not None and popup is not self._page:
            if urlsplit(popup.url).scheme in _WEB:
                self._popup = popup.url
            await popup.close()

    async def _settled(self, page: Page) -> None:
        from playwright.async_api import TimeoutError as Late

        with suppress(Late):  # some pages never rest
            await page.wait_for_load_state("networkidle", timeout=_SETTLES_MS)

    async def _view(self) -> View:
        page = self._page
        assert page is not None
        if urlsplit(page.url).scheme not in _WEB:
            where = self._blocked or f"the page went to {page.url[:80]!r}, which is not shown"
            await self.close()
            raise Blocked(where)
        self._elements = await _elements(page)
        picture = await page.screenshot(type="jpeg", quality=80, animations="disabled")
        return View(
            url=page.url,
            title=await page.title(),
            elements=tuple(self._elements),
            picture=numbered_picture(picture, self._elements),
            dialogs=self._dialogs,
        )


async def _elements(page: Page) -> list[Element]:
    """What can be clicked on a page; a page that goes on to another just then is asked again."""
    from playwright.async_api import Error

    for _ in range(3):
        with suppress(Error):
            await page.wait_for_load_state("domcontentloaded", timeout=_OPENS_MS)
            found: list[dict[str, Any]] = await page.evaluate(_ELEMENTS, _MOST_ELEMENTS)
            return [Element.model_validate(each) for each in found]
    return []


def numbered_picture(picture: bytes, elements: Sequence[Element]) -> bytes:
    """A screenshot with the number of each element at its corner; JPEG."""
    with Pil.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    draw = ImageDraw.Draw(image)
    for number, element in enumerate(elements, start=1):
        at = (max(0.0, min(element.left, image.width - 18)), max(0.0, element.top))
        draw.rectangle(draw.textbbox(at, str(number)), fill="yellow", outline="black")
        draw.text(at, str(number), fill="black")
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def _told(error: str) -> str:
    """The browser's error as a sentence for the model."""
    first = error.partition("\n")[0].removeprefix("Page.goto: ")
    if "Download is starting" in first:
        return "the address is a download, which is not taken"
    if "ERR_TOO_MANY_REDIRECTS" in first:
        return "the address redirects without end"
    if "Timeout" in first:
        return "the page did not open in time"
    return f"the page cannot be shown ({first[:160]})"
