from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tiny_vlm import lively_vlm, picture, tiny_vlm
from visual_arft.envs.search.env import SearchEnv
from visual_arft.episode import Episode
from visual_arft.images import MemoryImages
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.tags import wrap
from visual_arft.training.cold_start import cold_start, demonstration_rows
from visual_arft.training.settings import ColdStartConfig, OptimizerConfig, TreeConfig
from visual_arft.types import Completion, Prompt, Task, ToolResult, Trajectory

IMAGES = MemoryImages()
ENV = SearchEnv("append", "{question}")
CONFIG = ColdStartConfig(
    steps=12,
    batch_size=4,
    optimizer=OptimizerConfig(lr=5e-3, warmup_steps=2),
)


def demonstration(number: int) -> Trajectory:
    """An episode as a teacher would play it: a search, then the answer."""
    image = picture(IMAGES, number % 4)
    task = Task(id=f"t{number}", question="Who built it?", answers=("Gustave",), images=(image,))
    episode = Episode(task, ENV)
    episode.act(Completion(text=wrap("I look.", "search", f"tower {number}")))
    episode.observe(ToolResult(text="1. Content:The tower was built by Gustave."))
    episode.act(Completion(text=wrap("I know.", "answer", "Gustave")))
    return episode.trajectory


def demonstrations(start: int, count: int) -> Sequence[Trajectory]:
    return [demonstration(number) for number in range(start, start + count)]


def run(vlm: VisionLanguageModel, config: ColdStartConfig = CONFIG) -> list[dict[str, float]]:
    return list(cold_start(vlm, demonstrations, config))


def test_the_loss_on_demonstrations_falls():
    numbers = run(tiny_vlm(IMAGES))
    assert [each["step"] for each in numbers] == list(range(1, 13))
    assert numbers[0]["lr"] == pytest.approx(5e-3 / 3)
    assert numbers[0]["loss"] > 5  # about log(399): nothing is known
    assert numbers[-1]["loss"] < numbers[0]["loss"] - 2


def test_no_demonstration_is_shown_twice():
    asked: list[tuple[int, int]] = []

    def recorded(start: int, count: int) -> Sequence[Trajectory]:
        asked.append((start, count))
        return demonstrations(start, count)

    config = CONFIG.model_copy(update={"steps": 3})
    list(cold_start(tiny_vlm(IMAGES), recorded, config))
    assert asked == [(0, 4), (4, 4), (8, 4)]


def test_the_same_start_gives_the_same_numbers_and_weights_and_no_global_generator_moves():
    # Not looked at: `random`, from which beartype draws when it checks shapes in these tests.
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one, other = tiny_vlm(IMAGES), tiny_vlm(IMAGES)
    assert run(one) == run(other)
    for left, right in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_it_is_the_same_as_a_tree_and_padded_in_one_part_or_several():
    padded, tree = TreeConfig(way="padded"), TreeConfig()
    ways = [
        {"tree": padded, "micro_batch_size": 4},
        {"tree": padded, "micro_batch_size": 1},
        {"tree": tree},
        {"tree": tree.model_copy(update={"pack_tokens": 120})},
    ]
    whole, *others = (
        run(tiny_vlm(IMAGES), CONFIG.model_copy(update={"steps": 1, **way}))[0] for way in ways
    )
    for other in others:
        assert other == pytest.approx(whole, rel=1e-4)


def test_computing_in_bfloat16_changes_little_and_leaves_the_weights_their_format():
    vlm = tiny_vlm(IMAGES)
    fast = run(vlm, CONFIG.model_copy(update={"autocast": True, "steps": 1}))
    exact = run(tiny_vlm(IMAGES), CONFIG.model_copy(update={"steps": 1}))
    assert fast[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02)
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.float32}


def test_a_growing_chat_is_one_row_that_teaches_every_reply_and_its_end():
    vlm = lively_vlm(IMAGES)
    shown = demonstration(1)
    [row] = demonstration_rows(shown, vlm.chat)
    learned = [i for i, is_learned in zip(row.ids, row.mask, strict=True) if is_learned]
    replies = [
        (*vlm.chat.tokenize(turn.completion.text), *vlm.chat.end_ids) for turn in shown.turns
    ]
    assert learned == [i for reply in replies for i in reply]
    assert row.images == shown.task.images


def test_a_reply_is_taught_after_the_very_ids_that_it_is_later_sampled_after():
    vlm = lively_vlm(IMAGES)
    shown = demonstration(1)
    [row] = demonstration_rows(shown, vlm.chat)
    reply = vlm.chat.tokenize(shown.turns[0].completion.text)
    said = (
        shown.turns[1]
        .prompt.messages[1]
        .model_copy(update={"token_ids": (*reply, *vlm.chat.end_ids)})
    )
    first, _, news = shown.turns[1].prompt.messages
    prompt = vlm.chat.encode(Prompt(messages=(first, said, news))).ids
    assert row.ids[: len(prompt)] == prompt
    assert row.mask[len(prompt) - 1 : len(prompt) + 1] == (False, True)
