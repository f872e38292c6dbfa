"""The GPU's way to attend along a tree: one row under a block mask, by FlexAttention.

The mask is one comparison against where each token's branch ends. Which of its blocks are full,
mixed or empty is read off those intervals, so no mask as large as the row squared is ever made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from visual_arft.training.tree import Tree

BLOCK = 128
"""Tokens on a side of a block, the kernel's own size."""


class PackedAttention:
    """Attention along one tree in one call: FlexAttention on a GPU, elsewhere a dense mask."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self._ends = tree.ends.to(device)
        self._mask = block_mask(self._ends) if device.type == "cuda" else dense_mask(self._ends)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """What each token of the line sees on its path; all are 1 x head x line x dim."""
        if isinstance(self._mask, BlockMask):
            return _compiled()(
                query, key, value, block_mask=self._mask, scale=scale, enable_gqa=True
            )
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self._mask, scale=scale, enable_gqa=True
        )


def dense_mask(ends: Tensor) -> Tensor:
    """True where a token (row) looks at another (column)."""
    places = torch.arange(len(ends), device=ends.device)
    return _is_above(ends, places[:, None], places[None, :])


def block_mask(ends: Tensor) -> BlockMask:
    """The same mask in blocks: those that are empty are skipped, those that are full not masked."""
    count = -(-len(ends) // BLOCK)
    filled = torch.nn.functional.pad(ends, (0, count * BLOCK - len(ends)))
    earliest, latest = filled.view(count, BLOCK).aminmax(dim=1)
    starts = torch.arange(count, device=ends.device) * BLOCK
    is_before = starts[:, None] > starts[None, :]
    is_full = is_before & (earliest[None, :] >= starts[:, None] + BLOCK)
    is_seen = is_before & (latest[None, :] > starts[:, None])
    is_mixed = (is_seen & ~is_full) | torch.eye(count, dtype=torch.bool, device=ends.device)

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _is_above(filled, query, key)

    return BlockMask.from_kv_blocks(
        *_listed(is_mixed),
        *_listed(is_full),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(len(ends), len(ends)),
    )


def _is_above(ends: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & (query < ends[key])


def _listed(is_member: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of blocks how many are members, and which: members first."""
    order = is_member.int().argsort(dim=1, descending=True, stable=True).int()
    return is_member.sum(dim=1).int()[None, None], order[None, None]


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)
