"""What GRPO does with a round's rows: gradients, updates and the numbers about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.training.loss import grpo_loss, importance, kl_estimate
from visual_arft.training.passes import Pass, passes
from visual_arft.training.segments import Row
from visual_arft.training.settings import GrpoConfig
from visual_arft.training.updates import Updates


class Learner:
    """The policy's weights on the move, over one run."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        config: GrpoConfig,
        reference: VisionLanguageModel | None = None,
    ) -> None:
        """Starts before the first update.

        Args:
            vlm: the policy.
            config: how it is updated.
            reference: the model that the KL penalty is taken to; None with LoRA means the policy
                without its adapters, and with a `kl_coef` of 0 none is needed.
        """
        if config.kl_coef and reference is None and not hasattr(vlm.model, "disable_adapter"):
            raise ValueError(f"kl_coef is {config.kl_coef}, which needs a reference model")
        self._vlm = vlm
        self._config = config
        self._reference = reference
        steps = config.steps * config.updates_per_step
        self.updates = Updates(vlm.model, config.optimizer, steps)

    def learn(self, rows: Sequence[Row]) -> dict[str, float]:
        """The numbers of a round's updates, their mean where there are several."""
        lr = self.updates.lr
        sums: dict[str, float] = defaultdict(float)
        for _ in range(self._config.updates_per_step):
            numbers = self.add_gradients(rows)
            numbers["grad_norm"] = self.updates.step()
            for name, value in numbers.items():
                sums[name] += value / self._config.updates_per_step
        return {**sums, "rows": len(rows), "lr": lr}

    def add_gradients(self, rows: Sequence[Row]) -> dict[str, float]:
        """Adds the loss' gradient to the weights' own; returns means over all sampled tokens."""
        # Without a KL penalty a row of advantage 0 has no gradient: it counts, but is not computed.
        moving = [row for row in rows if row.advantage or self._config.kl_coef]
        tokens = sum(sum(row.mask) for row in rows)
        total = self._total(rows)
        sums = {"loss": 0.0, "clipped": 0.0, "kl": 0.0}
        parts = passes(
            self._vlm,
            moving,
            self._config.tree,
            micro_batch_size=self._config.micro_batch_size,
        )
        for part in parts:
            loss, clipped, kl = self._backward(part, total)
            sums["loss"] += loss
            sums["clipped"] += clipped / tokens
            sums["kl"] += kl / tokens
        return {**sums, "rows_computed": len(moving)}

    def _total(self, rows: Sequence[Row]) -> int:
        """The denominator of the whole update, so that its parts add up."""
        match self._config.reduction:
            case "token":
                return sum(sum(row.mask) for row in rows)
            case "sequence":
                return len(rows)
            case "constant":
                rollouts = self._config.prompts_per_step * self._config.group_size
                return rollouts * self._config.max_new_tokens

    def _backward(self, part: Pass, total: int) -> tuple[float, float, float]:
        """Loss of a part, and over its tokens the number clipped and the sum of KL."""
        batch = part.batch
        ref = self._ref_logprobs(part) if self._config.kl_coef else None
        mask, old = batch.mask.to(self._vlm.device), batch.old_logprobs.to(self._vlm.device)
        logprobs = part.logprobs(self._vlm, self._config.temperature)
        loss = grpo_loss(
            logprobs,
            old,
            ref,
            batch.advantages.to(self._vlm.device),
            mask,
            clip_range=self._config.clip_range,
            kl_coef=self._config.kl_coef,
            reduction=self._config.reduction,
            ratio=self._config.ratio,
            total=total,
        )
        loss.backward()
        now = logprobs.detach()
        ratios = importance(now, old, mask, self._config.ratio)
        clipped = (ratios - 1).abs()[mask] > self._config.clip_range
        kl = 0.0 if ref is None else float(kl_estimate(now, ref)[mask].sum())
        return float(loss.detach()), float(clipped.sum()), kl

    @torch.no_grad()
    def _ref_logprobs(self, part: Pass) -> Tensor:
        if self._reference is not None:
            return part.logprobs(self._reference, self._config.temperature)
        with self._vlm.model.disable_adapter():
            return part.logprobs(self._vlm, self._config.temperature)
