from __future__ import annotations

import asyncio
import io
import sqlite3
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from visual_arft.episode import Episode
from visual_arft.errors import PolicyFailure, UserError
from visual_arft.images import MemoryImages, encode
from visual_arft.policies import Sampling
from visual_arft.policies.fake_server import FakeServer, Fault
from visual_arft.policies.openai import OpenAIPolicy
from visual_arft.policies.settings import ServerConfig
from visual_arft.recording import Recording
from visual_arft.rollout import play, play_freely
from visual_arft.types import Completion, Message, Prompt, StopReason, Task, Usage

GREEDY = Sampling(temperature=0, max_new_tokens=50)
PNG = encode(np.zeros((2, 3, 3), np.uint8))
FLAWS = [
    Fault(dies=True),
    Fault(429),
    Fault(500),
    Fault(503),
    Fault(408),
    Fault(409),
    Fault(),  # HTML
    Fault(body=b'{"choices": ['),
    Fault(body=b'{"choices": [', headers={"content-length": "999", "connection": "close"}),
    Fault(body=b'{"choices": []}'),
    Fault(body=b'{"choices": [{"finish_reason": "stop", "message": {"content": null}}]}'),
    Fault(body=b'{"error": "overloaded"}'),
    Fault(body=b"\xff\xfe"),
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def prompt(text, *images):
    return Prompt(messages=(Message(role="user", text=text, images=images),))


def policy(server, *, sampling=GREEDY, images=None, cache=None, model="m", **more):
    settings = {"retries": 2, "backoff_s": 0.001, "base_url": server.base_url, **more}
    return OpenAIPolicy(
        model, ServerConfig(**settings), sampling, images or MemoryImages(), cache=cache
    )


def ask(policy, *prompts):
    async def asked():
        try:
            return await policy.generate(prompts)
        finally:
            await policy.close()

    return asyncio.run(asked())


def echo(asked):
    return f"{asked.text}!"


def test_a_prompt_goes_out_as_a_chat_and_its_reply_comes_back():
    images = MemoryImages()
    picture = images.add(PNG)
    messages = (
        Message(role="system", text="Be short."),
        Message(role="user", text="What is it?", images=(picture, picture)),
        Message(role="assistant", text="A dot.", token_ids=(1, 2)),
        Message(role="user", text="Sure?"),
    )
    with FakeServer(lambda asked: "Yes.") as server:
        [reply] = ask(policy(server, images=images), Prompt(messages=messages))
    assert reply == Completion(text="Yes.", usage=Usage(prompt_tokens=10, completion_tokens=5))
    [asked] = server.asked
    assert asked.images == (PNG, PNG)
    sent = asked.body["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert [part["type"] for part in sent[1]["content"]] == ["image_url", "image_url", "text"]
    assert sent[2] == {"role": "assistant", "content": "A dot."}
    assert sent[1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(("kind", "sent"), [("JPEG", "jpeg"), ("WEBP", "webp"), ("BMP", "png")])
def test_a_picture_is_sent_as_it_is_where_any_server_reads_it_and_else_as_png(kind, sent):
    file = io.BytesIO()
    Pil.new("RGB", (4, 4), "red").save(file, kind)
    images = MemoryImages()
    picture = images.add(file.getvalue())
    with FakeServer(echo) as server:
        ask(policy(server, images=images), prompt("?", picture))
    [asked] = server.asked
    url = asked.body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith(f"data:image/{sent};base64,")
    assert (asked.images[0] == file.getvalue()) == (kind != "BMP")


def test_no_stop_is_sent_and_a_seed_only_where_something_is_drawn():
    drawn = Sampling(temperature=0.5, max_new_tokens=7, seed=3)
    with FakeServer(echo) as server:
        ask(policy(server), prompt("a"))
        ask(policy(server, sampling=drawn), prompt("a"))
    greedy, sampled = (asked.body for asked in server.asked)
    assert set(greedy) == {"model", "messages", "temperature", "max_tokens"}
    assert (greedy["temperature"], greedy["max_tokens"]) == (0, 50)
    assert (sampled["temperature"], sampled["max_tokens"], sampled["seed"]) == (0.5, 7, 3)


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        ({"message": {"content": "cut"}, "finish_reason": "length"}, "cut", "length"),
        ({"message": {"content": None}, "finish_reason": "length"}, "", "length"),
        ({"message": {"content": None, "refusal": "I won't."}}, "I won't.", "stop"),
        ({"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}, "ab", "stop"),
        ({"message": {"content": ""}}, "", "stop"),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, "", "stop"),
        ({"message": {"content": "x"}, "finish_reason": "eos"}, "x", "stop"),
        # The thought told apart, by either name.
        ({"message": {"content": "x", "reasoning_content": "so"}}, "<think>so</think>x", "stop"),
        ({"message": {"content": "x", "reasoning": "so"}}, "<think>so</think>x", "stop"),
        ({"message": {"content": None, "reasoning": "so"}}, "<think>so</think>", "stop"),
        (
            {"message": {"content": [{"text": "x"}], "reasoning": "so"}},
            "<think>so</think>x",
            "stop",
        ),
        ({"message": {"content": "x", "reasoning": ""}}, "x", "stop"),
        (
            {"message": {"content": "<think>my own</think>x", "reasoning": "so"}},
            "<think>my own</think>x",
            "stop",
        ),
    ],
)
def test_every_form_of_a_reply_is_read(answer, text, finish):
    with FakeServer(lambda asked: answer) as server:
        [reply] = ask(policy(server), prompt("?"))
    assert (reply.text, reply.finish_reason) == (text, finish)


@pytest.mark.parametrize(
    ("counted", "usage"),
    [
        (None, None),
        ({"prompt_tokens": None, "total_tokens": 3}, Usage(prompt_tokens=0, completion_tokens=0)),
    ],
)
def test_a_server_that_counts_badly_is_believed(counted, usage):
    with FakeServer(lambda asked: {"message": {"content": "x"}, "usage": counted}) as server:
        [reply] = ask(policy(server), prompt("?"))
    assert reply == Completion(text="x", usage=usage)


@pytest.mark.parametrize("flaw", FLAWS, ids=str)
def test_what_may_pass_is_tried_again_and_counted(flaw):
    with FakeServer(lambda asked: flaw if asked.number < 2 else "at last") as server:
        asking = policy(server)
        [reply] = ask(asking, prompt("?"))
    assert reply.text == "at last"
    assert (asking.tally.requests, asking.tally.retries) == (3, 2)
    assert (asking.tally.prompt_tokens, asking.tally.completion_tokens) == (10, 5)


@pytest.mark.parametrize("flaw", FLAWS, ids=str)
def test_what_does_not_pass_fails_the_prompt(flaw):
    with FakeServer(lambda asked: flaw) as server:
        asking = policy(server)
        with pytest.raises(PolicyFailure, match="asked 3 times"):
            ask(asking, prompt("?"))
    assert len(server.asked) == 3


def test_a_server_that_is_not_there_or_does_not_answer_fails_the_prompt():
    with FakeServer(lambda asked: Fault(hang_s=30)) as server:
        with pytest.raises(PolicyFailure, match="asked 2 times"):
            ask(policy(server, timeout_s=0.05, retries=1), prompt("?"))
        address = server.base_url
    gone = OpenAIPolicy("m", ServerConfig(base_url=address, retries=0), GREEDY, MemoryImages())
    with pytest.raises(PolicyFailure, match=r"127\.0\.0\.1.*asked 1 times"):
        ask(gone, prompt("?"))


def test_an_answer_that_never_ends_is_not_waited_for():
    endless = Fault(body=b" " * 2000, drip_s=0.02)
    with (
        FakeServer(lambda asked: endless) as server,
        pytest.raises(PolicyFailure, match=r"no whole answer in 0\.2 s"),
    ):
        ask(policy(server, timeout_s=0.2, retries=0), prompt("?"))


def test_who_is_cancelled_leaves_nothing_under_way():
    with FakeServer(lambda asked: Fault(hang_s=30)) as server:
        asking = policy(server)

        async def cancelled():
            task = asyncio.create_task(asking.generate([prompt("a"), prompt("b")]))
            while len(server.asked) < 1:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asking.close()
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(cancelled()) == set()


def test_as_long_is_waited_as_the_server_asks():
    wait = Fault(429, headers={"retry-after": "0.3"})
    with FakeServer(lambda asked: "ok" if asked.number else wait) as server:
        start = time.monotonic()
        ask(policy(server), prompt("?"))
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "set OPENAI_API_KEY"), (403, "set OPENAI_API_KEY"), (404, "for the model 'm'")],
)
def test_what_no_prompt_will_be_answered_with_is_the_user_s_to_mend(status, said):
    fault = Fault(status, b'{"error": {"message": "no such thing"}}')
    with (
        FakeServer(lambda asked: fault) as server,
        pytest.raises(UserError, match=rf"status {status}.*{said}.*no such thing"),
    ):
        ask(policy(server), prompt("?"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, b'{"error": {"message": "pay", "code": "insufficient_quota"}}'),
        Fault(402, b'{"error": {"message": "Insufficient Balance"}}'),
    ],
)
def test_a_quota_that_is_used_up_is_not_waited_for(fault):
    with (
        FakeServer(lambda asked: fault) as server,
        pytest.raises(UserError, match=f"status {fault.status}; pay there"),
    ):
        ask(policy(server), prompt("?"))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_the_server_refuses_fails_alone(status):
    fault = Fault(status, b'{"error": {"message": "too long"}}')
    with FakeServer(lambda asked: fault if "long" in asked.text else "ok") as server:
        asking = policy(server)
        with pytest.raises(PolicyFailure, match=f"status {status}.*too long"):
            ask(asking, prompt("long"))
        assert ask(asking, prompt("short"))[0].text == "ok"
    assert asking.tally.retries == 0


