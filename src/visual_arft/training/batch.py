"""Rows as tensors of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visual_arft.training.segments import Row
from visual_arft.types import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Rows side by side, filled up on the right."""

    ids: Int[Tensor, "row tok"]
    is_token: Bool[Tensor, "row tok"]
    """False on the filling."""
    mask: Bool[Tensor, "row tok"]
    """True where the policy wrote the token."""
    old_logprobs: Float[Tensor, "row tok"]
    """Under the policy that sampled; 0.0 outside the mask."""
    advantages: Float[Tensor, " row"]
    images: tuple[tuple[Image, ...], ...]
    """Of each row, in the order of their placeholders."""
    task_ids: tuple[str, ...]
    """Of each row, for errors to name."""


def pad(rows: Sequence[Row], pad_id: int) -> Batch:
    """The rows as one batch, as long as the longest of them."""
    width = max(len(row.ids) for row in rows)
    return Batch(
        ids=torch.tensor([_filled(row.ids, pad_id, width) for row in rows]),
        is_token=torch.tensor([_filled([True] * len(row.ids), False, width) for row in rows]),
        mask=torch.tensor([_filled(row.mask, False, width) for row in rows]),
        old_logprobs=torch.tensor([_filled(row.old_logprobs, 0.0, width) for row in rows]),
        advantages=torch.tensor([row.advantage for row in rows]),
        images=tuple(row.images for row in rows),
        task_ids=tuple(row.task_id for row in rows),
    )


def _filled(values: Sequence[T], filling: T, width: int) -> list[T]:
    return [*values, *[filling] * (width - len(values))]
