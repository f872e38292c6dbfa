"""From a name to a model that samples and trains: the embedded base, a folder or a hub id."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.utils.peft_utils import find_adapter_config_file

from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.model.settings import TINY, ModelConfig
from visual_arft.model.vlm import VisionLanguageModel

SUPPORTED = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""The types of models that sample and train here, as transformers calls them, and their names."""

LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises where a folder or hub id does not hold what is asked for."""

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


def is_supported(config: ModelConfig) -> bool:
    """Whether `load` takes a model: by the type in its config.json, before weights are read."""
    if config.path == TINY:
        return True
    try:
        find(config.path)
        found, _ = PreTrainedConfig.get_config_dict(base_of(config.path))
        if not found:
            raise OSError("there is no config.json")
    except LOADING_ERRORS as error:
        raise UserError(
            f"{config.path}: not a model that transformers can load ({why(error)}); give "
            f"'{TINY}', a folder saved by save_pretrained, or a hub id"
        ) from None
    return found.get("model_type") in SUPPORTED


def _load(
    config: ModelConfig, path: str, images: Images, seed: int, checkpoint: Path | None
) -> VisionLanguageModel:
    if checkpoint is not None:
        _check_kind(checkpoint, config.lora_rank)
        path = path if config.lora_rank else str(checkpoint)
    device = device_of(config.device)
    model, tokenizer, processor = _parts(path, getattr(torch, config.dtype))
    _limit_pixels(processor, config.max_pixels)
    if config.freeze_vision:
        model.model.visual.requires_grad_(False)
    if config.lora_rank:
        model = _with_lora(model, config.lora_rank, seed, checkpoint)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.to(device)
    model.eval()
    return VisionLanguageModel(model, tokenizer, processor, images)


def _parts(path: str, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor of a folder or hub id."""
    try:
        find(path)
        processor: Any = AutoImageProcessor.from_pretrained(path, backend="pil")
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa"
        )
    except LOADING_ERRORS as error:
        raise UserError(
            f"{path}: not a vision-language model that transformers can load ({why(error)}); give "
            f"'{TINY}', a folder saved by save_pretrained, or a hub id"
        ) from None
    if model.config.model_type not in SUPPORTED:
        *names, last = SUPPORTED.values()
        raise UserError(
            f"{path}: a model of the type {model.config.model_type!r} is not supported; give a "
            f"{', '.join(names)} or {last} folder or hub id"
        )
    return model, tokenizer, processor


def why(error: Exception) -> str:
    """The first line of what an error of transformers says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def base_of(path: str) -> str:
    """Where a model's config.json is: a path itself, or the base of its LoRA weights."""
    adapter = find_adapter_config_file(path)
    if adapter is None:
        return path
    return json.loads(Path(adapter).read_bytes())["base_model_name_or_path"]


def find(path: str) -> None:
    """Raises `OSError` for a path that is neither here nor on the hub.

    Asks once: transformers asks again and again for each file, for minutes where there is no
    network.
    """
    if Path(path).is_dir() or isinstance(try_to_load_from_cache(path, "config.json"), str):
        return
    try:
        HfApi().model_info(path, timeout=10)
    except Exception as error:  # whichever library the hub's client speaks HTTP with
        raise OSError(f"no such folder, and on the hub: {error}") from None


def _check_kind(checkpoint: Path, lora_rank: int) -> None:
    """Raises `UserError` where a checkpoint holds LoRA weights and a config wants all, or else."""
    if (checkpoint / _ADAPTER).is_file() != bool(lora_rank):
        held, remedy = ("all", "to 0") if lora_rank else ("LoRA", "above 0")
        raise UserError(
            f"{checkpoint}: the checkpoint holds {held} weights, but lora_rank is {lora_rank}; "
            f"set it {remedy}, as in the run that left it, or start in another folder"
        )


def _with_lora(model: Any, rank: int, seed: int, checkpoint: Path | None) -> Any:
    # Made on the CPU, where a generator of our own can be lent to PEFT for its random weights.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if checkpoint is not None:
            return PeftModel.from_pretrained(
                model, str(checkpoint), is_trainable=True, torch_device="cpu"
            )
        # The language model only: servers that load LoRA weights for such models know no others.
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)


def _limit_pixels(processor: Any, max_pixels: int) -> None:
    """Lowers a processor's largest image area; its own limit stays where it is smaller."""
    size = dict(processor.size)
    size["longest_edge"] = min(size["longest_edge"], max_pixels)
    size["shortest_edge"] = min(size["shortest_edge"], size["longest_edge"])
    processor.size = type(processor.size)(**size)


def device_of(name: str) -> torch.device:
    """The device of a name; raises `UserError` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is not known; give auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs here; give auto or cpu"
        )
    return device
