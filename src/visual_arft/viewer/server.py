"""A run's pages over HTTP, for the person at this machine and for nobody else."""

from __future__ import annotations

import re
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from visual_arft.errors import UserError
from visual_arft.store import Store, open_run
from visual_arft.viewer.pages import index_page, trajectory_page

HOST = "127.0.0.1"


def serve(run: Path, port: int = 8765) -> None:
    """Shows a run until the process is interrupted; pages are made anew for each request."""
    with server(run, port) as running:
        click.echo(f"http://{HOST}:{running.server_port}/ shows {run}; Ctrl-C ends it", err=True)
        running.serve_forever()


def server(run: Path, port: int) -> ThreadingHTTPServer:
    """A server of a run's pages that listens but does not answer yet; port 0 takes a free one."""
    store = open_run(run)
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist; give one from 1024 to 65535")
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, store))
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}); give another") from None


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, store: Store, *args: Any) -> None:
        self._store = store
        super().__init__(*args)  # which answers the request

    def do_GET(self) -> None:
        """Answers with a page."""
        page = _page(self._store, self.path)
        # A site elsewhere whose name is made to point here is refused by the name it was asked by.
        if self.headers.get("Host", "").split(":")[0] not in (HOST, "localhost"):
            self.send_error(403)
        elif page is None:
            self.send_error(404)
        else:
            self._send(page.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _page(store: Store, path: str) -> str | None:
    if path in ("/", "/index.html"):
        return index_page(store)
    match = re.fullmatch(r"/episodes/(\d{6,12})\.html", path)
    return trajectory_page(store, int(match[1])) if match else None
