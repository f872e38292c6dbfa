from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager

import pytest

from visual_arft.errors import UserError
from visual_arft.viewer.server import server


@contextmanager
def running(run):
    with server(run, 0) as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield started
        finally:
            started.shutdown()
            thread.join()


def status(started, path, **headers):
    connection = http.client.HTTPConnection(*started.server_address, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_run_is_served_page_by_page_and_nothing_else_is(store, solved):
    store.append([solved], {"phase": "trained"})
    with running(store.folder) as started:
        assert started.server_address[0] == "127.0.0.1"
        assert "Episodes" in status(started, "/")[1]
        assert "turn 1" in status(started, "/episodes/000000.html")[1]
        for path in ("/episodes/000001.html", "/trajectories.jsonl", "/../../etc/passwd"):
            assert status(started, path)[0] == 404


def test_another_host_name_is_refused(store, solved):
    store.append([solved], {"phase": "trained"})
    with running(store.folder) as started:
        assert status(started, "/", Host="evil.example")[0] == 403
        assert status(started, "/", Host="localhost:9000")[0] == 200


def test_a_wrong_port_and_a_taken_port_are_named(store, solved):
    store.append([solved], {"phase": "trained"})
    with pytest.raises(UserError, match="port 70000 does not exist"):
        server(store.folder, 70000)
    with server(store.folder, 0) as first, pytest.raises(UserError, match="cannot be used"):
        server(store.folder, first.server_port)


def test_a_folder_without_records_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no trajectories\.jsonl"):
        server(tmp_path, 0)
