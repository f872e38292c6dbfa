"""The CPU's way to attend along a tree: each run of tokens once for all that come after it.

A run's keys and values are read in place by everything below it, which depth first stands in one
interval: one call without a mask, where a batch of rows would repeat the run for each. What a token
sees of one run and of another is joined by the weights of their softmaxes, as when attention is
spread over machines; the backward pass needs only the joined result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visual_arft.training.tree import Tree, runs

_PIECE = 128
"""A run is cut to this many tokens: a causal call computes the half above its diagonal in vain."""


@dataclass(frozen=True)
class Block:
    """Tokens `first` up to `last` look at those from `start` to `stop`: at all, or causally.

    A causal block is a square on the diagonal.
    """

    first: int
    last: int
    start: int
    stop: int
    is_causal: bool = False


def blocks(tree: Tree) -> list[Block]:
    """Who looks at whom along a tree, each pair once; the causal squares cover the line."""
    squares: list[Block] = []
    others: list[Block] = []
    for run in runs(tree.ends):
        for start in range(run.start, run.stop, _PIECE):
            stop = min(start + _PIECE, run.stop)
            squares.append(Block(start, stop, start, stop, is_causal=True))
            if stop < run.stop:
                others.append(Block(stop, run.stop, start, stop))
        if run.stop < run.end:
            others.append(Block(run.stop, run.end, run.start, run.stop))
    return squares + others


class SharedAttention:
    """Attention along one tree, block by block."""

    def __init__(self, tree: Tree) -> None:
        self._blocks = blocks(tree)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """What each token of the line sees on its path; all are 1 x head x line x dim."""
        return _Blockwise.apply(query, key, value, self._blocks, scale)  # pyright: ignore[reportReturnType]


class _Blockwise(torch.autograd.Function):
    """Torch's own CPU kernels, one call for each block."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Block], scale: float
    ) -> Tensor:
        # Laid out as the next layer reads it; halves are joined in float32.
        wide = torch.promote_types(query.dtype, torch.float32)
        _, heads, line, dim = query.shape
        seen = query.new_empty((1, line, heads, dim), dtype=wide).transpose(1, 2)
        weight = query.new_empty((1, heads, line), dtype=wide)
        for block in blocks:
            asks, looks = slice(block.first, block.last), slice(block.start, block.stop)
            out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, asks], key[:, :, looks], value[:, :, looks],
                0.0, block.is_causal, scale=scale,
            )  # fmt: skip
            if block.is_causal:
                seen[:, :, asks] = out
                weight[:, :, asks] = logsumexp
            else:
                _join(seen[:, :, asks], weight[:, :, asks], out, logsumexp)
        seen = seen.to(query.dtype)
        ctx.save_for_backward(query, key, value, seen, weight)
        ctx.blocks, ctx.scale = blocks, scale
        return seen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, seen, weight = ctx.saved_tensors
        [grad] = grads
        sums = [torch.zeros_like(each, dtype=weight.dtype) for each in (query, key, value)]
        for block in ctx.blocks:
            asks, looks = slice(block.first, block.last), slice(block.start, block.stop)
            found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad[:, :, asks], query[:, :, asks], key[:, :, looks], value[:, :, looks],
                seen[:, :, asks], weight[:, :, asks], 0.0, block.is_causal, scale=ctx.scale,
            )  # fmt: skip
            for total, part, where in zip(sums, found, (asks, looks, looks), strict=True):
                total[:, :, where] += part
        return *(each.to(query.dtype) for each in sums), None, None


def _join(seen: Tensor, weight: Tensor, more: Tensor, more_weight: Tensor) -> None:
    """Adds to what tokens have seen so far what they see of further keys, in place."""
    joint = torch.logaddexp(weight, more_weight)
    seen.mul_((weight - joint).exp().unsqueeze(-1))
    seen.add_(more * (more_weight - joint).exp().unsqueeze(-1))
    weight.copy_(joint)
