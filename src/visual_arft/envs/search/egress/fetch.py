"""One page over HTTP, within limits: connections, redirects, bytes, kinds and seconds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, cast
from urllib.parse import urljoin

import httpcore2
from httpcore2 import AsyncNetworkBackend, AsyncNetworkStream
from pydantic import Field

from visual_arft.envs.search.egress.guard import Blocked, Guard, Target
from visual_arft.types import Record

_HEADERS = [
    ("User-Agent", "Mozilla/5.0 (compatible; visual-arft)"),
    ("Accept", "text/html,application/xhtml+xml,application/pdf,text/plain;q=0.9,*/*;q=0.1"),
    ("Accept-Language", "en;q=0.9,*;q=0.5"),
    ("Accept-Encoding", "gzip, deflate"),
]
_REDIRECTS = (301, 302, 303, 307, 308)
_READABLE = ("text/", "application/xhtml", "application/xml", "application/json", "application/pdf")


class FetchLimits(Record):
    """What one page may cost."""

    seconds: Annotated[float, Field(gt=0)] = 20.0
    """For all of it, redirects included."""
    bytes: Annotated[int, Field(ge=1)] = 5 * 2**20
    """On the wire, and once more after decompression."""
    redirects: Annotated[int, Field(ge=0)] = 5


@dataclass(frozen=True)
class Fetched:
    """A page as it came."""

    url: str
    """The last address, after redirects."""
    status: int
    kind: str
    """Its media type, in lower case, without parameters."""
    charset: str
    """As the header says; empty where it does not."""
    body: bytes


async def fetch(url: str, guard: Guard, limits: FetchLimits = FetchLimits()) -> Fetched:  # noqa: B008
    """A page; raises `Blocked`, with a sentence for the model, where there is none to read.

    No proxy of the environment is used: it would connect where the guard cannot see.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            return await _follow(url, guard, limits)
    except TimeoutError:
        raise Blocked(f"{_short(url)} did not end within {limits.seconds:g} s") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        raise Blocked(
            f"{_short(url)} cannot be reached ({type(error).__name__}: {str(error)[:120]})"
        ) from None


async def _follow(url: str, guard: Guard, limits: FetchLimits) -> Fetched:
    for _ in range(limits.redirects + 1):
        target = guard.check(url)
        if target.scheme not in ("http", "https"):
            raise Blocked(f"{_short(url)} is not opened: only http and https are")
        # A pool for each page: nothing is kept, neither a connection nor a cookie.
        async with (
            httpcore2.AsyncConnectionPool(network_backend=_Checked(guard)) as pool,
            pool.stream("GET", target.url, headers=[("Host", _host(target)), *_HEADERS]) as got,
        ):
            headers = _headers(got)
            if got.status not in _REDIRECTS or not headers.get("location"):
                return await _read(target, got, headers, limits)
        url = _next(target, headers["location"].strip())
    raise Blocked(f"{_short(url)} is the end of more than {limits.redirects} redirects")


def _next(target: Target, location: str) -> str:
    try:
        return urljoin(target.url, location)
    except ValueError:
        raise Blocked(f"{_short(target.url)} redirects to {location[:80]!r}") from None


async def _read(
    target: Target, response: Any, headers: dict[str, str], limits: FetchLimits
) -> Fetched:
    kind, _, parameters = headers.get("content-type", "text/html").lower().partition(";")
    kind = kind.strip() or "text/html"
    if not kind.startswith(_READABLE):
        raise Blocked(f"{_short(target.url)} is {kind[:60]}, which cannot be read")
    inflate = _inflater(target, headers.get("content-encoding", "identity").strip().lower())
    body = bytearray()
    received = 0
    async for chunk in response.aiter_stream():
        received += len(chunk)
        try:
            body += inflate(chunk, limits.bytes + 1 - len(body))
        except zlib.error as error:
            raise Blocked(f"{_short(target.url)} is broken ({error})") from None
        if max(received, len(body)) > limits.bytes:
            raise Blocked(
                f"{_short(target.url)} has more than {limits.bytes / 2**20:g} MB, too much to read"
            )
    _, _, charset = parameters.partition("charset=")
    charset = charset.partition(";")[0].strip(" \"'")
    return Fetched(target.url, response.status, kind, charset, bytes(body))


def _inflater(target: Target, encoding: str) -> Callable[[bytes, int], bytes]:
    """What makes plain bytes of a chunk, never more than it is told."""
    if encoding in ("", "identity"):
        return _as_it_is
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Blocked(f"{_short(target.url)} is packed as {encoding[:40]!r}, which cannot be read")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its head says

    def inflate(chunk: bytes, most: int) -> bytes:
        return unpack.decompress(chunk, max(most, 1))

    return inflate


def _as_it_is(chunk: bytes, most: int) -> bytes:
    return chunk


class _Checked(AsyncNetworkBackend):
    """Connects to addresses that the guard has seen."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._plain = cast(AsyncNetworkBackend, httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncNetworkStream:
        """A connection to the first of the name's addresses that answers."""
        *others, last = await self._guard.addresses(host, port)
        for address in others:
            try:
                return await self._plain.connect_tcp(address, port, 5.0, None, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._plain.connect_tcp(last, port, timeout, None, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> AsyncNetworkStream:
        """Never."""
        raise Blocked("a socket of this machine is not opened")

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


def _headers(response: Any) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
    }


def _host(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port in (80, 443) else f"{host}:{target.port}"


def _short(url: str) -> str:
    return url if len(url) <= 120 else f"{url[:117]}..."
