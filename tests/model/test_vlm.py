from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tiny_vlm import ask, picture, tiny_vlm, tokenizer
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.types import Image

IMAGES = MemoryImages()
sides = st.integers(1, 150)


@cache
def models() -> list[VisionLanguageModel]:
    """A tiny model whose images are scaled to one area, and one that leaves most as they are."""
    tiny = tiny_vlm(IMAGES)
    large = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112})
    return [tiny, VisionLanguageModel(tiny.model, tokenizer(), large, IMAGES)]


@given(sides, sides)
@settings(max_examples=25)
def test_an_image_of_any_size_gives_as_many_features_as_it_has_tokens(width: int, height: int):
    image = picture(IMAGES, 1, width, height)
    for vlm in models():
        [features] = vlm.features([image])["mm_encoder_outputs"]["image"].pooler_output
        assert len(features) == vlm.image_tokens(image)


@pytest.mark.parametrize("height", [1, 3])
def test_an_image_as_low_as_it_has_channels_is_not_turned_on_its_side(height: int):
    _, grid = models()[1].pixels(picture(IMAGES, 1, 100, height))
    assert grid[2] > grid[1]


def test_an_image_too_narrow_to_be_looked_at_is_refused():
    with pytest.raises(UserError, match=r"image .*: 1 x 300 pixels are too narrow .* 200 times"):
        models()[0].image_tokens(Image(sha256="a" * 64, width=1, height=300))


def test_padding_and_company_change_no_logprob():
    vlm, one, two = models()[0], picture(IMAGES, 1), picture(IMAGES, 2, 80, 40)
    prompts = [ask("hi"), ask("What is this?", one), ask("And which of these?", two, one)]
    rows = [vlm.chat.encode(prompt).ids for prompt in prompts]

    def scored(numbers: list[int], *, left: bool) -> list[torch.Tensor]:
        images = [image for number in numbers for image in prompts[number].images]
        inputs = vlm.inputs([rows[number] for number in numbers], images, left=left)
        mask = inputs.attention.bool()
        mask = mask & (mask.cumsum(1) > 1)  # before a row's first token stands nothing
        with torch.no_grad():
            logprobs = vlm.logprobs(inputs, mask, 1.0)
        return [row[learned] for row, learned in zip(logprobs, mask, strict=True)]

    alone = [scored([number], left=False)[0] for number in range(3)]
    for left in (True, False):
        for row, number in zip(scored([2, 0, 1], left=left), [2, 0, 1], strict=True):
            torch.testing.assert_close(row, alone[number], atol=1e-5, rtol=0)


def test_logprobs_are_zero_outside_the_mask_and_control_tokens_have_none():
    vlm = models()[0]
    banned = [token for token in vlm.chat.banned_ids if token != vlm.chat.image_token_id]
    ids = (*vlm.chat.encode(ask("hi")).ids, *banned)
    mask = torch.tensor([[place >= len(ids) - len(banned) for place in range(len(ids))]])
    logprobs = vlm.logprobs(vlm.inputs([ids], [], left=False), mask, 1.0)
    assert not logprobs[~mask].any()
    assert logprobs[mask].isneginf().all()


def test_weights_in_bfloat16_give_logprobs_in_float32_that_add_up_to_one():
    vlm = tiny_vlm(IMAGES)
    vlm.model.to(torch.bfloat16)
    prompt = ask("hi", picture(IMAGES, 1))
    inputs = vlm.inputs([vlm.chat.encode(prompt).ids], prompt.images, left=False)
    hidden = vlm.hidden(inputs).last_hidden_state
    assert hidden.dtype is torch.bfloat16
    scores = vlm.log_probabilities(hidden[:, -1], 1.0)
    assert scores.dtype is torch.float32
    assert scores.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_what_the_image_shows_and_what_is_asked_both_matter():
    vlm = models()[0]
    prompts = [
        ask("hi", picture(IMAGES, 1)),
        ask("hi", picture(IMAGES, 2)),
        ask("ho", picture(IMAGES, 1)),
    ]
    rows = [vlm.chat.encode(prompt).ids for prompt in prompts]
    images = [image for prompt in prompts for image in prompt.images]
    last = vlm.hidden(vlm.inputs(rows, images, left=True)).last_hidden_state[:, -1]
    assert torch.pdist(last).min() > 1e-3


def test_images_not_lately_used_are_forgotten_and_made_again(monkeypatch: pytest.MonkeyPatch):
    vlm = tiny_vlm(IMAGES)
    first = picture(IMAGES, 1)
    made, _ = vlm.pixels(first)
    monkeypatch.setattr("visual_arft.model.vlm._CACHED_BYTES", 2 * made.nbytes)
    for number in range(2, 5):
        vlm.pixels(picture(IMAGES, number))
    again, _ = vlm.pixels(first)
    assert again is not made
    assert torch.equal(again, made)
    assert vlm.pixels(first)[0] is again