def test_a_failure_sets_its_own_episode_aside_and_no_other():
    class Direct:
        def prompt(self, task, turns):
            return prompt(task.question)

        def parse(self, text):
            from visual_arft.types import Action

            return Action(kind="answer", content=text)

        def tool_call(self, task, turns, action):
            return None

    tasks = [Task(id=name, question=name, answers=()) for name in ("a", "bad", "c")]
    with FakeServer(lambda asked: Fault(400) if asked.text == "bad" else "yes") as server:
        asking = policy(server)

        async def freely():
            episodes = [Episode(task, Direct()) for task in tasks]
            played = await play_freely(episodes, asking, {}, concurrency=2)
            together = await play([Episode(task, Direct()) for task in tasks], asking, {})
            await asking.close()
            return played, together

        played, together = asyncio.run(freely())
    assert [each.answer for each in played] == ["yes", None, "yes"]
    assert played[1].stop_reason is StopReason.TOOL_FAILED
    assert "status 400" in str(played[1].failure)
    assert {each.stop_reason for each in together} == {StopReason.TOOL_FAILED}


def test_prompts_are_under_way_together_but_no_more_than_allowed():
    with FakeServer(lambda asked: Fault(hang_s=0.02, body=b"")) as server:
        asking = policy(server, concurrency=3, retries=0)
        with pytest.raises(PolicyFailure):
            ask(asking, *(prompt(str(number)) for number in range(9)))
    assert 1 < server.most <= 3


