"""Optimizer updates: gradients add up over micro-batches, then the weights move once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visual_arft.errors import UserError
from visual_arft.model.vlm import Inputs, VisionLanguageModel
from visual_arft.training.batch import Batch, pad
from visual_arft.training.segments import Row
from visual_arft.training.settings import OptimizerConfig


class Updates:
    """A model's optimizer with its learning rate, over one run."""

    def __init__(self, model: torch.nn.Module, config: OptimizerConfig, steps: int) -> None:
        """Starts before the first of `steps` updates of what the model has to learn."""
        self._config = config
        self._steps = steps
        self._done = 0
        learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not learned:
            raise UserError(
                "no weight of the model can be trained: LoRA weights that are loaded as a model "
                "only sample; give the model they belong to, and lora_rank"
            )
        self._parameters = list(learned.values())
        matrices = [p for n, p in learned.items() if config.muon_lr and _is_inner_matrix(n, p)]
        inner = set(map(id, matrices))
        others = [p for p in self._parameters if id(p) not in inner]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        if others:
            adamw = torch.optim.AdamW(
                others, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
            )
            self._optimizers.append((adamw, 1.0))
        if matrices:
            # Scaled to the size of AdamW's updates, so that weight decay means the same for both.
            muon = torch.optim.Muon(
                matrices,
                lr=config.muon_lr,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self._optimizers.append((muon, config.muon_lr / config.lr))

    def step(self) -> float:
        """Moves the weights by the gradients gathered; returns their norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        for optimizer, share in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
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
        states = [optimizer.state_dict() for optimizer, _ in self._optimizers]
        return {"optimizers": states, "done": self._done}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what a checkpoint kept."""
        for (optimizer, _), kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self._done = state["done"]


def micro_batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Rows in batches of at most `size`, those of like length together to fill up little."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def prepare(vlm: VisionLanguageModel, rows: Sequence[Row]) -> tuple[Batch, Inputs]:
    """Rows as the loss and as the model take them; raises `TokenMismatch` naming the task."""
    for row in rows:
        vlm.chat.check(row.ids, row.images, f"task {row.task_id!r}")
    batch = pad(rows, pad_id=0)
    images = [image for row in rows for image in row.images]
    return batch, vlm.inputs([row.ids for row in rows], images, left=False)


def logprobs_of(
    vlm: VisionLanguageModel, batch: Batch, inputs: Inputs, temperature: float
) -> Tensor:
    """Log p (row x tok) of the tokens that the policy wrote, 0 elsewhere."""
    return vlm.logprobs(inputs, batch.mask.to(vlm.device), temperature)


def _is_inner_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether a weight maps one hidden state to another: no embedding, head, norm or bias."""
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
