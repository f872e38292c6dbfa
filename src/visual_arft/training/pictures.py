"""Vision features for an update that is computed in parts: each picture through the tower once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visual_arft.model.vlm import Features, VisionLanguageModel
from visual_arft.types import Image


class Pictures:
    """The pictures of an update's parts, encoded for the first part that needs them.

    Parts read copies, on which their gradients add up. Once no later part needs what was encoded
    together, the sums go through the vision tower in one backward pass and it is forgotten.
    """

    def __init__(self, vlm: VisionLanguageModel, parts: Sequence[Sequence[Image]]) -> None:
        """Nothing is encoded yet; `parts` are the images of each part, in order."""
        self._vlm = vlm
        self._last_use = {
            image.sha256: number for number, images in enumerate(parts) for image in images
        }
        self._encoded: list[dict[str, Features]] = []
        """What was encoded together, as the tower gave it: with its backward pass."""
        self._read: dict[str, Features] = {}
        """The same numbers, cut off from the tower."""

    def of(self, images: Sequence[Image]) -> dict[str, Features]:
        """Features of a part's images, by hash."""
        made = self._vlm.encode([each for each in images if each.sha256 not in self._read])
        if made:
            self._encoded.append(made)
            self._read |= {name: tuple(map(_cut_off, each)) for name, each in made.items()}
        return {image.sha256: self._read[image.sha256] for image in images}

    def release(self, part: int) -> None:
        """To be called when the backward pass of a part is done."""
        done = [each for each in self._encoded if self._is_over(each, part)]
        self._encoded = [each for each in self._encoded if not self._is_over(each, part)]
        for made in done:
            self._backward(made)

    def _is_over(self, made: dict[str, Features], part: int) -> bool:
        return all(self._last_use[name] <= part for name in made)

    def _backward(self, made: dict[str, Features]) -> None:
        pairs = [
            (feature, read.grad)
            for name, features in made.items()
            for feature, read in zip(features, self._read.pop(name), strict=True)
            if read.grad is not None
        ]
        if pairs:
            features, grads = zip(*pairs, strict=True)
            torch.autograd.backward(features, grads)


def _cut_off(feature: Tensor) -> Tensor:
    return feature.detach().requires_grad_(feature.requires_grad)
