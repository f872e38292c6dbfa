"""A server that speaks OpenAI's chat protocol and says what it is told to: for tests and dry runs.

>>> with FakeServer(lambda asked: asked.text.upper()) as server:
...     server.base_url.startswith("http://127.0.0.1:")
True
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request."""

    number: int
    """How many came before it."""
    text: str
    """Of all its messages."""
    images: tuple[bytes, ...]
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """What a server does instead of answering."""

    status: int = 200
    body: bytes = b"<html>Bad gateway</html>"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    hang_s: float = 0.0
    """Seconds before anything is sent."""
    drip_s: float = 0.0
    """Seconds after each byte of the body."""
    dies: bool = False
    """Close the connection and send nothing."""


Answer = str | dict[str, Any] | Fault
"""A reply; or the whole `message`, `finish_reason` or `usage` of one; or a fault."""


class FakeServer:
    """Serves on the loopback interface while it is entered."""

    def __init__(self, answer: Callable[[Asked], Answer], port: int = 0) -> None:
        """Takes what answers each request; it is called from many threads, one at a time.

        Args:
            answer: the reply to a request, or what happens instead.
            port: where to serve, such as where another has served before; 0 for a free one.
        """
        self._answer = answer
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.asked: list[Asked] = []
        """Every request so far."""
        self.now = 0
        """Requests being served."""
        self.most = 0
        """The most that were served at once."""
        self._server = _Server(("127.0.0.1", port), self._handler())

    @property
    def port(self) -> int:
        """Where it serves."""
        return self._server.server_port

    @property
    def base_url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, body: dict[str, Any], headers: Mapping[str, str]) -> Answer:
        with self._lock:
            asked = Asked(len(self.asked), *_contents(body), body, headers)
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
            answer = self._answer(asked)
        if isinstance(answer, Fault):
            self._ended.wait(answer.hang_s)
        with self._lock:
            self.now -= 1
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        serve, ended = self._serve, self._ended

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Answers, or fails as it is told to."""
                size = int(self.headers["content-length"])
                body = self.rfile.read(size)
                if len(body) < size:
                    return  # who asked has gone before the end of the question
                answer = serve(json.loads(body), dict(self.headers.items()))
                if not isinstance(answer, Fault):
                    said = _completion(answer)
                    self._head(200, said, {"content-type": "application/json"})
                    self.wfile.write(said)
                elif answer.dies:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self._fail(answer)

            def _fail(self, fault: Fault) -> None:
                self._head(fault.status, fault.body, fault.headers)
                size = 1 if fault.drip_s else len(fault.body) or 1
                for start in range(0, len(fault.body), size):
                    self.wfile.write(fault.body[start : start + size])
                    ended.wait(fault.drip_s)

            def _head(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of all but a client that has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _contents(body: dict[str, Any]) -> tuple[str, tuple[bytes, ...]]:
    """The texts and the pictures of a request's messages."""
    texts: list[str] = []
    images: list[bytes] = []
    for message in body["messages"]:
        content = message["content"]
        parts: list[Any] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else content
        )
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                _, _, data = part["image_url"]["url"].partition(",")
                images.append(base64.b64decode(data))
    return "\n".join(texts), tuple(images)


def _completion(answer: str | dict[str, Any]) -> bytes:
    told = {"message": {"content": answer}} if isinstance(answer, str) else answer
    choice = {
        "index": 0,
        "message": {"role": "assistant", **told.get("message", {})},
        "finish_reason": told.get("finish_reason", "stop"),
    }
    usage = told.get("usage", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
    whole = {"object": "chat.completion", "model": "fake", "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()
