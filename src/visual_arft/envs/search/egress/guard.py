"""The guard: which addresses may be opened, and which servers connected to."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx2

from visual_arft.envs.search.egress.addresses import is_public
from visual_arft.envs.search.egress.denied import denying

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host; raises `OSError` where it has none."""


class Blocked(Exception):
    """An address that is not opened; the message is a sentence that the model may read."""


@dataclass(frozen=True)
class Target:
    """An address that may be opened, in its parts."""

    url: str
    scheme: str
    host: str
    port: int


class Guard:
    """What every connection on a model's behalf is held to.

    Only http and https on their own ports; only names of which every address is public; no name
    of the deny list. A connection is made to an address that was checked, so a name that answers
    differently the next time gains nothing.
    """

    def __init__(
        self,
        *,
        allowed: Sequence[str] = (),
        denied: Sequence[str] = (),
        resolver: Resolver | None = None,
    ) -> None:
        """Sets what is let through.

        Args:
            allowed: servers of the operator's own, `HOST:PORT`, let through wherever they are.
            denied: see `denied.DATASET_HOSTS`.
            resolver: what looks names up; the system when not given.
        """
        self._allowed = frozenset(re.sub(r"[\[\]]", "", each.lower()) for each in allowed)
        self._denied = tuple(denied)
        self._resolve = resolver or _system

    def check(self, url: str) -> Target:
        """The parts of an address; raises `Blocked` for one that is not to be opened."""
        if len(url) > 4096 or any(ord(c) < 33 or ord(c) == 127 or c == "\\" for c in url):
            raise Blocked(f"{url[:80]!r} is not an address that can be opened")
        try:
            parsed = httpx2.URL(url)
            host = parsed.raw_host.decode("ascii").lower().rstrip(".").strip("[]")
            port = parsed.port
        except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
            raise Blocked(f"{url[:80]!r} is not an address ({error})") from None
        if parsed.scheme not in _PORTS:
            raise Blocked(f"{url[:80]!r} is not opened: only http and https are")
        if not host or parsed.userinfo:
            raise Blocked(f"{url[:80]!r} is not opened: it needs a host, and no user name")
        port = port or _PORTS[parsed.scheme]
        if port != _PORTS[parsed.scheme] and f"{host}:{port}" not in self._allowed:
            raise Blocked(f"{url[:80]!r} is not opened: its port is {port}")
        if entry := denying(url, self._denied):
            raise Blocked(f"{url[:80]!r} is not opened: {entry} may not be read here")
        return Target(str(parsed), parsed.scheme, host, port)

    def hides(self, url: str) -> bool:
        """Whether the deny list keeps an address out of results."""
        return denying(url, self._denied) is not None

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to for a name; raises `Blocked` unless all may be.

        An operator's own server is taken as it is found.
        """
        host = host.lower().rstrip(".").strip("[]")
        is_own = f"{host}:{port}" in self._allowed
        if port not in _PORTS.values() and not is_own:
            raise Blocked(f"{host}:{port} is not opened: only ports 80 and 443 are")
        if denying(f"https://{host}/", self._denied):
            raise Blocked(f"{host} is not opened: it may not be read here")
        try:
            found = list(await self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise Blocked(f"{host} has no address ({error})") from None
        if not found:
            raise Blocked(f"{host} has no address")
        if not is_own and not all(_is_public(each) for each in found):
            raise Blocked(f"{host} is not opened: it is not a public server")
        return found


async def _system(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_public(address: str) -> bool:
    try:
        return is_public(address)
    except ValueError:
        return False
