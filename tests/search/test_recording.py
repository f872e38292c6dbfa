from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from visual_arft.envs.search.recording import Desk, Limits, RecordedSearcher, Recording
from visual_arft.envs.search.recording.desk import Counts
from visual_arft.envs.search.results import Result
from visual_arft.envs.search.unavailable import Refused, Unavailable
from visual_arft.errors import UserError

AT_ONCE = Limits(first_wait_s=0)


class Web:
    """An engine that says how often it was asked."""

    name = "web"

    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self.failures = failures

    async def search(self, query: str, limit: int) -> list[Result]:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.calls <= self.failures:
            raise Unavailable("busy")
        return [Result(snippet=f"{query} {self.calls}", url="http://x/", score=0.1)][:limit]


def ask(desk: Desk, web: Web, *queries: str, limit: int = 4) -> list[list[str]]:
    async def all_of_them() -> list[list[Result]]:
        engine = RecordedSearcher("web", desk, lambda: web)
        return await asyncio.gather(*(engine.search(query, limit) for query in queries))

    return [[result.snippet for result in found] for found in asyncio.run(all_of_them())]


@pytest.mark.parametrize("mode", ["live", "record", "replay-or-live"])
def test_64_equal_questions_at_once_make_one_call(tmp_path: Path, mode: str):
    web = Web()
    desk = Desk(Recording(tmp_path / "r.sqlite"), mode)  # type: ignore[arg-type]
    assert ask(desk, web, *["tower"] * 64) == [["tower 1"]] * 64
    assert web.calls == 1
    assert desk.counts == Counts(asked=64, hits=63, misses=1, requests=1)


def test_equal_questions_from_many_threads_make_one_call(tmp_path: Path):
    web, desk = Web(), Desk(Recording(tmp_path / "r.sqlite"), "record")
    threads = [threading.Thread(target=ask, args=(desk, web, "a", "b")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert web.calls == 2
    assert desk.counts.asked == 16


def test_what_was_recorded_is_replayed_without_the_engine(tmp_path: Path):
    path = tmp_path / "r.sqlite"
    recording = Recording(path)
    told = ask(Desk(recording, "record"), Web(), "a", " b\n c ")
    recording.close()
    assert [file.name for file in tmp_path.iterdir()] == ["r.sqlite"]  # one file to carry away

    def no_engine() -> Web:
        raise AssertionError("a replay opens no engine")

    desk = Desk(Recording(path, read_only=True), "replay")
    engine = RecordedSearcher("web", desk, no_engine)
    again = [asyncio.run(engine.search(query, 4)) for query in ("a", "b c")]
    assert [[result.snippet for result in found] for found in again] == told
    with pytest.raises(OSError, match=r"r.sqlite has no answer of 'web' to 'tower'; record it"):
        asyncio.run(engine.search("tower", 4))
    with pytest.raises(OSError, match="no answer"):
        asyncio.run(engine.search("a", 3))  # another limit is another question
    assert desk.counts == Counts(asked=4, hits=2, misses=2, failures=2)


def test_recording_asks_anew_once_and_replay_or_live_only_what_is_new(tmp_path: Path):
    web, recording = Web(), Recording(tmp_path / "r.sqlite")
    ask(Desk(recording, "record"), web, "a")
    desk = Desk(recording, "record")
    assert ask(desk, web, "a") == ask(desk, web, "a") == [["a 2"]]
    assert ask(Desk(recording, "replay-or-live"), web, "a", "b") == [["a 2"], ["b 3"]]
    assert ask(Desk(recording, "live"), web, "a") == [["a 4"]]
    assert ask(Desk(recording, "replay"), web, "a") == [["a 2"]]


def test_the_answer_that_came_first_stays_where_two_processes_record_the_same(tmp_path: Path):
    one, other = (Recording(tmp_path / "r.sqlite") for _ in range(2))
    assert one.put("web", "q", "first", again=False) == "first"
    assert other.put("web", "q", "second", again=False) == "first"
    assert other.put("web", "q", "third", again=True) == one.get("web", "q") == "third"


def test_a_failure_is_tried_again_and_not_recorded(tmp_path: Path):
    recording = Recording(tmp_path / "r.sqlite")
    web = Web(failures=2)
    assert ask(Desk(recording, "record", AT_ONCE), web, "a") == [["a 3"]]
    desk = Desk(recording, "record", AT_ONCE)
    with pytest.raises(Unavailable):
        ask(desk, Web(failures=99), "b")
    assert desk.counts == Counts(asked=1, misses=1, requests=4, failures=1)
    with pytest.raises(KeyError):
        recording.get("web", {"query": "b", "limit": 4})


def test_all_who_wait_for_one_request_learn_that_it_failed():
    web = Web(failures=99)

    async def both() -> list[object]:
        engine = RecordedSearcher("web", Desk(limits=Limits(tries=1)), lambda: web)
        asked = (engine.search("a", 1) for _ in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(each) for each in asyncio.run(both())] == [Unavailable] * 3
    assert web.calls == 1


def test_what_was_refused_is_not_tried_again():
    class Closed(Web):
        async def search(self, query: str, limit: int) -> list[Result]:
            self.calls += 1
            raise Refused("no")

    web = Closed()
    with pytest.raises(Refused):
        ask(Desk(), web, "a")
    assert web.calls == 1


def test_a_budget_counts_every_try_and_then_refuses():
    web, desk = Web(failures=1), Desk(limits=Limits(budget=3, first_wait_s=0))
    assert ask(desk, web, "a") == [["a 2"]]
    ask(desk, web, "b")
    with pytest.raises(Refused, match="the budget of 3 requests is spent; raise it"):
        ask(desk, web, "c")
    assert web.calls == 3


def test_a_rate_spaces_requests_out():
    desk = Desk(limits=Limits(per_second=50))
    start = time.monotonic()
    ask(desk, Web(), *"abcdef")
    assert time.monotonic() - start >= 0.1  # the first at once, five at 20 ms from each other


def test_waiting_heeds_what_the_other_side_asks_but_not_for_ever():
    class Busy(Web):
        async def search(self, query: str, limit: int) -> list[Result]:
            self.calls += 1
            if self.calls == 1:
                raise Unavailable("busy", retry_after_s=3600)
            return []

    start = time.monotonic()
    ask(Desk(limits=Limits(longest_wait_s=0.05)), Busy(), "a")
    assert 0.05 <= time.monotonic() - start < 30


def test_the_counts_of_a_step_are_those_since_the_last():
    desk, web = Desk(), Web()
    ask(desk, web, "a")
    assert desk.take_counts() == Counts(asked=1, misses=1, requests=1)
    ask(desk, web, "b", "b")
    assert desk.take_counts() == Counts(asked=2, hits=1, misses=1, requests=1)
    assert desk.counts.asked == 3


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_recording_is_left_alone(tmp_path: Path, read_only: bool):
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"letter.txt: not a recording"):
        Recording(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_replay_needs_a_file():
    with pytest.raises(UserError, match="no such recording; make one"):
        Recording(Path("none.sqlite"), read_only=True)
    with pytest.raises(UserError, match="mode 'replay' needs a recording"):
        Desk(mode="replay")
