"""How much better than its group an episode was."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-4
"""Added to the standard deviation; the value of the paper's trainer."""


def group_advantages(
    rewards: Float[Tensor, "group sample"], *, scale: bool
) -> Float[Tensor, "group sample"]:
    """Each reward less the mean of its group; exactly zero where a group's rewards are all equal.

    With `scale` it is also divided by the group's standard deviation (with Bessel's correction, as
    the paper's trainer takes it) plus `EPSILON`.

    >>> import torch
    >>> group_advantages(torch.tensor([[0.0, 1.0], [0.9, 0.9]]), scale=False)
    tensor([[-0.5000,  0.5000],
            [ 0.0000,  0.0000]])
    """
    lowest, highest = rewards.aminmax(dim=1, keepdim=True)
    # The mean of equal numbers may miss them by a rounding error, which the division would blow up.
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(lowest == highest, 0.0)
    return centred / (rewards.std(dim=1, keepdim=True) + EPSILON) if scale else centred
