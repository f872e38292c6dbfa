"""From a name to a model that samples and trains: the embedded base, a folder or a hub id."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.model.settings import ModelConfig
from visual_arft.model.vlm import VisionLanguageModel

TINY = "tiny"
"""The name of the base that the package carries."""

_ADAPTER = "adapter_config.json"


def load(
    config: ModelConfig, images: Images, *, seed: int = 0, checkpoint: Path | None = None
) -> VisionLanguageModel:
    """The model a config names, ready to train.

    Args:
        config: which model and what of it learns.
        images: where the bytes behind an `Image` are found.
        seed: of fresh LoRA weights.
        checkpoint: a checkpoint of this model to go on from: weights, or LoRA weights.
    """
    if config.path == TINY:
        with as_file(files("visual_arft.model") / "base") as folder:
            return _load(config, str(folder), images, seed, checkpoint)
    return _load(config, config.path, images, seed, checkpoint)


def _load(
    config: ModelConfig, path: str, images: Images, seed: int, checkpoint: Path | None
) -> VisionLanguageModel:
    if checkpoint is not None and not config.lora_rank:
        path = str(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, config.dtype), attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path}: not a vision-language model that transformers can load ({first}); give "
            f"'{TINY}', a folder saved by save_pretrained, or a hub id"
        ) from None
    _limit_pixels(processor, config.max_pixels)
    model.to(_device(config.device))
    if config.freeze_vision:
        model.model.visual.requires_grad_(False)
    if config.lora_rank:
        model = _with_lora(model, config.lora_rank, seed, checkpoint)
    model.eval()
    return VisionLanguageModel(model, tokenizer, processor, images)


def _with_lora(model: Any, rank: int, seed: int, checkpoint: Path | None) -> Any:
    if checkpoint is not None and (checkpoint / _ADAPTER).is_file():
        return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    # The language model only: servers that load LoRA weights for such models know no others.
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _limit_pixels(processor: Any, max_pixels: int) -> None:
    """Lowers a processor's largest image area; its own limit stays where it is smaller."""
    size = dict(processor.size)
    size["longest_edge"] = min(size["longest_edge"], max_pixels)
    size["shortest_edge"] = min(size["shortest_edge"], size["longest_edge"])
    processor.size = type(processor.size)(**size)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
