"""Tiny models of families that do not train here, saved as their makers would leave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tiny_vlm import PHRASES
from visual_arft.model.tiny import TEMPLATE as QWEN

LLAVA = (
    "{% for m in messages %}{{ m.role.upper() }}: "
    "{% for part in m.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
IDEFICS = (
    "{% for m in messages %}<|im_start|>{{ m.role | capitalize }}:"
    "{% for part in m.content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for part in m.content %}"
    "{{ part.text | trim if part.type == 'text' else '<start_of_image>' }}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content | trim }} [/INST]{% endfor %}"

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def build_tokenizer(
    special: Sequence[str], template: str, *, end: str, start: str | None = None, **more: Any
) -> PreTrainedTokenizerFast:
    """One that starts what is tokenised with `start`, where it is told to add special tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(PHRASES * 20, trainer)
    if start is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, special.index(start))]
        )
        more["bos_token"] = start
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=end, chat_template=template, **more
    )


def llava(folder: Path) -> None:
    """A family whose placeholder is no special token."""
    special = ["<s>", "</s>", "<pad>"]
    tokenizer = build_tokenizer(special, LLAVA, start="<s>", end="</s>", pad_token="<pad>")
    tokenizer.add_tokens(AddedToken("<image>", special=False))
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **VISION, image_size=28, patch_size=14, projection_dim=16
        ).to_dict(),
        text_config=LlamaConfig(**text_config(tokenizer)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    save(folder, LlavaForConditionalGeneration(config), processor, tokenizer)


def idefics3(folder: Path) -> None:
    special = ["<|im_start|>", "<end_of_utterance>", "<pad>", "<image>"]
    special += ["<fake_token_around_image>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = build_tokenizer(
        special, IDEFICS, end="<end_of_utterance>", pad_token="<pad>",
        extra_special_tokens=special[3:],
    )  # fmt: skip
    config = Idefics3Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config=LlamaConfig(**text_config(tokenizer)).to_dict(),
        image_token_id=3,
        pad_token_id=2,
        scale_factor=2,
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS,
    )
    save(folder, Idefics3ForConditionalGeneration(config), processor, tokenizer)


def gemma3(folder: Path) -> None:
    special = ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    names = dict(zip(("boi_token", "eoi_token", "image_token"), special[5:], strict=True))
    tokenizer = build_tokenizer(
        special, GEMMA, start="<bos>", end="<eos>", pad_token="<pad>", extra_special_tokens=names
    )
    more = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
    config = Gemma3Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8, "vision_use_head": False},
        text_config={**text_config(tokenizer), **more},
        mm_tokens_per_image=4,
        boi_token_index=5,
        eoi_token_index=6,
        image_token_index=7,
        tie_word_embeddings=False,
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=4,
        chat_template=GEMMA,
    )
    model = Gemma3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = [1, 4]
    save(folder, model, processor, tokenizer)


def qwen2(folder: Path) -> None:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = build_tokenizer(
        special, QWEN, end="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    save(folder, Qwen2ForCausalLM(Qwen2Config(**text_config(tokenizer))), tokenizer, tokenizer)


def llama(folder: Path) -> None:
    """A tokenizer without a token to fill up with, that tells more than the model takes."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = build_tokenizer(
        ["<s>", "</s>"], LLAMA, start="<s>", end="</s>", model_input_names=names
    )
    save(folder, LlamaForCausalLM(LlamaConfig(**text_config(tokenizer))), tokenizer, tokenizer)


SEEING: dict[str, Callable[[Path], None]] = {
    "llava": llava, "idefics3": idefics3, "gemma3": gemma3,
}  # fmt: skip
READING: dict[str, Callable[[Path], None]] = {"qwen2": qwen2, "llama": llama}


def text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer) + 3,  # real models have more rows than tokens, too
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save(folder: Path, model: Any, processor: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Leaves a model whose replies vary and end."""
    head = model.get_output_embeddings().weight
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) / 2
    noise[tokenizer.eos_token_id] *= 2
    head.data.copy_(noise)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
