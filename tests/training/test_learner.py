from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tiny_vlm import lively_vlm, sampled_rows
from visual_arft.images import MemoryImages
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.training.learner import Learner
from visual_arft.training.loss import grpo_loss
from visual_arft.training.segments import Row
from visual_arft.training.settings import GrpoConfig, OptimizerConfig
from visual_arft.training.updates import logprobs_of, prepare

IMAGES = MemoryImages()
ADVANTAGES = [1.0, -0.5, 0.0, 0.25, 0.0, -2.0, 0.5]
CHOICES = [
    pytest.param({"reduction": reduction, "ratio": ratio}, id=f"{reduction}, ratio by {ratio}")
    for reduction, ratio in (
        ("token", "token"),
        ("sequence", "token"),
        ("constant", "token"),
        ("sequence", "sequence"),
    )
]


def config(**more: object) -> GrpoConfig:
    return GrpoConfig.model_validate({"steps": 1, "kl_coef": 0.0, **more})


def gradients(vlm: VisionLanguageModel) -> dict[str, torch.Tensor]:
    found = {n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None}
    vlm.model.zero_grad(set_to_none=True)
    return {name: gradient.clone() for name, gradient in found.items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = other[name].abs().max().item()
        torch.testing.assert_close(gradient, other[name], atol=1e-4 * scale + 1e-7, rtol=1e-3)


def drifted(rows: list[Row]) -> list[Row]:
    """The rows as if a slightly different policy had sampled them, so that ratios are not 1."""
    return [
        replace(row, old_logprobs=tuple(0.0 if p == 0 else p - 0.15 * (-1) ** n for n, p in enumerate(row.old_logprobs)))
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_micro_batches_add_up_to_the_gradient_of_all_rows_at_once(choice: dict[str, str]):
    vlm, reference = lively_vlm(IMAGES), lively_vlm(IMAGES, seed=3)
    rows = drifted(sampled_rows(vlm, ADVANTAGES))
    numbers, found = [], []
    for size in (7, 3, 2, 1):
        settings = config(micro_batch_size=size, kl_coef=0.3, **choice)
        numbers.append(Learner(vlm, settings, reference).add_gradients(rows))
        found.append(gradients(vlm))
    for one, gradient in zip(numbers[1:], found[1:], strict=True):
        assert one == pytest.approx(numbers[0], rel=1e-4, abs=1e-6)
        assert_same(gradient, found[0])
    assert numbers[0]["kl"] > 0


@pytest.mark.parametrize("choice", CHOICES)
def test_dropping_rows_of_advantage_zero_changes_no_gradient(choice: dict[str, str]):
    vlm = lively_vlm(IMAGES)
    rows = drifted(sampled_rows(vlm, ADVANTAGES))
    settings = config(micro_batch_size=2, **choice)
    numbers = Learner(vlm, settings).add_gradients(rows)
    assert numbers["rows_computed"] == 5
    dropped = gradients(vlm)
    batch, inputs = prepare(vlm, rows)
    loss = grpo_loss(
        logprobs_of(vlm, batch, inputs, 1.0), batch.old_logprobs, None, batch.advantages,
        batch.mask, clip_range=0.2, kl_coef=0.0, **choice,
        total=16 * 8 * 1024 if choice["reduction"] == "constant" else None,
    )  # fmt: skip
    loss.backward()
    assert numbers["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert_same(dropped, gradients(vlm))


def test_a_policy_that_has_not_moved_is_its_reference_and_clips_nothing():
    vlm, reference = lively_vlm(IMAGES), lively_vlm(IMAGES)
    rows = sampled_rows(vlm, ADVANTAGES)
    numbers = Learner(vlm, config(kl_coef=0.1), reference).add_gradients(rows)
    assert numbers["kl"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["clipped"] == 0.0
    tokens = [sum(row.mask) for row in rows]
    gain = sum(row.advantage * n for row, n in zip(rows, tokens, strict=True)) / sum(tokens)
    assert numbers["loss"] == pytest.approx(-gain, abs=1e-5)  # every ratio is 1


def test_several_updates_on_the_same_rows_move_the_policy_away_and_clip():
    vlm, reference = lively_vlm(IMAGES), lively_vlm(IMAGES)
    rows = sampled_rows(vlm, ADVANTAGES)
    settings = config(updates_per_step=4, kl_coef=0.01, optimizer=OptimizerConfig(lr=3e-3))
    numbers = Learner(vlm, settings, reference).learn(rows)
    assert numbers["clipped"] > 0
    assert numbers["kl"] > 0
    assert numbers["grad_norm"] > 0
    assert numbers["rows"] == 7


def test_rows_that_teach_nothing_leave_the_weights_alone():
    vlm = lively_vlm(IMAGES)
    learner = Learner(vlm, config(optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.1)))
    learner.learn(sampled_rows(vlm, [1.0, -1.0]))  # gives the optimizer its momentum
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    for rows in (sampled_rows(vlm, [0.0, 0.0]), []):
        numbers = learner.learn(rows)
        assert numbers == {"loss": 0.0, "clipped": 0.0, "kl": 0.0, "grad_norm": 0.0, "rows": len(rows), "rows_computed": 0, "lr": 1e-2}  # fmt: skip
    assert all(torch.equal(value, before[n]) for n, value in vlm.model.state_dict().items())


def test_the_reference_of_lora_weights_is_the_model_without_them():
    vlm = lively_vlm(IMAGES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vlm.model = get_peft_model(vlm.model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    rows = sampled_rows(vlm, ADVANTAGES)
    learner = Learner(vlm, config(kl_coef=0.1, steps=3, optimizer=OptimizerConfig(lr=1e-2)))
    first, second = learner.learn(rows), learner.learn(rows)
    assert first["kl"] == 0.0
    assert second["kl"] > 0.0
    lively = Learner(vlm, config(kl_coef=0.1), reference=lively_vlm(IMAGES)).add_gradients(rows)
    assert learner.add_gradients(rows)["kl"] == pytest.approx(lively["kl"], rel=1e-4)


def test_a_penalty_without_a_reference_is_an_error():
    with pytest.raises(ValueError, match=r"kl_coef is 0.1, which needs a reference model"):
        Learner(lively_vlm(IMAGES), config(kl_coef=0.1))
