"""Our loss and its gradient beside those of TRL's own `GRPOTrainer`, on the same tensors.

What runs is TRL's method, of a real trainer. In the first test its log-probabilities are handed to
it, in the second they come out of a tiny Qwen3-VL, images included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_vlm import lively, sampled_rows, tiny_qwen3, tokenizer
from visual_arft.images import MemoryImages
from visual_arft.training.learner import Learner
from visual_arft.training.loss import grpo_loss
from visual_arft.training.segments import Row
from visual_arft.training.settings import GrpoConfig

pytestmark = pytest.mark.trl

ROWS, LENGTH = 8, 37
"""Four groups of two; the most tokens of a completion, which Dr. GRPO divides by."""


@dataclass(frozen=True)
class Objective:
    """One objective in both vocabularies."""

    loss_type: str
    reduction: str
    level: str = "token"
    epsilon: float = 0.2


OBJECTIVES = {
    "grpo": Objective("grpo", "sequence"),
    "dr_grpo": Objective("dr_grpo", "constant"),
    "dapo": Objective("dapo", "token"),
    "gspo": Objective("grpo", "sequence", "sequence", epsilon=0.02),
    "gspo over all tokens": Objective("dapo", "token", "sequence", epsilon=0.02),
}
TOTALS = {"token": None, "sequence": None, "constant": ROWS * LENGTH}


def trainer_of(objective: Objective, model: Any, beta: float, steps: int, folder: Path) -> Any:
    """A trainer that stands before the update whose gradient comes in `steps` parts."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=ROWS // steps,
        gradient_accumulation_steps=steps,
        num_generations=2,
        max_completion_length=LENGTH,
        loss_type=objective.loss_type,
        importance_sampling_level=objective.level,
        epsilon=objective.epsilon,
        beta=0.0,
        use_bias_correction_kl=False,  # by default the ratio weighs the penalty too
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "?"}] * ROWS),
        processing_class=tokenizer(),
    )
    trainer.beta = beta  # only now, or the trainer would look for its reference model on the hub
    trainer.current_gradient_accumulation_steps = steps  # as the training loop sets it
    trainer.model.train()
    return trainer


@dataclass
class Tensors:
    """What a loss takes: rows of ragged length in which a tool's tokens stand between."""

    new: Tensor
    old: Tensor
    ref: Tensor
    advantages: Tensor
    is_completion: Tensor
    is_sampled: Tensor

    @property
    def mask(self) -> Tensor:
        return self.is_completion & self.is_sampled

    def part(self, rows: slice) -> Tensors:
        return Tensors(*(each[rows] for each in vars(self).values()))