def test_requests_start_evenly_spaced():
    with FakeServer(echo) as server:
        start = time.monotonic()
        ask(policy(server, requests_per_minute=1200), *(prompt(str(n)) for n in range(5)))
    assert time.monotonic() - start >= 4 * 0.05  # 1200 a minute are 20 a second


def test_one_policy_serves_one_loop_after_another():
    with FakeServer(echo) as server:
        asking = policy(server)
        assert [ask(asking, prompt(text))[0].text for text in ("a", "b")] == ["a!", "b!"]


def test_what_was_asked_beside_a_failure_is_waited_for_and_kept(tmp_path):
    def slowly(asked):
        if asked.text == "bad":
            return Fault(400)
        time.sleep(0.1)
        return "good"

    with FakeServer(slowly) as server:
        cache = Recording(tmp_path / "answers.sqlite")
        asking = policy(server, cache=cache)
        with pytest.raises(PolicyFailure):
            ask(asking, prompt("bad"), prompt("slow"))
        assert ask(asking, prompt("slow"))[0].text == "good"
        cache.close()
    assert asking.tally.from_cache == 1


def test_what_was_answered_is_not_asked_again(tmp_path):
    with FakeServer(echo) as server:
        cache = Recording(tmp_path / "answers.sqlite")
        first = ask(policy(server, cache=cache), prompt("a"))
        asking = policy(server, cache=cache)
        assert ask(asking, prompt("a")) == first
        assert (asking.tally.requests, asking.tally.from_cache) == (0, 1)
        assert asking.tally.prompt_tokens == 0
        cache.close()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"sampling": Sampling(temperature=0.5, max_new_tokens=50)},
        {"sampling": Sampling(temperature=0, max_new_tokens=51)},
        {"sampling": Sampling(temperature=0, max_new_tokens=50, seed=1)},
    ],
)
def test_what_decides_an_answer_tells_it_from_others(tmp_path, other):
    with FakeServer(echo) as server:
        cache = Recording(tmp_path / "answers.sqlite")
        ask(policy(server, cache=cache), prompt("a"))
        ask(policy(server, cache=cache, **other), prompt("a"))
        cache.close()
    assert len(server.asked) == 2


