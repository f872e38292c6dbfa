from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.sites import Forbidden, forbidden, host_of, redirect, site
from visual_arft.envs.search.egress import Blocked, Guard
from visual_arft.envs.search.egress.addresses import is_public
from visual_arft.envs.search.egress.denied import DATASET_HOSTS, denying
from visual_arft.envs.search.egress.fetch import fetch
from visual_arft.envs.search.egress.proxy import filtering_proxy

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.1.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "2a00:1450::5efe:7f00:1",
    "2a00:1450::200:5efe:a00:1",
]
PUBLIC = "1.1.1.1 8.8.8.8 93.184.216.34 2606:4700:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8"

# Every way of writing a way to loopback; the port is that of a listener that must not be reached.
WAYS = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://user@127.0.0.1:{port}/",
    "http://user:word@127.0.0.1:{port}/",
    "http://example.com@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.com/",
    "http://127。0。0。1:{port}/",
    "http://１２７.0.0.1:{port}/",
    "http://ⓛocalhost:{port}/",
    "http://127.0.0.1%2e:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "https://127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@example.com/",
    "http://example.com\\@127.0.0.1:{port}/",
    "http://127.0.0.1:0{port}/",
    "http://127.0.0.1",
    "http://2130706433/",
    "http://[::1]/",
    "http://0x7f.1/",
    "http://169.254.169.254/latest/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "https://localhost/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:///etc/passwd",
    "ftp://127.0.0.1/",
    "gopher://127.0.0.1/",
    "data:text/html,x",
    "javascript:alert(1)",
    "chrome://version",
    "about:blank",
    "view-source:http://127.0.0.1/",
    "unix:/var/run/docker.sock",
    "dict://127.0.0.1:11211/",
    "ws+unix:///x",
    "jar:http://127.0.0.1!/",
    "blob:null/x",
    "http://",
    "http://?",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:x/",
    "http://[::1",
    "http://a",
    "b/",
]


@pytest.fixture
def listener() -> Iterator[Forbidden]:
    with forbidden() as server:
        yield server


