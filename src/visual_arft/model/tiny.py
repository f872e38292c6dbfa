"""A tiny model of transformers' own Qwen2.5-VL class, its tokenizer and its image processor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

END = "<|im_end|>"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
SIDE = 84
"""Every image is scaled to about the area of a square of this side: 36 patches, 9 tokens."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's chat format without a default system message."""


_ALONE = r"\n|\d|</?[a-z]+>|[A-Z](?=[aeiou](?![a-z]))|(?<=[A-Z])[aeiou](?![a-z])"
"""Line ends, digits, tags, and the letters of capitalised syllables."""


def build_tokenizer(
    corpus: Iterable[str], vocab_size: int, words: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be written, the corpus' own phrases are short.

    Digits stand alone, as in Qwen's tokenizer, and so do the grammar's tags, the letters of
    generated names and `words`: what a model has to find again is the same token wherever it
    stands, and there are few of them to learn.
    """
    alone = "|".join([_ALONE, *(f" ?{word}(?![a-z])" for word in words)])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(alone), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Scales every image, a crop as well, to the area that the tiny model sees."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    )


def build_model(tokenizer: Any, *, seed: int, hidden: int = 128, layers: int = 4) -> Any:
    """Random weights; the initial spread is wider than the default, which is for wide models."""
    special = tokenizer.convert_tokens_to_ids
    settings: dict[str, Any] = {
        "text_config": {
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": _sections(hidden // 4),
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": special(END),
            "pad_token_id": special(SPECIAL[0]),
            "initializer_range": 0.06,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.06,
        },
        "tie_word_embeddings": True,
        "image_token_id": special("<|image_pad|>"),
        "video_token_id": special("<|video_pad|>"),
        "vision_start_token_id": special("<|vision_start|>"),
        "vision_end_token_id": special("<|vision_end|>"),
        "initializer_range": 0.06,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))


def _sections(head: int) -> list[int]:
    """How many rotary frequencies time, height and width get: a quarter, the rest halved."""
    half = head // 2
    time = half // 4
    return [time, (half - time) // 2, half - time - (half - time) // 2]