def tensors(seed: int) -> Tensors:
    """Ratios far beyond the clip range on both sides, and advantages of both signs and zero."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    width = 11
    old = -normal(ROWS, width).abs()
    ends = torch.randint(2, width + 1, (ROWS, 1), generator=random)
    is_sampled = torch.rand(ROWS, width, generator=random) < 0.7
    is_sampled[:, 0] = True
    return Tensors(
        new=(old + 0.4 * normal(ROWS, width)).requires_grad_(),
        old=old,
        ref=old + 0.4 * normal(ROWS, width),
        advantages=torch.cat([normal(ROWS - 1), torch.zeros(1, dtype=torch.float64)]),
        is_completion=torch.arange(width) < ends,
        is_sampled=is_sampled,
    )


def by_trl(trainer: Any, rows: Tensors, tokens: Tensor) -> Tensor:
    """`GRPOTrainer._compute_loss`, with log-probabilities as if its model had said them."""
    said = rows.new, rows.new.detach(), None  # the second stands for entropies, which are logged
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: said
    ids = rows.is_completion.long()
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": ids,
        "tool_mask": rows.is_sampled.long(),
        "advantages": rows.advantages,
        "old_per_token_logps": rows.old,
        "ref_per_token_logps": rows.ref,
        "num_items_in_batch": tokens,
    }
    return trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_on_the_same_log_probabilities_are_those_of_trl(
    name: str, beta: float, steps: int, tmp_path: Path
):
    objective = OBJECTIVES[name]
    trainer = trainer_of(objective, tiny_qwen3().model, beta, steps, tmp_path)
    for seed in range(20):
        rows = tensors(seed)
        ours = grpo_loss(
            rows.new, rows.old, rows.ref, rows.advantages, rows.mask,
            clip_range=objective.epsilon, kl_coef=beta, reduction=objective.reduction,
            ratio=objective.level, total=TOTALS[objective.reduction],
        )  # fmt: skip
        halves = [rows.part(slice(n, n + ROWS // steps)) for n in range(0, ROWS, ROWS // steps)]
        theirs = torch.stack([by_trl(trainer, half, rows.mask.sum()) for half in halves]).sum()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        [our_gradient] = torch.autograd.grad(ours, rows.new)
        [their_gradient] = torch.autograd.grad(theirs, rows.new)
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-14)
        assert their_gradient.abs().sum() > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_of_every_weight_on_the_same_rows_is_that_of_trl(name: str, tmp_path: Path):
    objective, beta = OBJECTIVES[name], 0.04
    images = MemoryImages()
    vlm, reference = (lively(tiny_qwen3(images, seed=seed)) for seed in (2, 3))
    for each in (vlm, reference):
        each._banned = each._banned[:0]  # TRL does not take control tokens from the distribution
    rows = drifted(sampled_rows(vlm, [1.0, -1.0, 0.5, -0.5, 0.0, 2.0, -2.0, 0.25]))
    settings = GrpoConfig.model_validate(
        {
            "clip_range": objective.epsilon, "kl_coef": beta, "reduction": objective.reduction,
            "ratio": objective.level, "prompts_per_step": ROWS // 2, "group_size": 2,
            "max_new_tokens": LENGTH, "temperature": 1.0,
        }
    )  # fmt: skip
    numbers = Learner(vlm, settings, reference).add_gradients(rows)
    ours = gradients(vlm.model)

    trainer = trainer_of(objective, vlm.model, beta, 1, tmp_path)
    inputs = inputs_of(rows, vlm)
    inputs["ref_per_token_logps"] = reference_logprobs(trainer, reference.model, inputs)
    loss = trainer._compute_loss(vlm.model, inputs)
    loss.backward()
    theirs = gradients(vlm.model)

    assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    assert ours.keys() == theirs.keys()
    for weight, gradient in ours.items():
        scale = theirs[weight].abs().max().item()
        torch.testing.assert_close(gradient, theirs[weight], rtol=1e-3, atol=1e-4 * scale + 1e-7)


def drifted(rows: Sequence[Row]) -> list[Row]:
    """The rows as if another policy had sampled them, so that some ratios are clipped."""
    return [
        replace(
            row,
            old_logprobs=tuple(
                p + 0.3 * (-1) ** place - 0.05 * number if is_sampled else 0.0
                for place, (p, is_sampled) in enumerate(
                    zip(row.old_logprobs, row.mask, strict=True)
                )
            ),
        )
        for number, row in enumerate(rows)
    ]


def inputs_of(rows: Sequence[Row], vlm: Any) -> dict[str, Any]:
    """The rows as TRL lays them out: prompts end, and completions begin, at the same column."""
    starts = [row.mask.index(True) for row in rows]
    before, after = max(starts), max(len(r.ids) - s for r, s in zip(rows, starts, strict=True))
    ids, mask = torch.zeros(2, len(rows), before + after, dtype=torch.long)
    old = torch.zeros(len(rows), after)
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        place = slice(before - start, before - start + len(row.ids))
        ids[number, place], mask[number, place] = torch.tensor(row.ids), 1
        old[number, : len(row.ids) - start] = torch.tensor(row.old_logprobs[start:])
    pixels = [vlm.pixels(image) for row in rows for image in row.images]
    return {
        "prompt_ids": ids[:, :before],
        "prompt_mask": mask[:, :before],
        "completion_ids": ids[:, before:],
        "completion_mask": mask[:, before:],
        "mm_token_type_ids": (ids == vlm.chat.image_token_id).long(),
        "pixel_values": torch.cat([patches for patches, _ in pixels]),
        "image_grid_thw": torch.stack([grid for _, grid in pixels]),
        "num_images": [len(row.images) for row in rows],
        "advantages": torch.tensor([row.advantage for row in rows]),
        "old_per_token_logps": old,
        "num_items_in_batch": mask[:, before:].sum(),
    }


@torch.no_grad()
def reference_logprobs(trainer: Any, model: Any, inputs: dict[str, Any]) -> Tensor:
    """As the trainer computes them of the reference model that it has made for itself."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, temperature=1.0)
    ids, mask = (
        torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], 1)
        for name in ("ids", "mask")
    )
    pictures = {
        name: inputs[name]
        for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    }
    length = inputs["completion_ids"].shape[1]
    return trainer._get_per_token_logps_and_entropies(model, ids, mask, length, **pictures)[0]


def gradients(model: Any) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
