"""What the decoder gives must be what one pass over the whole sequence gives, however it got there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_vlm import ask, lively, picture, tiny_qwen3, tiny_vlm
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages
from visual_arft.model import decoder
from visual_arft.model.decoder import Decoder
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.types import Completion, Image, Message, Prompt

IMAGES = MemoryImages()
PICTURES = [picture(IMAGES, number, 40 + 20 * number, 60) for number in range(4)]
MAKERS: dict[str, Callable[..., VisionLanguageModel]] = {
    "qwen2_5_vl": tiny_vlm,
    "qwen3_vl": tiny_qwen3,
}


@cache
def vlm(name: str) -> VisionLanguageModel:
    return lively(MAKERS[name](IMAGES, seed=2))


@pytest.fixture(params=MAKERS)
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    return vlm(request.param)


def policy_of(model: VisionLanguageModel, keep: int = 10_000, **more: Any) -> TransformersPolicy:
    sampling = Sampling.model_validate({"temperature": 0, "max_new_tokens": 9, **more})
    return TransformersPolicy(model, sampling, keep=keep)


def replies(policy: TransformersPolicy, prompts: Sequence[Prompt]) -> list[Completion]:
    return asyncio.run(policy.generate(prompts))


def append(prompt: Prompt, reply: Completion, text: str, *images: Image) -> Prompt:
    said = Message(role="assistant", text=reply.text, token_ids=reply.token_ids)
    news = Message(role="user", text=text, images=images)
    return Prompt(messages=(*prompt.messages, said, news))


def check(model: VisionLanguageModel, prompt: Prompt, reply: Completion) -> None:
    """Compares a greedy reply with one pass over prompt and reply."""
    assert reply.prompt_ids is not None
    assert reply.token_ids is not None
    assert reply.prompt_ids == model.chat.encode(prompt).ids
    inputs = model.inputs([reply.prompt_ids + reply.token_ids], prompt.images, left=False)
    with torch.no_grad():
        states = model.hidden(inputs).last_hidden_state[0, len(reply.prompt_ids) - 1 : -1]
        scores = model.log_probabilities(states, 0)
    assert reply.token_ids == tuple(scores.argmax(-1).tolist())
    assert reply.logprobs == pytest.approx(scores.max(-1).values.tolist(), abs=1e-4)


@contextmanager
def counted(model: VisionLanguageModel) -> Iterator[dict[str, int]]:
    """How many rows and tokens the language model computes, and how many images are encoded."""
    counts = {"passes": 0, "rows": 0, "tokens": 0, "images": 0}
    encode = model.core.model.get_image_features

    def text(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows, tokens = kwargs["input_ids"].shape
        counts["passes"] += 1
        counts["rows"] += rows
        counts["tokens"] += rows * tokens

    def vision(pixels: Any, grid: Any, **kwargs: Any) -> Any:
        counts["images"] += len(grid)
        return encode(pixels, grid, **kwargs)

    hook = model.core.model.register_forward_pre_hook(text, with_kwargs=True)
    model.core.model.get_image_features = vision
    try:
        yield counts
    finally:
        hook.remove()
        del model.core.model.get_image_features


def filled(tokens: int) -> int:
    """Tokens come in fours."""
    return -(-tokens // 4) * 4


pictures = st.lists(st.sampled_from(PICTURES), max_size=2)
words = st.sampled_from(
    ["", "hi", "What does the sign say? " * 2, "It says 42, red, green and blue."]
)
episodes = st.lists(st.tuples(words, pictures), min_size=1, max_size=4)
"""What the policy is told at each turn: a text and images."""


@pytest.mark.parametrize("context", ["append", "retell"])
@pytest.mark.parametrize("name", MAKERS)
@given(
    st.lists(episodes, min_size=1, max_size=4), st.integers(1, 3), st.sampled_from([0, 60, 10_000])
)
@settings(max_examples=8, deadline=None)
def test_kept_keys_and_values_change_no_reply_and_no_logprob(
    name: str, context: str, told: list[Any], group: int, keep: int
):
    model = vlm(name)
    policy = policy_of(model, keep, max_new_tokens=7)
    chats = [ask(turns[0][0], *turns[0][1]) for turns in told for _ in range(group)]
    told = [turns for turns in told for _ in range(group)]
    for number in range(1, 5):
        answers = replies(policy, chats)
        for chat, answer in zip(chats, answers, strict=True):
            check(model, chat, answer)
        going = [place for place, turns in enumerate(told) if number < len(turns)]
        told = [told[place] for place in going]
        chats = [
            append(chats[place], answers[place], turns[number][0], *turns[number][1])
            if context == "append"
            else ask(chats[place].messages[0].text + answers[place].text, *turns[number][1])
            for place, turns in zip(going, told, strict=True)
        ]
        if not chats:
            break


def test_of_a_chat_that_goes_on_only_the_new_part_is_computed(model: VisionLanguageModel):
    policy = policy_of(model, max_new_tokens=1)
    first = ask("What does the sign say?", PICTURES[0])
    [reply] = replies(policy, [first])
    second = append(first, reply, "Look.", PICTURES[1])
    with counted(model) as counts:
        [answer] = replies(policy, [second])
    new = len(answer.prompt_ids or ()) - len(reply.prompt_ids or ())
    assert (counts["tokens"], counts["images"]) == (filled(new), 1)
    check(model, second, answer)


def test_an_image_is_told_from_another_of_its_size(model: VisionLanguageModel):
    other = picture(IMAGES, 9, PICTURES[0].width, PICTURES[0].height)
    policy = policy_of(model)
    for image in (PICTURES[0], other, PICTURES[0]):
        prompt = ask("What does the sign say?", image)
        check(model, prompt, replies(policy, [prompt])[0])


def test_a_group_s_prompt_and_image_are_computed_once(model: VisionLanguageModel):
    prompt = ask("What does the sign say?", PICTURES[0])
    with counted(model) as counts:
        members = replies(policy_of(model, max_new_tokens=1), [prompt] * 8)
    tokens = filled(len(members[0].prompt_ids or ()))
    assert counts == {"passes": 1, "rows": 1, "tokens": tokens, "images": 1}


def test_a_reply_that_ended_leaves_the_batch_at_once(model: VisionLanguageModel):
    prompts = [ask(f"{number} {text}") for number in range(12) for text in ("hi", "What is it?")]
    with counted(model) as counts:
        lengths = [
            len(each.token_ids or ())
            for each in replies(policy_of(model, max_new_tokens=24), prompts)
        ]
    assert len(set(lengths)) > 3, "the replies must end at different times"
    # Each prompt is a row of the first pass, and each sampled token but the last one of another.
    running = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert counts["rows"] == len(prompts) + sum(max(rows, 4) for rows in running)
    assert counts["passes"] == max(lengths)


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_kept_is_forgotten_when_the_weights_change(name: str):
    model = lively(MAKERS[name](IMAGES, seed=2))
    policy = policy_of(model)
    prompt = ask("What does the sign say?", PICTURES[0])
    weight = model.core.get_input_embeddings().weight
    optimizer = torch.optim.AdamW([weight], lr=0.3)
    before = replies(policy, [prompt])
    weight.grad = torch.ones_like(weight)
    weight.grad[::2] *= -1
    optimizer.step()
    after = replies(policy, [prompt])
    assert after != before
    check(model, prompt, after[0])
    model.core.load_state_dict({k: v * 1.1 for k, v in model.core.state_dict().items()})
    check(model, prompt, replies(policy, [prompt])[0])


def test_to_forget_gives_the_memory_back(model: VisionLanguageModel):
    policy = policy_of(model)
    prompt = ask("What does the sign say?", PICTURES[0])
    replies(policy, [prompt])
    policy.forget()
    with counted(model) as counts:
        replies(policy, [prompt])
    assert counts["images"] == 1


def test_rows_join_and_leave_in_any_order(model: VisionLanguageModel):
    prompts = [ask("hi" * number, *PICTURES[: number % 3]) for number in range(1, 7)]
    encoded = [model.chat.encode(prompt) for prompt in prompts]
    batch = Decoder(model, keep=0)

    def state(number: int, written: Sequence[int]) -> torch.Tensor:
        ids = [*encoded[number].ids, *written]
        inputs = model.inputs([ids], encoded[number].images, left=False)
        return model.hidden(inputs).last_hidden_state[0, -1]

    def check_rows(rows: Sequence[tuple[int, list[int]]]) -> None:
        assert len(batch) == len(rows)
        for last, row in zip(batch.last, rows, strict=True):
            torch.testing.assert_close(last, state(*row), atol=1e-4, rtol=1e-4)

    with torch.no_grad():
        rows = [((0, 1, 2, 1)[each], []) for each in batch.join([encoded[n] for n in (0, 1, 2, 1)])]
        check_rows(rows)
        for step, leaving in enumerate([[], [1], [0, 2], []]):
            tokens = [20 + 7 * step + place for place in range(len(rows))]
            batch.advance(tokens)
            rows = [(n, [*ids, token]) for (n, ids), token in zip(rows, tokens, strict=True)]
            check_rows(rows)
            rows = [rows[place] for place in batch.leave(leaving)]
            new = [3 + step % 3, step]
            rows += [(new[each], []) for each in batch.join([encoded[n] for n in new])]
            check_rows(rows)


def rounds_alike() -> bool:
    """Whether torch's kernels on this processor round a row the same in batches of many sizes."""
    rows, square, tall = torch.randn(300, 128), torch.randn(128, 128), torch.randn(960, 32)
    wide = torch.nn.functional.pad(torch.randn(4, 190), (0, 770))
    products = [wide[:, :width].contiguous() @ tall[:width] for width in (192, 384, 576, 960)]
    return all(torch.equal(each, products[0]) for each in products) and all(
        torch.equal(rows[:count] @ square, (rows @ square)[:count]) for count in (4, 5, 7, 31, 100)
    )


