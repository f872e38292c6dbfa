"""Servers on loopback for the tests: one that must never be reached, one of nasty pages."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Forbidden:
    """Listens on loopback, IPv4 and IPv6, and counts who comes."""

    def __init__(self) -> None:
        self.hits: list[bytes] = []
        self._sockets = [self._listen(socket.AF_INET, "127.0.0.1", 0)]
        self.port: int = self._sockets[0].getsockname()[1]
        self._sockets.append(self._listen(socket.AF_INET6, "::1", self.port))

    def close(self) -> None:
        for each in self._sockets:
            each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _listen(self, family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        listening = socket.socket(family)
        listening.bind((host, port))
        listening.listen(64)
        threading.Thread(target=self._count, args=(listening,), daemon=True).start()
        return listening

    def _count(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(0.5)
                try:
                    self.hits.append(connection.recv(200))
                except OSError:
                    self.hits.append(b"")


@contextmanager
def forbidden() -> Iterator[Forbidden]:
    server = Forbidden()
    try:
        yield server
    finally:
        server.close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


@contextmanager
def site(pages: dict[str, Answer | bytes]) -> Iterator[str]:
    """A site with these paths; its address without the last slash."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = pages.get(self.path.partition("?")[0])
            if answer is None:
                self.send_error(404)
            elif isinstance(answer, bytes):
                send(self, answer)
            else:
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _Quiet(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def send(to: BaseHTTPRequestHandler, body: bytes, kind: str = "text/html", **headers: str) -> None:
    to.send_response(200)
    to.send_header("Content-Type", kind)
    to.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        to.send_header(name.replace("_", "-"), value)
    to.end_headers()
    to.wfile.write(body)


def redirect(to: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def host_of(address: str) -> str:
    return address.removeprefix("http://")
