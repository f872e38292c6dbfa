"""A tiny model with random weights, and pictures: what the tests of model, policy and training use."""

from __future__ import annotations

from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from visual_arft.images import Images, MemoryImages, encode
from visual_arft.model.tiny import build_image_processor, build_model, build_tokenizer
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.types import Image, Message, Prompt

PHRASES = [
    "<think>I look.</think><search>who built the tower</search>",
    "<think>I know.</think><answer>Gustave Eiffel</answer>",
    "<information> 1. Content:The tower was built by Gustave Eiffel. </information>",
    "What does the sign say? It says 42, red, green and blue.",
]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(PHRASES * 20, 400)


def tiny_vlm(images: Images | None = None, *, seed: int = 0, hidden: int = 32) -> VisionLanguageModel:
    """A new model each time: to train one must not change another."""
    model = build_model(tokenizer(), seed=seed, hidden=hidden, layers=2).eval()
    return VisionLanguageModel(
        model, tokenizer(), build_image_processor(), MemoryImages() if images is None else images
    )


def picture(images: Images, number: int, width: int = 40, height: int = 40) -> Image:
    """A picture of coloured noise, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return images.add(encode(pixels))


def ask(text: str, *images: Image) -> Prompt:
    return Prompt(messages=(Message(role="user", text=text, images=images),))