def answering(*answers: Sequence[str]):
    """A resolver that answers differently each time, and for ever as the last time."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_no_public_server_is_told_as_such(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_server_is_one(address: str):
    assert is_public(address)


@given(st.integers(0, 2**32 - 1))
def test_what_python_calls_private_is_never_public_in_any_form(number: int):
    address = ip_address(number)
    if not address.is_global or address.is_multicast:
        assert not is_public(str(address))
        assert not is_public(f"::ffff:{address}")
    for wrapped in (f"64:ff9b::{address}", f"::{address}"):
        assert not is_public(str(ip_address(wrapped)))


def test_no_way_of_writing_it_leads_to_loopback(listener: Forbidden):
    async def all_of_them() -> list[object]:
        guard = Guard()
        ways = [way.format(port=listener.port) for way in WAYS]
        return await asyncio.gather(*(fetch(way, guard) for way in ways), return_exceptions=True)

    ended = asyncio.run(all_of_them())
    assert [each for each in ended if not isinstance(each, Blocked)] == []
    assert all(str(each) and "\n" not in str(each) for each in ended)
    assert listener.hits == []


def test_a_port_that_is_not_the_web_s_is_not_opened_even_at_a_public_server():
    guard = Guard(resolver=answering(["1.1.1.1"]))
    with pytest.raises(Blocked, match="its port is 22"):
        guard.check("http://example.com:22/")
    with pytest.raises(Blocked, match="only ports 80 and 443"):
        asyncio.run(guard.addresses("example.com", 22))


@pytest.mark.parametrize("found", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::1"], [], ["x"]])
def test_one_bad_address_of_a_name_is_enough(found: list[str]):
    with pytest.raises(Blocked):
        asyncio.run(fetch("http://example.com/", Guard(resolver=answering(found))))


def test_a_name_that_answers_differently_the_next_time_gains_nothing(listener: Forbidden):
    # The operator's rule lets the first look pass; only the address that was looked at is opened.
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["203.0.113.7"] if len(asked) == 1 else ["127.0.0.1"]

    guard = Guard(allowed=[f"rebinding.test:{listener.port}"], resolver=resolve)
    connected: list[str] = []

    async def connect(self: object, host: str, *_: object) -> None:
        connected.append(host)
        raise asyncio.CancelledError

    import httpcore2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
        with pytest.raises((Blocked, asyncio.CancelledError)):
            asyncio.run(fetch(f"http://rebinding.test:{listener.port}/", guard))
    assert (asked, connected) == (["rebinding.test"], ["203.0.113.7"])
    assert listener.hits == []


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://2130706433:{port}/",
        "http://[::1]:{port}/",
        "//127.0.0.1:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "ws://127.0.0.1:{port}/",
        "http://x:y@127.0.0.1:{port}/",
        "https://huggingface.co/datasets/x",
    ],
)
def test_each_redirect_is_checked_again(listener: Forbidden, to: str):
    with site({"/": redirect(to.format(port=listener.port))}) as address:
        guard = Guard(allowed=[host_of(address)], denied=DATASET_HOSTS)
        with pytest.raises(Blocked):
            asyncio.run(fetch(f"{address}/", guard))
    assert listener.hits == []


def test_redirects_end(listener: Forbidden):
    with (
        site({"/": redirect("/")}) as address,
        pytest.raises(Blocked, match="the end of more than 5 redirects"),
    ):
        asyncio.run(fetch(f"{address}/", Guard(allowed=[host_of(address)])))


def test_a_proxy_in_the_environment_is_not_used(
    listener: Forbidden, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    with site({"/": b"<html>hello</html>"}) as address:
        fetched = asyncio.run(fetch(f"{address}/", Guard(allowed=[host_of(address)])))
        with pytest.raises(Blocked):
            asyncio.run(fetch("http://no-such-host.invalid/", Guard()))
    assert b"hello" in fetched.body
    assert listener.hits == []


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT 127.0.0.1:{port} HTTP/1.1",
        "CONNECT localhost:{port} HTTP/1.1",
        "CONNECT [::1]:{port} HTTP/1.1",
        "CONNECT 2130706433:443 HTTP/1.1",
        "CONNECT 169.254.169.254:80 HTTP/1.1",
        "CONNECT huggingface.co:443 HTTP/1.1",
        "CONNECT 1.1.1.1:22 HTTP/1.1",
        "GET http://127.0.0.1:{port}/ HTTP/1.1",
        "GET http://[::ffff:127.0.0.1]:{port}/ HTTP/1.1",
        "GET file:///etc/passwd HTTP/1.1",
        "GET / HTTP/1.1",
        "nonsense",
    ],
)
def test_the_browser_s_proxy_holds_to_the_same_list(listener: Forbidden, request_line: str):
    async def ask() -> bytes:
        async with filtering_proxy(Guard(denied=DATASET_HOSTS)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = request_line.format(port=listener.port)
            writer.write(f"{line}\r\nHost: 127.0.0.1:{listener.port}\r\n\r\n".encode())
            answer = await reader.read(200)
            writer.close()
            return answer

    answer = asyncio.run(ask())
    assert answer == b"" or answer.startswith(b"HTTP/1.1 403")
    assert listener.hits == []


def test_the_proxy_carries_what_is_allowed():
    async def ask(address: str) -> bytes:
        async with filtering_proxy(Guard(allowed=[host_of(address)])) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {address}/a?b=c HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer

    with site({"/a": b"carried"}) as address:
        assert asyncio.run(ask(address)).endswith(b"carried")


@pytest.mark.parametrize(
    ("address", "is_denied"),
    [
        ("https://huggingface.co/datasets/laolao77/MAT", True),
        ("https://HuggingFace.co./x", True),
        ("https://cdn-lfs.huggingface.co/x", True),
        ("https://web.archive.org/web/2025/https://huggingface.co/x", True),
        ("https://r.jina.ai/https%3A%2F%2Fhuggingface.co%2Fx", True),
        ("https://huggingface-co.translate.goog/x", True),
        ("https://hf-mirror.com/x", True),
        ("https://raw.githubusercontent.com/Liuziyu77/Visual-RFT/main/x", True),
        ("https://github.com/liuziyu77/visual-rft", True),
        ("https://nothuggingface.com/", False),
        ("https://shf.co/", False),
        ("https://huggingface.co.example.com/", False),
        ("https://github.com/RUC-NLPIR/FlashRAGX", False),
        ("https://en.wikipedia.org/wiki/Hugging_Face", False),
    ],
)
def test_hosts_of_answers_are_denied_with_their_mirrors(address: str, is_denied: bool):
    assert (denying(address, DATASET_HOSTS) is not None) == is_denied
    assert Guard(denied=DATASET_HOSTS).hides(address) == is_denied
