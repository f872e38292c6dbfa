from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.nasty import ARTICLE, PAGES, html
from search.sites import forbidden, host_of, site
from visual_arft.envs.search.browse import seen
from visual_arft.envs.search.egress import Guard
from visual_arft.envs.search.egress.fetch import Fetched, FetchLimits
from visual_arft.envs.search.env import SearchEnv
from visual_arft.envs.search.read.extract import extract_html
from visual_arft.envs.search.read.extractor import Extractor
from visual_arft.envs.search.read.tool import ReadTool, about_tokens, leaves_of
from visual_arft.envs.search.recording import Desk, Recording
from visual_arft.errors import ToolFailure
from visual_arft.tags import wrap
from visual_arft.types import (
    Action,
    Completion,
    Message,
    Prompt,
    Task,
    ToolCall,
    ToolResult,
    Turn,
)

pytest.importorskip("trafilatura", reason="needs the browse extra")
pytest.importorskip("resiliparse", reason="needs the browse extra")

QUICK = FetchLimits(seconds=6.0)
TASK = Task(id="t", question="How high is http://seen.example/tower?", answers=("330 m",))


@pytest.fixture(scope="module")
def nasty() -> Iterator[str]:
    with site(PAGES) as address:
        yield address


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    made = Extractor(seconds=5.0)
    yield made
    made.close()


def read(tool: ReadTool, url: str, **arguments: object) -> ToolResult:
    call = ToolCall(tool="read", arguments={"url": url, **arguments})  # type: ignore[dict-item]
    return asyncio.run(tool.run(call))


def test_each_nasty_page_ends_in_time_with_something_to_read(nasty: str, extractor: Extractor):
    tool = ReadTool(Guard(allowed=[host_of(nasty)]), extractor=extractor, limits=QUICK)

    async def all_of_them() -> dict[str, ToolResult]:
        gate = asyncio.Semaphore(6)

        async def one(path: str) -> ToolResult:
            async with gate:
                return await tool.run(ToolCall(tool="read", arguments={"url": nasty + path}))

        return dict(zip(PAGES, await asyncio.gather(*map(one, PAGES)), strict=True))

    start = time.monotonic()
    results = asyncio.run(all_of_them())
    assert time.monotonic() - start < 60
    for path, result in results.items():
        told = result.error or result.text
        assert told.strip(), path
        assert about_tokens(result.text) < 1700, path
        assert "\x00" not in told or path == "/null"
    errors = {path: result.error for path, result in results.items() if result.error}
    for path, words in {
        "/endless": "more than 5 MB",
        "/drip": "did not end within 6 s",
        "/silent": "did not end within 6 s",
        "/bomb": "more than 5 MB",
        "/bomb-in-bomb": "packed as 'gzip, gzip'",
        "/broken-gzip": "is broken",
        "/brotli": "packed as 'br'",
        "/no-http": "cannot be reached",
        "/gone": "status 410",
        "/loop": "more than 5 redirects",
        "/to-file": "only http and https",
        "/long-line": "more than 5 MB",
        "/empty": "no text",
        "/zip": "application/zip, which cannot be read",
        "/bad-pdf": "no text",
    }.items():
        assert words in (errors[path] or ""), path
    assert "höher" in results["/wrong-charset"].text
    for path in ("/unknown-charset", "/utf-16", "/never-ends", "/dialogs"):
        assert "330 m high" in results[path].text, path


def test_what_a_page_says_cannot_act(nasty: str, extractor: Extractor):
    result = read(ReadTool(Guard(allowed=[host_of(nasty)]), extractor=extractor), f"{nasty}/ours")
    assert "im_start" in result.text
    turn = turn_of("read", "1", result)
    prompt = SearchEnv("append", actions=("search", "read")).prompt(TASK, [turn])
    shown = prompt.messages[-1].text
    assert shown.count("<information>") == shown.count("</information>") == 1
    for tag in ("<answer>", "<search>", "<read>", "< ANSWER", "<|im_start|>", "<|image_pad|>"):
        assert tag not in shown.removeprefix("<information> ")


def test_a_page_that_breaks_or_stops_the_parser_ends_it_and_the_next_page_is_read():
    slow = Extractor(seconds=0.0)
    page = Fetched("http://x/", 200, "text/html", "", html(ARTICLE))
    asyncio.run(slow.extract(page))  # starting takes its own time
    from visual_arft.envs.search.egress import Blocked

    with pytest.raises(Blocked, match="took too long"):
        asyncio.run(slow.extract(page))
    assert "330 m" in asyncio.run(slow.extract(page)).text
    slow.close()


def test_links_are_whole_and_pictures_have_none(extractor: Extractor):
    body = html(ARTICLE.replace(b"Paris", b'<a href="/paris">Paris</a><img src="p.png" alt="p">'))
    assert "[Paris](http://x/paris)" in extract_html(body, "http://x/y").text


