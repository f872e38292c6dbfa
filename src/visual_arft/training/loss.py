"""The objectives, as pure functions of log-probabilities.

A row is one sequence of tokens; `mask` is True where the policy wrote the token. What a mean is
taken over is part of each function's contract: `total` states the denominator of a whole update, so
that the losses of its micro-batches add up to the loss of all rows at once. Where the mask is False
the value counts for nothing, be it nan, and its gradient is exactly zero.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Reduction = Literal["token", "sequence"]
"""A mean over all masked tokens, or over the tokens of a row and then over rows."""


def grpo_loss(
    logprobs: Float[Tensor, "row tok"],
    old_logprobs: Float[Tensor, "row tok"],
    ref_logprobs: Float[Tensor, "row tok"] | None,
    advantages: Float[Tensor, " row"],
    mask: Bool[Tensor, "row tok"],
    *,
    clip_range: float,
    kl_coef: float,
    reduction: Reduction = "token",
    total: int | None = None,
) -> Float[Tensor, ""]:
    """The clipped surrogate of GRPO with a KL penalty, to be minimised.

    Args:
        logprobs: of the tokens under the policy that is trained; the only argument with a gradient.
        old_logprobs: under the policy that sampled them.
        ref_logprobs: under the reference policy; None goes with a `kl_coef` of 0.
        advantages: one for each row.
        mask: True where the policy wrote the token.
        clip_range: the probability ratio is clipped to 1 ± this.
        kl_coef: weight of the penalty.
        reduction: what the mean is over.
        total: the denominator of the whole update: its masked tokens, or for "sequence" its rows
            that have any. None takes those of this call.
    """
    if ref_logprobs is None and kl_coef != 0:
        raise ValueError(f"kl_coef is {kl_coef} and there are no ref_logprobs; pass them, or 0")
    # Filled here for the gradient (0 x nan is nan), and in `_mean` for the value.
    logprobs = logprobs.masked_fill(~mask, 0.0)
    losses = -clipped_gain(logprobs, old_logprobs, advantages, clip_range=clip_range)
    if ref_logprobs is not None and kl_coef != 0:
        losses = losses + kl_coef * kl_estimate(logprobs, ref_logprobs)
    return _mean(losses, mask, reduction, total)


def clipped_gain(
    logprobs: Float[Tensor, "row tok"],
    old_logprobs: Float[Tensor, "row tok"],
    advantages: Float[Tensor, " row"],
    *,
    clip_range: float,
) -> Float[Tensor, "row tok"]:
    """Per-token gain of PPO: ratio times advantage, no better than with the ratio clipped."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])


def kl_estimate(
    logprobs: Float[Tensor, "row tok"], ref_logprobs: Float[Tensor, "row tok"]
) -> Float[Tensor, "row tok"]:
    """Per-token KL(policy || reference): Schulman's k3, unbiased and never negative."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def sft_loss(
    logprobs: Float[Tensor, "row tok"], mask: Bool[Tensor, "row tok"], *, total: int | None = None
) -> Float[Tensor, ""]:
    """The mean negative log-likelihood of the masked tokens, over `total` of them if given.

    >>> sft_loss(torch.tensor([[-1.0, -3.0, -9.0]]), torch.tensor([[True, True, False]]))
    tensor(2.)
    """
    return _mean(-logprobs, mask, "token", total)


def _mean(losses: Tensor, mask: Tensor, reduction: Reduction, total: int | None) -> Tensor:
    losses = losses.masked_fill(~mask, 0.0)
    tokens = mask.sum(dim=1)
    if reduction == "token":
        return losses.sum() / (total or tokens.sum().clamp(min=1))
    rows = losses.sum(dim=1) / tokens.clamp(min=1)
    return rows.sum() / (total or (tokens > 0).sum().clamp(min=1))