@pytest.mark.skipif(not rounds_alike(), reason="this processor's kernels round by batch size")
@pytest.mark.parametrize("name", MAKERS)
def test_what_else_is_in_the_batch_changes_no_bit(name: str):
    model = vlm(name)
    texts = ["hi", "What does the sign say?", "It says 42, red, green and blue. " * 30]
    images = [
        picture(IMAGES, number, 80, 60 + number) for number in range(2)
    ]  # of 4 tokens or more
    prompts = [ask(text, *images[:count]) for text in texts for count in range(3)]
    assert len({len(model.chat.encode(prompt).ids) > 192 for prompt in prompts}) == 2

    def chat(parts: Sequence[Sequence[int]], **more: Any) -> dict[int, list[Completion]]:
        said: dict[int, list[Completion]] = {}
        for part in parts:
            policy = TransformersPolicy(model, Sampling(max_new_tokens=12, keyed=True), **more)
            first = replies(policy, [prompts[number] for number in part])
            goes_on = [
                append(prompts[number], reply, "Look. " * number, images[1])
                for number, reply in zip(part, first, strict=True)
            ]
            for number, *both in zip(part, first, replies(policy, goes_on), strict=True):
                said[number] = both
        return said

    everything = list(range(len(prompts)))
    alone = chat([[number] for number in everything])
    assert chat([everything]) == alone
    assert chat([everything[::-1]], batch_size=2) == alone
    assert chat([everything[::3], everything[1::3], everything[2::3]]) == alone


