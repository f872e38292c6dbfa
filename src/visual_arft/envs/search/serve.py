"""A searcher over HTTP, by the protocol of Search-R1's retrieval server.

`POST /retrieve` with `{"queries": [...], "topk": 3, "return_scores": true}` brings
`{"result": [[{"document": {"id", "contents", "url"}, "score"}, ...], ...]}`, a list for each query.
There is no authentication: it is for this machine, or for a network that is trusted.
"""

from __future__ import annotations

import json
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from pydantic import Field, ValidationError

from visual_arft.envs.search.index import IndexSearcher
from visual_arft.errors import UserError
from visual_arft.types import Record

LARGEST_REQUEST = 8 * 2**20
"""Bytes."""
_SLOWEST_S = 60.0


class _Retrieve(Record):
    queries: Annotated[list[str], Field(max_length=4096)]
    topk: Annotated[int, Field(ge=1, le=1000)] = 3
    return_scores: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def server(index: IndexSearcher, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens but does not answer yet; port 0 takes a free one."""
    try:
        return _Server((host, port), partial(_Handler, index))
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port} cannot be used ({error}); give another --port") from None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SLOWEST_S
    # Small answers on a kept connection would wait for an acknowledgement that waits for more.
    disable_nagle_algorithm = True

    def __init__(self, index: IndexSearcher, *args: Any) -> None:
        self._index = index
        super().__init__(*args)  # which answers the request

    def do_POST(self) -> None:
        """Answers a request to retrieve."""
        body = self._body()
        if body is None:
            return
        if self.path != "/retrieve":
            self._send(404, {"error": f"{self.path} is not served; POST to /retrieve"})
            return
        try:
            asked = _Retrieve.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "(the body)"
            self._send(400, {"error": f"{where}: {first['msg']}"})
            return
        self._send(200, {"result": [self._find(query, asked) for query in asked.queries]})

    def do_GET(self) -> None:
        """Says what is served."""
        self._send(200, {"index": self._index.name, "passages": self._index.manifest.passages})

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""

    def _find(self, query: str, asked: _Retrieve) -> list[Any]:
        found = [
            ({"id": passage.id, "contents": passage.contents, "url": passage.url}, score)
            for score, passage in self._index.passages(query, asked.topk)
        ]
        if not asked.return_scores:
            return [document for document, _ in found]
        return [{"document": document, "score": score} for document, score in found]

    def _body(self) -> bytes | None:
        """What was sent; None where that was refused, and the connection ends."""
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            length = -1
        if 0 <= length <= LARGEST_REQUEST:
            return self.rfile.read(length)
        self.close_connection = True
        self._send(413 if length > 0 else 411, {"error": f"send 0 to {LARGEST_REQUEST} bytes"})
        return None

    def _send(self, status: int, answer: object) -> None:
        body = json.dumps(answer, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
