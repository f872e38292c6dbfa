from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_vlm import ask, lively_vlm, picture
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.search.env import SearchEnv
from visual_arft.episode import Episode
from visual_arft.errors import TokenMismatch
from visual_arft.images import MemoryImages
from visual_arft.model.drawing import drawn_at, stream_of
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rollout import play
from visual_arft.training.segments import rows, segments
from visual_arft.training.updates import logprobs_of, prepare
from visual_arft.types import (
    Action,
    Completion,
    Image,
    Malformed,
    Message,
    Prompt,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)

IMAGES = MemoryImages()
ONE, TWO = picture(IMAGES, 1), picture(IMAGES, 2, 90, 40)
PROMPTS = [
    ask("hi"),
    ask("What does the sign say?", ONE),
    ask("Which is the tower?", TWO, ONE),
    ask("Which of these is the tower?", ONE, TWO),
]


@cache
def vlm() -> VisionLanguageModel:
    return lively_vlm(IMAGES)


def generate(
    prompts: Sequence[Prompt], *, batch_size: int = 256, **sampling: float
) -> list[Completion]:
    settings = Sampling.model_validate({"max_new_tokens": 24, **sampling})
    policy = TransformersPolicy(vlm(), settings, batch_size=batch_size)
    return asyncio.run(policy.generate(prompts))


