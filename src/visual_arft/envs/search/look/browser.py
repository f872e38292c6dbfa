"""The system's Chromium, started for as long as somebody looks, with one way out: the proxy."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from visual_arft.envs.search.egress import Guard
from visual_arft.envs.search.egress.proxy import filtering_proxy
from visual_arft.errors import ToolFailure, UserError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1024, 768

_ARGUMENTS = (
    "--proxy-bypass-list=<-loopback>",  # else loopback goes past the proxy
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # names are the proxy's business
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-features=DnsOverHttps,AsyncDns,WebRtcHideLocalIpsWithMdns,DialMediaRouteProvider",
    "--dns-prefetch-disable",
    "--no-first-run",
    "--no-pings",
)
_CLOSES_S = 5.0


def find_chromium() -> str | None:
    """The system's browser; `ARFT_CHROMIUM` names another."""
    named = os.environ.get("ARFT_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser for all episodes of an event loop, a context of its own for each."""

    def __init__(self, guard: Guard) -> None:
        """Starts nothing yet."""
        self._guard = guard
        self._users = 0
        self._lock = asyncio.Lock()
        self._parts = AsyncExitStack()
        self._chromium: Chromium | None = None

    async def context(self) -> BrowserContext:
        """A new context: no cookie, no cache, no permission that another has; `close` it."""
        async with self._lock:
            if self._chromium is None or not self._chromium.is_connected():
                await self._parts.aclose()
                self._chromium = await self._start()
            self._users += 1
            return await self._chromium.new_context(
                viewport={"width": WIDTH, "height": HEIGHT},
                accept_downloads=False,
                service_workers="block",
                permissions=[],
                locale="en-US",
            )

    async def close(self, context: BrowserContext) -> None:
        """Ends a context, and the browser with the last one or where it does not let go of it."""
        async with self._lock:
            self._users -= 1
            try:
                async with asyncio.timeout(_CLOSES_S):
                    await context.close()
            except Exception:  # a browser that hangs or has died: another starts when needed
                self._users = 0
            if self._users <= 0:
                self._chromium = None
                await self._parts.aclose()

    async def _start(self) -> Chromium:
        try:
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise UserError("looking needs playwright; pip install 'visual-arft[browse]'") from None
        path = find_chromium()
        if path is None:
            raise UserError(
                "looking needs Chromium; install the package chromium-headless-shell or chromium, "
                "or name one in ARFT_CHROMIUM"
            )
        try:
            port = await self._parts.enter_async_context(filtering_proxy(self._guard))
            playwright = await self._parts.enter_async_context(async_playwright())
            chromium = await playwright.chromium.launch(
                executable_path=path,
                proxy={"server": f"http://127.0.0.1:{port}", "bypass": "<-loopback>"},
                args=list(_ARGUMENTS),
                chromium_sandbox=os.geteuid() != 0,  # as root it cannot have one
                # What a page reads of the environment is nothing: no key, no proxy.
                env={"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "TMPDIR": "/tmp"},
            )
        except (Error, OSError) as error:
            await self._parts.aclose()
            raise ToolFailure(f"{path} does not start: {str(error)[:300]}") from error
        self._parts.push_async_callback(chromium.close)
        return chromium
