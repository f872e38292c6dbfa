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

Reduction = Literal["token", "sequence", "constant"]
"""A mean over all masked tokens (DAPO); over the tokens of a row and then over rows (GRPO); or the
sum over all tokens by a number that does not depend on what was sampled (Dr. GRPO)."""

Ratio = Literal["token", "sequence"]
"""Each token's own probability ratio; or one for a row, the geometric mean of them (GSPO)."""


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
    ratio: Ratio = "token",
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
        ratio: what the probability ratio is of.
        total: the denominator of the whole update: its masked tokens, or for "sequence" its rows
            that have any. None takes those of this call; for "constant" it has to be given.
    """
    if ref_logprobs is None and kl_coef != 0:
        raise ValueError(f"kl_coef is {kl_coef} and there are no ref_logprobs; pass them, or 0")
    # Filled here for the gradient (0 x nan is nan), and in `_mean` for the value.
    logprobs = logprobs.masked_fill(~mask, 0.0)
    ratios = importance(logprobs, old_logprobs, mask, ratio)
    losses = -clipped_gain(ratios, advantages, clip_range=clip_range)
    if ref_logprobs is not None and kl_coef != 0:
        losses = losses + kl_coef * kl_estimate(logprobs, ref_logprobs)
    return _mean(losses, mask, reduction, total)


def importance(
    logprobs: Float[Tensor, "row tok"],
    old_logprobs: Float[Tensor, "row tok"],
    mask: Bool[Tensor, "row tok"],
    ratio: Ratio,
) -> Float[Tensor, "row tok"]:
    """How many times likelier a token is than when it was sampled; 1 where the mask is False.

    For "sequence" it is the geometric mean over the row's masked tokens, the same at each of them.

    >>> now, mask = torch.log(torch.tensor([[0.4, 0.1, 0.7]])), torch.tensor([[True, True, False]])
    >>> importance(now, torch.log(torch.tensor([[0.1, 0.1, 0.1]])), mask, "sequence")
    tensor([[2., 2., 1.]])
    """
    moved = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    if ratio == "sequence":
        mean = moved.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        moved = mean[:, None].expand_as(moved).masked_fill(~mask, 0.0)
    return moved.exp()


def clipped_gain(
    ratios: Float[Tensor, "row tok"], advantages: Float[Tensor, " row"], *, clip_range: float
) -> Float[Tensor, "row tok"]:
    """Per-token gain of PPO: ratio times advantage, no better than with the ratio clipped."""
    clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
    return torch.minimum(ratios * advantages[:, None], clipped * advantages[:, None])


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
    if reduction == "sequence":
        rows = losses.sum(dim=1) / tokens.clamp(min=1)
        return rows.sum() / (total or (tokens > 0).sum().clamp(min=1))
    if reduction == "constant" and total is None:
        raise ValueError("the reduction 'constant' needs a total; pass the number to divide by")
    return losses.sum() / (total or tokens.sum().clamp(min=1))
