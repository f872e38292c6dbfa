"""In real Chromium: `pytest -m browser`. What the guard alone does is tested without one."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pil

from search.nasty import ARTICLE, PAGES, html
from search.sites import Forbidden, forbidden, host_of, redirect, send, site
from visual_arft.envs.search.egress import Guard
from visual_arft.envs.search.env import SearchEnv
from visual_arft.envs.search.look.browser import find_chromium
from visual_arft.envs.search.look.tool import LookTool
from visual_arft.envs.search.recording import Desk, Recording
from visual_arft.episode import Episode, replay
from visual_arft.images import MemoryImages
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.rollout import play
from visual_arft.tags import wrap
from visual_arft.types import StopReason, Task, ToolCall, ToolResult

pytest.importorskip("playwright", reason="needs the browse extra")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium; see arft doctor"),
]

# Each tries to reach a listener on loopback, PORT, that is not the page's own server.
TRIES = """
<img src=http://127.0.0.1:PORT/img><img src=http://localhost:PORT/img><img src=http://[::1]:PORT/i>
<img src=http://2130706433:PORT/i><img src=http://0x7f.1:PORT/i><img src=http://0.0.0.0:PORT/i>
<img src=http://169.254.169.254/latest/meta-data/><img src=file:///etc/passwd>
<iframe src=http://127.0.0.1:PORT/iframe></iframe><iframe src=file:///etc/passwd></iframe>
<object data=http://127.0.0.1:PORT/object></object><embed src=http://127.0.0.1:PORT/embed>
<video src=http://127.0.0.1:PORT/video></video><audio src=http://127.0.0.1:PORT/audio></audio>
<link rel=stylesheet href=http://127.0.0.1:PORT/css><link rel=preconnect href=http://127.0.0.1:PORT>
<link rel=dns-prefetch href=http://localhost:PORT><link rel=prefetch href=http://127.0.0.1:PORT/pre>
<link rel=manifest href=http://127.0.0.1:PORT/m><script src=http://127.0.0.1:PORT/js></script>
<style>@import 'http://127.0.0.1:PORT/import'; @font-face {font-family: f;
  src: url(http://127.0.0.1:PORT/font)} p {font-family: f; background: url(http://127.0.0.1:PORT/bg)}
</style><form id=f action=http://127.0.0.1:PORT/form target=inner method=post></form>
<iframe name=inner></iframe><iframe srcdoc="<img src=http://127.0.0.1:PORT/srcdoc>"></iframe>
<a id=a href=http://127.0.0.1:PORT/ping-target ping=http://127.0.0.1:PORT/ping>ping</a>
<script>
const base = 'http://127.0.0.1:PORT';
const tries = [
  () => fetch(base + '/fetch'), () => fetch(base + '/no-cors', {mode: 'no-cors', keepalive: true}),
  () => navigator.sendBeacon(base + '/beacon', 'x'),
  () => new WebSocket('ws://127.0.0.1:PORT/ws'), () => new WebSocket('ws://localhost:PORT/ws'),
  () => new EventSource(base + '/events'),
  () => { const x = new XMLHttpRequest(); x.open('GET', base + '/xhr'); x.send(); },
  () => new Worker(URL.createObjectURL(new Blob([
    `fetch('${base}/worker'); new WebSocket('ws://127.0.0.1:PORT/worker-ws')`]))),
  () => new SharedWorker(URL.createObjectURL(new Blob([`fetch('${base}/shared')`]))),
  () => navigator.serviceWorker.register('/worker.js'),
  () => import(base + '/module'), () => open(base + '/popup'),
  () => document.getElementById('f').submit(),
  () => new WebTransport('https://127.0.0.1:PORT/transport'),
  () => {
    const peer = new RTCPeerConnection({iceServers: [
      {urls: 'stun:127.0.0.1:PORT'}, {urls: 'turn:127.0.0.1:PORT?transport=tcp',
       username: 'u', credential: 'c'}]});
    peer.createDataChannel('x');
    peer.createOffer().then(offer => peer.setLocalDescription(offer));
    peer.addIceCandidate({candidate: 'candidate:1 1 tcp 1 127.0.0.1 PORT typ host', sdpMid: '0'});
  },
  () => document.getElementById('a').click(),
];
for (const each of tries) { try { const p = each(); if (p && p.catch) p.catch(() => 0); } catch {} }
</script>
"""


@pytest.fixture
def listener() -> Iterator[Forbidden]:
    with forbidden() as server:
        yield server


def look(address: str, *steps: dict[str, str], guard: Guard | None = None) -> list[ToolResult]:
    guard = guard or Guard(allowed=[host_of(address)])

    async def in_one_session() -> list[ToolResult]:
        async with LookTool(guard, MemoryImages()).session() as session:
            return [
                await session.run(ToolCall(tool="look", arguments=dict(step))) for step in steps
            ]

    return asyncio.run(in_one_session())


def opened(url: str) -> dict[str, str]:
    return {"step": "open", "url": url}


def test_no_page_reaches_loopback_by_any_way(listener: Forbidden):
    port = str(listener.port)
    body = html(ARTICLE + TRIES.replace("PORT", port).encode())
    worker = f"fetch('http://127.0.0.1:{port}/sw')".encode()
    ways = {
        "/": body,
        "/worker.js": lambda to: send(to, worker, "text/javascript"),
        "/redirect": redirect(f"http://127.0.0.1:{port}/redirect"),
        "/refresh": html(ARTICLE, f"<meta http-equiv=refresh content='0;url=http://[::1]:{port}/'>".encode()),
        "/script": html(f"<script>location = 'http://localhost:{port}/script'</script>"),
        "/image": html("<img src=/redirect>" + ARTICLE.decode()),
        "/fetch": html("<script>fetch('/redirect', {mode: 'no-cors'})</script>" + ARTICLE.decode()),
    }  # fmt: skip
    with site(ways) as address:
        for path in ways:
            [result] = look(address, opened(address + path))
            assert result.error or result.text
        time.sleep(0.5)
    assert listener.hits == []


def test_files_and_the_browser_s_own_pages_are_not_shown(listener: Forbidden):
    with site({"/": html(ARTICLE)}) as address:
        for url in ("file:///etc/passwd", "chrome://version", "view-source:http://127.0.0.1/",
                    f"http://127.0.0.1:{listener.port}/", "javascript:alert(1)"):  # fmt: skip
            [result] = look(address, opened(url))
            assert "is not opened" in (result.error or ""), url
    assert listener.hits == []


def test_each_nasty_page_ends_in_time_and_the_next_one_is_shown():
    pages = {**PAGES, "/fine": html(ARTICLE)}
    with site(pages) as address:
        guard = Guard(allowed=[host_of(address)])

        async def one(tool: LookTool, path: str) -> tuple[float, ToolResult]:
            start = time.monotonic()
            async with tool.session() as session:
                call = ToolCall(tool="look", arguments=dict(opened(address + path)))
                result = await session.run(call)
            return time.monotonic() - start, result

        async def all_of_them() -> dict[str, tuple[float, ToolResult]]:
            tool, gate = LookTool(guard, MemoryImages()), asyncio.Semaphore(3)

            async def in_turn(path: str) -> tuple[float, ToolResult]:
                async with gate:
                    return await one(tool, path)

            return dict(zip(pages, await asyncio.gather(*map(in_turn, pages)), strict=True))

        ended = asyncio.run(all_of_them())
    for path, (seconds, result) in ended.items():
        assert seconds < 30, path
        assert (result.error or result.text).strip(), path
    assert ended["/fine"][1].images
    assert "400 message boxes" in ended["/dialogs"][1].text
    for path, words in {
        "/never-ends": "did not open in time",
        "/loop": "redirects without end",
        "/download": "a download, which is not taken",
    }.items():
        assert words in (ended[path][1].error or ""), (path, ended[path][1])


def test_a_page_is_clicked_typed_into_scrolled_and_left():
    form = b"""<form action=/found><input name=q placeholder=Search></form>
        <a href=/next>Next page</a><button onclick="document.title='Pressed'">Press</button>
        <a href=/next target=_blank>In a window</a><div style='height:3000px'></div><b>End</b>"""
    pages = {"/": html(form), "/next": html(b"<h1>Next</h1>", b"<base>"), "/found": html(b"found")}
    with site(pages) as address:
        steps = [
            opened(f"{address}/"),
            {"step": "click", "with": "3"},
            {"step": "scroll", "with": "down"},
            {"step": "scroll", "with": "up"},
            {"step": "click", "with": "2"},
            {"step": "back", "with": ""},
            {"step": "type", "with": "1 high tower"},
            {"step": "back", "with": ""},
            {"step": "click", "with": "4"},
            {"step": "click", "with": "99"},
        ]
        results = look(address, *steps)
    told = [result.text for result in results]
    assert told[0].splitlines()[2:] == [
        "1. input 'Search'",
        "2. a 'Next page'",
        "3. button 'Press'",
        "4. a 'In a window'",
    ]
    assert told[1].startswith("Pressed\n")
    assert results[0].links == (f"{address}/", f"{address}/next")
    assert f"{address}/next" in told[4]
    assert f"{address}/found?q=high+tower" in told[6]
    assert f"{address}/next" in told[8]
    assert results[9].error == "there is no element '99': the page shows 0"
    assert len({result.images for result in results[:3]}) == 3  # scrolling shows something else


def test_what_one_episode_leaves_in_the_browser_no_other_finds():
    page = html(
        "<script>document.title = document.cookie + localStorage.getItem('a');"
        "document.cookie = 'seen=1'; localStorage.setItem('a', 'seen')</script>"
    )
    with site({"/": page}) as address:
        tool = LookTool(Guard(allowed=[host_of(address)]), MemoryImages())
        call = ToolCall(tool="look", arguments=dict(opened(f"{address}/")))

        async def two() -> list[str]:
            async with tool.session() as one, tool.session() as other:
                return [(await each.run(call)).text for each in (one, other, one)]

        first, second, again = asyncio.run(two())
    assert first == second
    assert first.startswith("null")
    assert again.startswith("seen=1seen")


def test_an_episode_looks_and_a_replay_needs_no_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    replies = [
        wrap("I look.", "look", "ADDRESS/"),
        wrap("I press.", "look", "click 1"),
        wrap("Pressed.", "answer", "330 m"),
    ]
    env = SearchEnv("append", actions=("search", "look"))
    page = html(ARTICLE + b"<button onclick=\"document.title='Pressed'\">Press</button>")

    def episode(desk: Desk, task: Task, allowed: str):
        images = MemoryImages()
        tools = {"look": LookTool(Guard(allowed=[allowed]), images, desk)}
        policy = ScriptedPolicy(
            [reply.replace("ADDRESS", f"http://{allowed}") for reply in replies]
        )
        [played] = asyncio.run(play([Episode(task, env)], policy, tools))
        return played, images

    with site({"/": page}) as address:
        task = Task(id="t", question=f"How high is it? See {address}/", answers=("330 m",))
        recording = Recording(tmp_path / "r.sqlite")
        played, images = episode(Desk(recording, "record"), task, host_of(address))
        recording.close()
    assert played.stop_reason is StopReason.ANSWERED
    shown = [turn.result for turn in played.turns if turn.result]
    assert [result.error for result in shown] == [None, None]
    assert shown[1].text.startswith("Pressed")
    picture = Pil.open(io.BytesIO(images.read(shown[0].images[0])))
    assert picture.size == (1024, 768)
    assert played.turns[2].prompt.images[-1] == shown[1].images[0]
    assert replay(played, env) == played

    monkeypatch.setenv("ARFT_CHROMIUM", "/nowhere")
    desk = Desk(Recording(tmp_path / "r.sqlite", read_only=True), "replay")
    again, _ = episode(desk, task, host_of(address))
    assert again.model_dump_json() == played.model_dump_json()
