"""The only way out of the browser: a proxy on loopback that connects where the guard allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from visual_arft.envs.search.egress.guard import Blocked, Guard

_HEAD_BYTES = 64 * 1024
_HEAD_S = 10.0
_CONNECT_S = 10.0


@asynccontextmanager
async def filtering_proxy(guard: Guard) -> AsyncGenerator[int]:
    """A proxy for as long as the block lasts; its port."""
    under_way: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            await _serve(guard, reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio would report the task as failed
        finally:
            under_way.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_HEAD_BYTES)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _serve(guard: Guard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(_HEAD_S):
            head = await reader.readuntil(b"\r\n\r\n")
        line, _, headers = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            upstream = await _connect(guard, host, int(port))
            await _send(writer, f"{version} 200 Connection established\r\n\r\n".encode("latin-1"))
        else:
            checked = guard.check(target)
            upstream = await _connect(guard, checked.host, checked.port)
            await _send(upstream[1], _forwarded(method, target, headers))
        await _both_ways(reader, writer, *upstream)
    except Blocked:
        with suppress(OSError):
            await _send(writer, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    except (
        ValueError,
        OSError,
        TimeoutError,
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
    ):
        pass  # a request that is none, or a connection that broke: it ends
    finally:
        writer.close()


async def _connect(
    guard: Guard, host: str, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    error: OSError | None = None
    for address in await guard.addresses(host, port):
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(address, port)
        except OSError as failed:
            error = failed
    raise error or ConnectionError(host)


def _forwarded(method: str, target: str, headers: bytes) -> bytes:
    """The request as a server wants it, one to a connection."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kept = [
        line
        for line in headers.split(b"\r\n")
        if line and not line.lower().startswith((b"proxy-", b"connection:"))
    ]
    start = f"{method} {path} HTTP/1.1".encode("latin-1")
    return b"\r\n".join([start, *kept, b"Connection: close", b"", b""])


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream_writer: asyncio.StreamWriter,
) -> None:
    """Carries bytes until one side is done."""
    ways = [
        asyncio.create_task(_carry(reader, upstream_writer)),
        asyncio.create_task(_carry(upstream_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if ways[0].done() and not ways[1].done():
            await asyncio.wait([ways[1]], timeout=_CONNECT_S)  # what was asked is still answered
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        upstream_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            await _send(writer, chunk)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