def test_short_prompts_are_not_filled_up_to_a_long_one_s_length(model: VisionLanguageModel):
    prompts = [*(ask(f"{number} is it?") for number in range(20)), ask("It says 42. " * 40)]
    with counted(model) as counts:
        answers = replies(policy_of(model, max_new_tokens=1), prompts)
    lengths = [len(each.prompt_ids or ()) for each in answers]
    assert counts["tokens"] <= filled(lengths[-1]) + 20 * filled(max(lengths[:-1]))
    for prompt, answer in zip(prompts, answers, strict=True):
        check(model, prompt, answer)


def test_what_is_forgotten_holds_no_memory_but_rows_stay(model: VisionLanguageModel):
    batch = Decoder(model, keep=100)
    batch.join([model.chat.encode(ask("hi")), model.chat.encode(ask("What?"))])
    batch.leave([0])
    batch.forget()
    assert batch._prefixes.size == 0
    assert batch._slots._memory.numel()
    batch.leave([0])
    batch.forget()
    assert not batch._slots._memory.numel()


def test_many_new_prompts_are_computed_in_several_passes(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoder, "_PASS_TOKENS", 500)
    prompts = [ask(f"{number} What does the sign say?", *PICTURES[:1]) for number in range(40)]
    with counted(model) as counts:
        answers = replies(policy_of(model, max_new_tokens=1), prompts)
    assert 400 * (counts["passes"] - 1) < counts["tokens"] <= 500 * counts["passes"]
    for prompt, answer in zip(prompts, answers, strict=True):
        check(model, prompt, answer)


def test_layers_that_do_not_see_all_are_refused_by_name():
    model = tiny_vlm(IMAGES)
    model.core.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UserError, match=r"qwen2_5_vl.*sliding_attention"):
        policy_of(model)
