"""Optimizer updates: gradients add up over micro-batches, then the weights move once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from visual_arft.model.vlm import Inputs, VisionLanguageModel
from visual_arft.training.batch import Batch, pad
from visual_arft.training.segments import Row
from visual_arft.training.settings import OptimizerConfig


class Updates:
    """AdamW with its learning rate, over one run."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig, steps: int
    ) -> None:
        """Starts before the first of `steps` updates."""
        self._parameters = [p for p in parameters if p.requires_grad]
        self._config = config
        self._steps = steps
        self._done = 0
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def step(self) -> float:
        """Moves the weights by the gradients gathered so far; returns their norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._done += 1
        return float(norm)

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        warm = min(1.0, (self._done + 1) / (self._config.warmup_steps + 1))
        left = 1.0 - 0.9 * self._done / max(1, self._steps) if self._config.decay else 1.0
        return self._config.lr * warm * left

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"optimizer": self._optimizer.state_dict(), "done": self._done}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what a checkpoint kept."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._done = state["done"]


def micro_batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Rows in batches of at most `size`, those of like length together so that filling is little."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def prepare(vlm: VisionLanguageModel, rows: Sequence[Row]) -> tuple[Batch, Inputs]:
    """Rows as the loss and as the model take them; raises `TokenMismatch` naming the task."""
    for row in rows:
        vlm.chat.check(row.ids, row.images, row.task_id)
    batch = pad(rows, pad_id=0)
    images = [image for row in rows for image in row.images]
    return batch, vlm.inputs([row.ids for row in rows], images, left=False)


def logprobs_of(
    vlm: VisionLanguageModel, batch: Batch, inputs: Inputs, temperature: float
) -> Tensor:
    """log p (row x tok) of the tokens that the policy wrote, 0 elsewhere."""
    return vlm.logprobs(inputs, batch.mask.to(vlm.device), temperature)