def test_other_pictures_are_another_question(tmp_path):
    images = MemoryImages()
    one, two = (images.add(encode(np.full((2, 2, 3), grey, np.uint8))) for grey in (0, 9))
    with FakeServer(echo) as server:
        cache = Recording(tmp_path / "answers.sqlite")
        for picture in (one, two, one):
            ask(policy(server, images=images, cache=cache), prompt("?", picture))
        cache.close()
    assert len(server.asked) == 2


def test_a_failure_is_not_kept(tmp_path):
    with FakeServer(lambda asked: "ok" if asked.number else Fault(400)) as server:
        cache = Recording(tmp_path / "answers.sqlite")
        with pytest.raises(PolicyFailure):
            ask(policy(server, cache=cache), prompt("a"))
        assert ask(policy(server, cache=cache), prompt("a"))[0].text == "ok"
        cache.close()


def test_money_is_counted_and_its_end_is_told():
    with FakeServer(echo) as server:
        asking = policy(server, price_in=1000, price_out=2000, max_cost=0.03)
        # 10 tokens at 1000 and 5 at 2000 dollars a million: 0.02 a reply.
        ask(asking, prompt("a"))
        assert asking.tally.cost == pytest.approx(0.02)
        ask(asking, prompt("b"))
        with pytest.raises(UserError, match=r"0\.04 of 0\.03 US\$.*raise --max-cost"):
            ask(asking, prompt("c"))
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),
        (b'{"message": "too long"}', "too long"),
        (b'{"detail": "too long"}', '{"detail": "too long"}'),  # FastAPI's
        (b"<html>\n too long </html>", "<html> too long </html>"),
        (b"[1]", "[1]"),
        (b"", "Bad Request"),
    ],
)
def test_whatever_a_server_says_is_wrong_is_told(body, said):
    with FakeServer(lambda asked: Fault(400, body)) as server, pytest.raises(PolicyFailure) as told:
        ask(policy(server), prompt("?"))
    assert str(told.value) == f"{server.base_url}: status 400: {said}"


def test_the_key_is_sent_and_stands_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    path = tmp_path / "answers.sqlite"
    echoing = Fault(401, b'{"error": {"message": "your key sk-secret-123 is wrong"}}')
    with FakeServer(lambda asked: echoing if asked.text == "b" else "ok") as server:
        cache = Recording(path)
        asking = policy(server, cache=cache)
        ask(asking, prompt("a"))
        with pytest.raises(UserError) as refused:
            ask(asking, prompt("b"))
        cache.close()
    sent = {name.lower(): value for name, value in server.asked[0].headers.items()}
    assert sent["authorization"] == "Bearer sk-secret-123"
    rows = sqlite3.connect(path)
    kept = str(rows.execute("select * from answers").fetchall())
    rows.close()
    for text in (kept, str(refused.value), str(vars(asking))):
        assert "sk-secret" not in text


def test_openai_itself_is_not_asked_without_a_key():
    asking = OpenAIPolicy("gpt", ServerConfig(), GREEDY, MemoryImages())
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        ask(asking, prompt("a"))


def test_openai_itself_is_told_the_limit_by_its_newer_name():
    sent = OpenAIPolicy("gpt", ServerConfig(), GREEDY, MemoryImages())._payload(prompt("a"))
    assert sent["max_completion_tokens"] == 50
    assert "max_tokens" not in sent


@given(
    tried=st.integers(1, 30),
    own=st.floats(0.001, 10),
    asked=st.none() | st.floats(0, 1000),
)
def test_waits_double_and_are_never_shorter_than_asked_nor_longer_than_a_minute(tried, own, asked):
    config = ServerConfig(backoff_s=own)
    wait = OpenAIPolicy("m", config, GREEDY, MemoryImages())._backoff(tried, asked)
    doubled = own * 2 ** (tried - 1)
    least, most = (max(share * doubled, asked or 0) for share in (0.75, 1.25))
    assert min(60, least) <= wait <= min(60, most)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=6),
    faults=st.lists(st.sampled_from([None, Fault(500), Fault(dies=True), Fault()]), max_size=6),
)
def test_replies_come_in_the_order_of_their_prompts_whatever_fails_on_the_way(texts, faults):
    left = iter(faults)
    with FakeServer(lambda asked: next(left, None) or echo(asked)) as server:
        replies = ask(policy(server, retries=7), *map(prompt, texts))
    assert [reply.text for reply in replies] == [f"{text}!" for text in texts]
