"""What can be set about a model: data, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from visual_arft.types import Record

TINY = "tiny"
"""The name of the base that the package carries."""


class ModelConfig(Record):
    """Which model is trained, and what of it."""

    path: str = TINY
    """`tiny` (the embedded base), a folder saved by transformers, or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`…"""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters on the language model; 0 trains every weight."""
    freeze_vision: bool = False
    """Leave the vision tower as it is."""
    gradient_checkpointing: bool = False
    """Compute layers a second time in the backward pass: less memory, a third more time."""
    max_pixels: Annotated[int, Field(ge=1)] = 401_408
    """Largest image area the policy sees; larger images are scaled down. The paper's value."""