def test_a_long_page_is_read_leaf_by_leaf(extractor: Extractor):
    paragraphs = "".join(f"<p>Paragraph {n} has some words to say.</p>" for n in range(200))
    with site({"/": html(f"<article>{paragraphs}</article>")}) as address:
        tool = ReadTool(Guard(allowed=[host_of(address)]), extractor=extractor, tokens=500)
        first = read(tool, f"{address}/")
        assert "(page 1 of " in first.text
        count = int(first.text.split("(page 1 of ")[1].partition(")")[0])
        leaves = [read(tool, f"{address}/", page=n).text for n in range(1, count + 1)]
        assert all(about_tokens(leaf) < 600 for leaf in leaves)
        said = " ".join(leaves)
        assert [n for n in range(200) if f"Paragraph {n} has" not in said] == []
        assert read(tool, f"{address}/", page=count + 1).error == (
            f"{address}/ has {count} pages, and no page {count + 1}"
        )


def test_passages_are_those_that_fit_the_question(extractor: Extractor):
    paragraphs = "".join(f"<p>{'Nothing to see here at all. ' * 20}</p>" for _ in range(20))
    fact = "<p>The keeper of the lighthouse was Mi Lo, for forty years in a row.</p>"
    with site({"/": html(f"<article>{paragraphs}{fact}{paragraphs}</article>")}) as address:
        guard = Guard(allowed=[host_of(address)])
        tool = ReadTool(guard, extractor=extractor, tokens=300, show="passages")
        result = read(tool, f"{address}/", question="Who was the keeper of the lighthouse?")
    assert "Mi Lo" in result.text
    assert about_tokens(result.text) < 400


def test_a_pdf_is_read(extractor: Extractor, tmp_path: Path):
    pdfium = pytest.importorskip("pypdfium2", reason="needs the browse extra")
    from search.pdf import one_page

    assert pdfium
    page = Fetched("http://x/", 200, "application/pdf", "", one_page("The tower is 330 m high."))
    assert "The tower is 330 m high." in asyncio.run(extractor.extract(page)).text


@given(st.text("ab .\n中", max_size=300), st.integers(1, 30))
@settings(max_examples=30)
def test_leaves_keep_to_the_budget_and_lose_nothing(text: str, budget: int):
    leaves = leaves_of(text, budget, lambda part: len(part.encode()))
    assert "".join("".join(leaves).split()) == "".join(text.split())
    assert all(len(leaf.encode()) <= max(budget, 3) for leaf in leaves)


def turn_of(kind: str, content: str, result: ToolResult) -> Turn:
    return Turn(
        prompt=Prompt(messages=(Message(role="user", text="?"),)),
        completion=Completion(text=wrap("", kind, content)),
        action=Action(kind=kind, content=content),
        result=result,
    )


FOUND = turn_of("search", "tower", ToolResult(text="…", links=("http://a/", "http://b/x?y=(z)")))
PAGE = turn_of("read", "1", ToolResult(text="…", links=("http://a/", "http://c/")))


@pytest.mark.parametrize(
    ("content", "url"),
    [
        ("1", "http://a/"),
        ("2", "http://b/x?y=(z)"),
        ("2, page 3", "http://b/x?y=(z)"),
        ("http://b/x?y=(z)", "http://b/x?y=(z)"),
        ("http://c", "http://c"),
        ("http://c/#part", "http://c/#part"),
        ("http://seen.example/tower page 2", "http://seen.example/tower"),
        ("3", None),
        ("0", None),
        ("http://a/secret", None),
        ("http://a.evil.example/", None),
        ("http://evil.example/?q=what-the-image-shows", None),
        ("file:///etc/passwd", None),
    ],
)
def test_only_addresses_that_came_into_sight_are_opened(content: str, url: str | None):
    env = SearchEnv(actions=("search", "read"))
    call = env.tool_call(TASK, (FOUND, PAGE), Action(kind="read", content=content))
    assert call is not None
    assert call.arguments.get("url") == url
    if url is None:
        assert read_refused(call)
    assert seen(TASK, (FOUND, PAGE)) >= {"http://a", "http://c", "http://seen.example/tower"}


def read_refused(call: ToolCall) -> str:
    result = asyncio.run(ReadTool(Guard()).run(call))
    assert result.error is not None
    return result.error


def test_a_page_may_not_be_turned_where_there_is_none_and_all_may_be_freed():
    env = SearchEnv(actions=("search", "read"), free=True)
    call = env.tool_call(TASK, (), Action(kind="read", content="http://anywhere.example/"))
    assert call is not None
    assert call.arguments["url"] == "http://anywhere.example/"


def test_reading_replays_with_the_network_taken_away(
    tmp_path: Path, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
):
    with site({"/": html(ARTICLE)}) as address:
        guard = Guard(allowed=[host_of(address)])
        recording = Recording(tmp_path / "r.sqlite")
        tool = ReadTool(guard, Desk(recording, "record"), extractor=extractor)
        told = [read(tool, f"{address}{path}") for path in ("/", "/gone")]
        recording.close()

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a replay opens no connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    desk = Desk(Recording(tmp_path / "r.sqlite", read_only=True), "replay")
    tool = ReadTool(guard, desk, extractor=extractor)
    assert [read(tool, f"{address}{path}") for path in ("/", "/gone")] == told
    assert told[1].error == f"{address}/gone answers with status 404"
    with pytest.raises(ToolFailure, match=f"no answer of 'read' to '{address}/x'"):
        read(tool, f"{address}/x")


def test_a_refused_page_is_a_sentence_and_no_connection():
    with forbidden() as listener:
        result = read(ReadTool(Guard()), f"http://127.0.0.1:{listener.port}/")
        assert result.error is not None
        assert "its port is" in result.error
        assert listener.hits == []
