"""Drawing tokens from numbers that belong to a prompt, whatever else is drawn beside it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from visual_arft.types import Prompt


def stream_of(prompt: Prompt, seed: int) -> np.random.Generator:
    """Uniform numbers that depend on a seed and a prompt alone, the same in every process.

    >>> ask = lambda text: Prompt.model_validate({"messages": [{"role": "user", "text": text}]})
    >>> stream_of(ask("hi"), 0).random() == stream_of(ask("hi"), 0).random()
    True
    >>> stream_of(ask("hi"), 0).random() == stream_of(ask("hi"), 1).random()
    False
    """
    # An image is its hash and size, and a sampled reply its ids: all that the policy sees.
    seen = f"{seed}\n{prompt.model_dump_json()}"
    digest = hashlib.blake2b(seen.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def drawn_at(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token of each row at which the sum of its probabilities passes a number in [0, 1).

    A token without probability is never drawn, wherever it stands.

    Args:
        probabilities: row x vocabulary; a row need not sum to 1 exactly.
        uniforms: one for each row, float64.

    >>> drawn_at(torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]), torch.tensor([0.25]))
    tensor([3])
    """
    sums = probabilities.double().cumsum(-1)
    # A float64 below 1 times the total rounds to less than the total, so some sum lies above.
    goals = uniforms.to(sums).unsqueeze(-1) * sums[:, -1:]
    return torch.searchsorted(sums, goals, right=True).squeeze(-1)
