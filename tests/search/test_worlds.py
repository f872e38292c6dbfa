"""The mission's own task: who follows mini-MAT-Search's gold queries gets there in every world."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from search.sites import host_of, site
from visual_arft.envs.search.egress import Guard
from visual_arft.envs.search.engines import open_engine
from visual_arft.envs.search.env import SearchEnv
from visual_arft.envs.search.index import IndexSearcher, build
from visual_arft.envs.search.read.tool import ReadTool
from visual_arft.envs.search.recording import Desk, RecordedSearcher, Recording
from visual_arft.envs.search.results import Result, Searcher
from visual_arft.envs.search.serve import server
from visual_arft.envs.search.tool import SearchTool
from visual_arft.episode import Episode
from visual_arft.images import MemoryImages
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.rollout import play
from visual_arft.synth.search import TEMPLATE, MiniMatSearch
from visual_arft.synth.world import World
from visual_arft.tags import wrap
from visual_arft.tools import Tools
from visual_arft.types import Prompt, StopReason, Trajectory

MINI = MiniMatSearch("test", 0, MemoryImages())
COUNT = 40


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> IndexSearcher:
    folder = tmp_path_factory.mktemp("world")
    lines = (passage.model_dump_json() for passage in MINI.world.passages())
    (folder / "corpus.jsonl").write_text("".join(f"{line}\n" for line in lines))
    build([folder / "corpus.jsonl"], folder / "index")
    return IndexSearcher(folder / "index")


@pytest.fixture(scope="module")
def served(index: IndexSearcher) -> Iterator[str]:
    with server(index, "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def one(number: int, tools: Tools, *, reads: bool = False) -> Trajectory:
    """The episode of who asks for the gold facts, and believes only what came back."""
    problem = MINI.problem(number)
    names, relations = [problem.place], list(problem.relations)
    opening = [False]

    def reply(prompt: Prompt) -> str:
        last = prompt.messages[-1].text
        if reads and len(prompt.messages) > 1 and not opening[0]:
            opening[0] = True
            return wrap("I read the first.", "read", "1")
        opening[0] = False
        if len(prompt.messages) > 1:
            fact = f"{names[-1]} {relations.pop(0)}: "
            assert fact in last, (fact, last)
            names.append(last.split(fact)[1].partition(".")[0])
        if not relations:
            return wrap("It says so.", "answer", names[-1])
        return wrap("I ask.", "search", f"{names[-1]} {relations[0]}")

    env = SearchEnv("append", TEMPLATE, actions=("search", "read"))
    episode = Episode(problem.task, env, max_turns=6)
    [played] = asyncio.run(play([episode], ScriptedPolicy(reply), tools))
    return played


def all_of_them(tools: Tools, *, reads: bool = False) -> list[Trajectory]:
    played = [one(number, tools, reads=reads) for number in range(COUNT)]
    wrong = [
        (each.answer, each.task.answers)
        for each in played
        if each.stop_reason is not StopReason.ANSWERED or each.answer != each.task.answers[0]
    ]
    assert wrong == []
    return played


def test_through_the_index(index: IndexSearcher):
    all_of_them({"search": SearchTool(index)})


def test_through_a_retrieval_server(served: str):
    all_of_them({"search": SearchTool(open_engine(served))})


def test_through_a_recording_with_the_network_taken_away(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recording = Recording(tmp_path / "r.sqlite")
    engine = RecordedSearcher("x", Desk(recording, "record"), lambda: open_engine(served))
    played = all_of_them({"search": SearchTool(engine)})
    recording.close()

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a replay opens no connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    desk = Desk(Recording(tmp_path / "r.sqlite", read_only=True), "replay")
    engine = RecordedSearcher("x", desk, lambda: open_engine(served))
    again = all_of_them({"search": SearchTool(engine)})
    assert [each.model_dump_json() for each in again] == [each.model_dump_json() for each in played]


class Addressed:
    """An engine whose results stand on a site, and say nothing themselves."""

    name = "addressed"

    def __init__(self, searcher: Searcher, address: str) -> None:
        self._searcher = searcher
        self._address = address

    async def search(self, query: str, limit: int) -> list[Result]:
        found = await self._searcher.search(query, limit)
        return [Result(snippet="…", url=f"{self._address}/{each.url}") for each in found]


def test_through_reading_the_site_of_the_world(index: IndexSearcher):
    pytest.importorskip("trafilatura", reason="needs the browse extra")
    with site(pages_of(MINI.world)) as address:
        tools: Tools = {
            "search": SearchTool(Addressed(index, address), addresses=True),
            "read": ReadTool(Guard(allowed=[host_of(address)])),
        }
        played = all_of_them(tools, reads=True)
    for each in played:  # all that was opened is in the record
        opened = [turn.result for turn in each.turns if turn.result]
        assert all(result.links for result in opened)


def pages_of(world: World) -> Mapping[str, bytes]:
    return {
        f"/{passage.id}": f"<html><body><p>{passage.contents}</p></body></html>".encode()
        for passage in world.passages()
    }


def test_the_server_answers_a_batch_and_tells_what_is_wrong_with_a_request(served: str):
    import httpx2

    facts = list(MINI.world.facts)[:5]
    asked = {"queries": [f"{n} {r}" for n, r in facts], "topk": 2, "return_scores": True}
    with httpx2.Client(base_url=served, trust_env=False) as client:
        found = client.post("/retrieve", json=asked).json()["result"]
        assert [each[0]["document"]["id"] for each in found] == [f"{n}-{r}" for n, r in facts]
        assert all(len(each) == 2 and each[0]["score"] >= each[1]["score"] for each in found)
        bare = client.post("/retrieve", json={**asked, "return_scores": False}).json()["result"]
        assert bare[0][0] == found[0][0]["document"]
        assert client.get("/").json()["passages"] == 3200
        for body, status, words in [
            (b"not json", 400, "JSON"),
            (b'{"queries": "x"}', 400, "queries"),
            (b'{"queries": [], "topk": 0}', 400, "topk"),
        ]:
            answer = client.post("/retrieve", content=body)
            assert (answer.status_code, words in answer.json()["error"]) == (status, True)
        assert client.post("/nowhere", json=asked).status_code == 404


ROWS = [{"title": "T", "link": "http://t/", "snippet": "S", "date": "2025"}, {"title": None}]


@pytest.mark.parametrize(
    ("name", "answer", "rows"),
    [
        ("serper", {"organic": ROWS, "answerBox": {}}, [("T", "http://t/", "S", "2025")]),
        ("serper", {}, []),
        (
            "searxng",
            {"results": [{"title": "T", "url": "u", "content": "S", "score": 1.5}]},
            [("T", "u", "S", None)],
        ),
        (
            "brave",
            {"web": {"results": [{"title": "T", "url": "u", "description": "S"}]}},
            [("T", "u", "S", None)],
        ),
        ("brave", {"type": "search"}, []),
        (
            "tavily",
            {"results": [{"title": "T", "url": "u", "content": "S", "raw_content": None}]},
            [("T", "u", "S", None)],
        ),
    ],
)
def test_each_provider_s_answer_is_read(
    name: str,
    answer: object,
    rows: Sequence[tuple[str | None, ...]],
    monkeypatch: pytest.MonkeyPatch,
):
    import httpx2

    from visual_arft.envs.search.backends.http import PROVIDERS, HttpSearcher

    seen: list[httpx2.Request] = []

    def answered(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=answer)

    for variable in ("SERPER_API_KEY", "BRAVE_API_KEY", "TAVILY_API_KEY"):
        monkeypatch.setenv(variable, "the-key")
    engine = HttpSearcher(PROVIDERS[name], base="http://provider.test", options={"x": "y"})
    engine._client = httpx2.Client(transport=httpx2.MockTransport(answered))
    found = asyncio.run(engine.search("Eiffel Tower", 4))
    assert [(each.title, each.url, each.snippet, each.published) for each in found] == list(rows)
    [request] = seen
    sent = f"{request.url} {request.content.decode()}"
    assert "Eiffel" in sent
    assert "y" in sent
    assert "the-key" not in sent + engine.name
    assert ("the-key" in str(request.headers.raw)) == (name != "searxng")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (429, "Unavailable", "status 429"),
        (503, "Unavailable", "status 503"),
        (400, "Refused", "status 400"),
        (401, "UserError", "check SERPER_API_KEY"),
        (200, "Refused", "not of its form"),
    ],
)
def test_a_provider_that_does_not_answer_is_tried_again_only_where_that_helps(
    status: int, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    import httpx2

    from visual_arft.envs.search.backends.http import PROVIDERS, HttpSearcher

    monkeypatch.setenv("SERPER_API_KEY", "the-key")
    engine = HttpSearcher(PROVIDERS["serper"])
    answer = httpx2.MockTransport(
        lambda _: httpx2.Response(status, text="the-key", headers={"retry-after": "7"})
    )
    engine._client = httpx2.Client(transport=answer)
    with pytest.raises(Exception, match=words) as raised:
        asyncio.run(engine.search("q", 4))
    assert type(raised.value).__name__ == kind
    assert "the-key" not in str(raised.value)
    if kind == "Unavailable":
        assert raised.value.retry_after_s == 7  # type: ignore[attr-defined]


def test_a_key_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    from visual_arft.errors import UserError

    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    with pytest.raises(UserError, match="brave needs a key; set BRAVE_API_KEY"):
        asyncio.run(open_engine("brave").search("q", 1))


def test_ddgs_is_asked_through_its_package():
    exceptions = pytest.importorskip("ddgs.exceptions", reason="needs the browse extra")
    from visual_arft.envs.search.backends.ddgs import DdgsSearcher
    from visual_arft.envs.search.unavailable import Unavailable

    class Engine:
        def __init__(self, answer: object) -> None:
            self.answer = answer

        def text(self, query: str, **_: object) -> object:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    def ask(answer: object) -> list[Result]:
        return asyncio.run(DdgsSearcher(engine=Engine(answer)).search("q", 3))

    assert ask([{"title": "T", "href": "u", "body": "S"}]) == [
        Result(title="T", url="u", snippet="S")
    ]
    assert ask(exceptions.DDGSException("No results found.")) == []
    with pytest.raises(Unavailable, match="busy"):
        ask(exceptions.RatelimitException("busy"))


def test_results_from_where_the_answers_lie_are_not_shown():
    from visual_arft.envs.search.egress.denied import DATASET_HOSTS
    from visual_arft.types import ToolCall

    class Both:
        name = "both"

        async def search(self, query: str, limit: int) -> list[Result]:
            urls = ("https://huggingface.co/datasets/x", "https://en.wikipedia.org/")
            return [Result(snippet=url, url=url) for url in urls]

    tool = SearchTool(Both(), guard=Guard(denied=DATASET_HOSTS), addresses=True)
    result = asyncio.run(tool.run(ToolCall(tool="search", arguments={"query": "q"})))
    assert result.links == ("https://en.wikipedia.org/",)
    assert "huggingface" not in json.dumps(result.model_dump())
