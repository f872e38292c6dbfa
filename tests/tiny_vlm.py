"""A tiny model with random weights, and pictures: what the tests of model, policy and training use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_arft.episode import Episode
from visual_arft.images import Images, MemoryImages, encode
from visual_arft.model.tiny import build_image_processor, build_model, build_tokenizer
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rewards import Scores
from visual_arft.rollout import play
from visual_arft.training.segments import Row, rows, segments
from visual_arft.types import (
    Action,
    Image,
    Malformed,
    Message,
    Prompt,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)

PHRASES = [
    "<think>I look.</think><search>who built the tower</search>",
    "<think>I know.</think><answer>Gustave Eiffel</answer>",
    "<information> 1. Content:The tower was built by Gustave Eiffel. </information>",
    "What does the sign say? It says 42, red, green and blue.",
]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(PHRASES * 20, 400)


def tiny_vlm(
    images: Images | None = None, *, seed: int = 0, hidden: int = 32
) -> VisionLanguageModel:
    """A new model each time: to train one must not change another."""
    model = build_model(tokenizer(), seed=seed, hidden=hidden, layers=2).eval()
    return VisionLanguageModel(
        model, tokenizer(), build_image_processor(), MemoryImages() if images is None else images
    )


def tiny_qwen3(images: Images | None = None, *, seed: int = 0) -> VisionLanguageModel:
    """The same of Qwen3-VL: vision features go into several layers, and pixels are scaled to it."""
    special = tokenizer().convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer()),
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer().eos_token_id,
            "pad_token_id": tokenizer().pad_token_id,
            "initializer_range": 0.06,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
            "initializer_range": 0.06,
        },
        tie_word_embeddings=True,
        image_token_id=special("<|image_pad|>"),
        video_token_id=special("<|video_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config).eval()
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}, patch_size=16
    )
    return VisionLanguageModel(
        model, tokenizer(), processor, MemoryImages() if images is None else images
    )


def lively_vlm(images: Images | None = None, *, seed: int = 2) -> VisionLanguageModel:
    """One with an output head of its own: its replies vary and end, where a tied one repeats."""
    return lively(tiny_vlm(images, seed=seed))


def lively(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """The model with an output head of its own."""
    config, head = vlm.model.config, vlm.model.lm_head
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    weight = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)) / 2
    weight[vlm.tokenizer.eos_token_id] *= 2
    head.weight = torch.nn.Parameter(weight)
    return vlm


def picture(images: Images, number: int, width: int = 40, height: int = 40) -> Image:
    """A picture of coloured noise, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return images.add(encode(pixels))


def ask(text: str, *images: Image) -> Prompt:
    return Prompt(messages=(Message(role="user", text=text, images=images),))


class FreeEnv:
    """A game without rules: one turn, and whatever the policy says is its answer."""

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        return ask(task.question, *task.images)

    def parse(self, text: str) -> Action | Malformed:
        return Action(kind="answer", content=text)

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        return None


def reward_of(score: Callable[[str], float]) -> Callable[[Trajectory], Scores]:
    """What a finished episode earns, as a function of its last reply."""

    def scores(trajectory: Trajectory) -> Scores:
        total = score(trajectory.turns[-1].completion.text)
        return Scores(rewards={"text": total}, total=total)

    return scores


def sampled_rows(vlm: VisionLanguageModel, advantages: Sequence[float], seed: int = 0) -> list[Row]:
    """A row for each advantage, of a reply that the model sampled; every other one has a picture."""
    tasks = [
        Task(
            id=f"t{number}",
            question="What is it? " * (1 + number % 3),
            answers=(),
            images=(picture(vlm.images, number, 40, 60),) if number % 2 else (),
        )
        for number in range(len(advantages))
    ]
    policy = TransformersPolicy(vlm, Sampling(max_new_tokens=12, seed=seed))
    played = asyncio.run(play([Episode(task, FreeEnv()) for task in tasks], policy, {}))
    pairs = zip(played, advantages, strict=True)
    return [row for each, advantage in pairs for row in rows(segments(each, advantage))]


class KeepingFloat64(TorchFunctionMode):
    """Within it a float64 model stays one: transformers rounds to float32 inside norms."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        narrows = func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in args)
        if narrows and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))