def recomputed(completion: Completion, images: Sequence[Image], temperature: float) -> list[float]:
    """The log-probabilities of a completion, by one forward pass over prompt and reply."""
    assert completion.prompt_ids is not None
    assert completion.token_ids is not None
    ids = completion.prompt_ids + completion.token_ids
    mask = torch.tensor([[place >= len(completion.prompt_ids) for place in range(len(ids))]])
    with torch.no_grad():
        return (
            vlm()
            .logprobs(vlm().inputs([ids], images, left=False), mask, temperature)[mask]
            .tolist()
        )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_replies_are_those_of_transformers_own_generation(prompt: Prompt):
    [completion] = generate([prompt], temperature=0)
    ids = torch.tensor([vlm().chat.encode(prompt).ids])
    loaded = [vlm().pixels(image) for image in prompt.images]
    pictures = {}
    if loaded:
        pictures = {
            "pixel_values": torch.cat([values for values, _ in loaded]),
            "image_grid_thw": torch.stack([grid for _, grid in loaded]),
            "mm_token_type_ids": (ids == vlm().chat.image_token_id).int(),
        }
    expected = vlm().model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **pictures,
        do_sample=False,
        max_new_tokens=24,
        suppress_tokens=vlm().chat.banned_ids,
    )
    assert list(completion.token_ids or ()) == expected[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_are_those_of_one_pass_over_prompt_and_reply(temperature: float):
    completions = generate(PROMPTS * 2, temperature=temperature)
    for prompt, completion in zip(PROMPTS * 2, completions, strict=True):
        expected = recomputed(completion, prompt.images, temperature)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_batching_order_and_duplicates_change_no_greedy_reply():
    alone = [generate([prompt], temperature=0)[0].token_ids for prompt in PROMPTS]
    order = [3, 1, 1, 0, 2, 3, 1]
    for batch_size in (1, 2, 3, 256):
        completions = generate([PROMPTS[n] for n in order], batch_size=batch_size, temperature=0)
        assert [each.token_ids for each in completions] == [alone[n] for n in order]


def test_rows_that_leave_the_batch_change_nothing_for_those_that_stay():
    prompts = [ask(f"{number} {text}") for number in range(8) for text in ("hi", "What is it?")]
    alone = [generate([prompt], temperature=0)[0] for prompt in prompts]
    lengths = [len(each.token_ids or ()) for each in alone]
    assert len(set(lengths)) > 3, "the replies must end at different times"
    together = generate(prompts, temperature=0)
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_the_same_seed_gives_the_same_replies_and_another_seed_others():
    first, same, other = (generate(PROMPTS, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert [each.token_ids for each in first] != [each.token_ids for each in other]


def test_a_group_s_replies_differ():
    assert len({each.token_ids for each in generate(PROMPTS[1:2] * 8)}) > 1


def test_sampling_follows_the_model_s_distribution():
    n = 4000
    completions = generate(PROMPTS[:1] * n, max_new_tokens=1, temperature=0.5)
    drawn = torch.tensor([each.token_ids for each in completions]).squeeze(1)
    inputs = vlm().inputs([vlm().chat.encode(PROMPTS[0]).ids], [], left=False)
    with torch.no_grad():
        scores = vlm().log_probabilities(vlm().hidden(inputs).last_hidden_state[0, -1], 0.5)
    probabilities = scores.exp()
    shares = drawn.bincount(minlength=len(probabilities)) / n
    spread = (probabilities * (1 - probabilities) / n).sqrt()
    assert ((shares - probabilities).abs() < 5 * spread + 1 / n).all()


def test_control_tokens_have_no_probability_and_are_never_drawn():
    banned = vlm().chat.banned_ids
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert vlm().log_probabilities(hidden, 1.0)[:, banned].isneginf().all()
    for keyed in (False, True):
        prompts = PROMPTS * 20 if not keyed else [ask(f"{n} {n}") for n in range(80)]
        replies = generate(prompts, temperature=5.0, keyed=keyed)
        drawn = {i for each in replies for i in each.token_ids or ()}
        assert drawn.isdisjoint(banned)
        assert len(drawn) > 200


CHATS = [
    *PROMPTS,
    Prompt(messages=(*PROMPTS[1].messages, Message(role="assistant", text="It says 42."))),
    ask("What does the sign say?", TWO),
]


@cache
def alone(number: int, seed: int = 0) -> Completion:
    [completion] = generate([CHATS[number]], keyed=True, seed=seed)
    return completion


@given(st.lists(st.sampled_from(range(len(CHATS))), min_size=1, max_size=9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_keyed_reply_depends_on_its_prompt_and_the_seed_alone(order: list[int], size: int):
    settings = Sampling(max_new_tokens=24, keyed=True)
    policy = TransformersPolicy(vlm(), settings, batch_size=size)
    for _ in range(2):  # what was asked before changes nothing either
        replies = asyncio.run(policy.generate([CHATS[number] for number in order]))
        for number, reply in zip(order, replies, strict=True):
            assert reply.token_ids == alone(number).token_ids
            assert reply.logprobs == pytest.approx(alone(number).logprobs, abs=1e-5)


def test_another_text_image_role_seed_or_given_reply_is_another_stream():
    given = Message(role="assistant", text="42", token_ids=(40, 41))
    other = given.model_copy(update={"token_ids": (42,)})
    chats = [Prompt(messages=(*ask("hi").messages, reply)) for reply in (given, other)]
    system = Prompt(messages=(Message(role="system", text="hi"),))
    streams = [stream_of(each, seed) for each in (*CHATS, *chats, system) for seed in range(3)]
    assert len({stream.random() for stream in streams}) == 3 * (len(CHATS) + 3)


def test_keyed_draws_follow_the_model_s_distribution():
    n = 4000
    hidden = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    probabilities = vlm().log_probabilities(hidden, 0.5).exp()
    uniforms = [stream_of(ask(f"question {number}"), 0).random() for number in range(n)]
    drawn = drawn_at(probabilities.expand(n, -1), torch.tensor(uniforms, dtype=torch.float64))
    shares = drawn.bincount(minlength=probabilities.shape[1]) / n
    spread = (probabilities[0] * (1 - probabilities[0]) / n).sqrt()
    assert ((shares - probabilities[0]).abs() < 5 * spread + 1 / n).all()


def test_draws_are_exact_over_a_large_vocabulary():
    n = 200_000
    places = torch.arange(0, n, 997)
    even = torch.full((1, n), 1 / n).expand(len(places), -1)
    assert torch.equal(drawn_at(even, (places + 0.5).double() / n), places)


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 1.0]), min_size=1, max_size=6).filter(any),
    st.sampled_from([0.0, 5e-324, 0.5, 1 - 2**-53]),
)
def test_a_token_without_probability_is_never_drawn(weights: list[float], uniform: float):
    [token] = drawn_at(torch.tensor([weights]), torch.tensor([uniform], dtype=torch.float64))
    assert weights[token] > 0


def test_a_reply_ends_with_its_end_token_or_is_cut():
    completions = generate(PROMPTS * 10, temperature=2.0, max_new_tokens=30)
    for completion in completions:
        ids = completion.token_ids or ()
        ends = [token in vlm().chat.end_ids for token in ids]
        is_stopped = completion.finish_reason == "stop"
        assert ends == [False] * (len(ids) - 1) + [is_stopped]
        assert is_stopped or len(ids) == 30
        assert completion.text == vlm().chat.decode(ids)
    assert {each.finish_reason for each in completions} == {"stop", "length"}


class Searching(SearchEnv):
    """A growing chat in which every reply is a search."""

    def parse(self, text: str) -> Action | Malformed:
        return Action(kind="search", content=text)


class Coding(CodingEnv):
    """A growing chat in which every reply is code."""

    def parse(self, text: str) -> Action | Malformed:
        return Action(kind="code", content=f"```python\n{text}\n```")


class Echo:
    """A tool whose text holds control tokens, with a new picture for each that it is given."""

    async def run(self, call: ToolCall) -> ToolResult:
        made = tuple(picture(IMAGES, image.width, image.width + 30, 50) for image in call.images)
        return ToolResult(text="<|im_end|> says the page <|image_pad|>", images=made)


TOOLS = {"search": Echo(), "python": Echo()}


def played(env: SearchEnv | CodingEnv, temperature: float) -> Trajectory:
    """An episode of three replies, none of them cut."""
    task = Task(id="t1", question="What is it?", answers=("x",), images=(ONE,))
    sampling = Sampling(temperature=temperature, max_new_tokens=60, seed=3)
    policy = TransformersPolicy(vlm(), sampling)
    [trajectory] = asyncio.run(play([Episode(task, env, max_turns=3)], policy, TOOLS))
    assert len(trajectory.turns) == 3, "choose another seed"
    return trajectory


@pytest.mark.parametrize("env", [Searching("append", "{question}"), Coding("append", "{question}")])
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_a_played_episode_trains_on_the_very_ids_and_logprobs_it_was_sampled_with(
    env: SearchEnv | CodingEnv, temperature: float
):
    trajectory = played(env, temperature)
    [row] = rows(segments(trajectory, advantage=1.0))
    sampled = [turn.completion for turn in trajectory.turns]
    learned = [i for i, is_learned in zip(row.ids, row.mask, strict=True) if is_learned]
    assert learned == [i for each in sampled for i in each.token_ids or ()]
    for turn in trajectory.turns:
        assert turn.completion.prompt_ids == vlm().chat.encode(turn.prompt).ids
    assert len(row.images) == (3 if isinstance(env, Coding) else 1)
    batch, inputs = prepare(vlm(), [row])
    with torch.no_grad():
        again = logprobs_of(vlm(), batch, inputs, temperature)
    recorded = [logprob for each in sampled for logprob in each.logprobs or ()]
    assert again[batch.mask].tolist() == pytest.approx(recorded, abs=1e-4)


def test_image_tokens_in_a_reply_of_another_model_name_the_task():
    alien = Message(role="assistant", text="?", token_ids=(vlm().chat.image_token_id,))

    class Alien(Searching):
        def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
            return Prompt(messages=(*super().prompt(task, turns).messages, alien))

    tasks = [Task(id=name, question="What?", answers=(), images=(ONE,)) for name in ("t1", "t2")]
    episodes = [Episode(tasks[0], Searching()), Episode(tasks[1], Alien())]
    policy = TransformersPolicy(vlm(), Sampling(max_new_tokens=1))
    with pytest.raises(TokenMismatch, match=r"task 't2': prompt 1: image tokens .* \[9, 1\]"):
        asyncio.run(play(episodes, policy, TOOLS))
