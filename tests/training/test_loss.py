"""The loss against its formula, written out in loops and float64, and the facts that it must obey."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from visual_arft.training.loss import grpo_loss, kl_estimate, sft_loss

SETTINGS = {"clip_range": 0.2, "kl_coef": 0.04}
REDUCTIONS = ("token", "sequence", "constant")
CHOICES = [
    pytest.param({"reduction": reduction, "ratio": ratio}, id=f"{reduction}, ratio by {ratio}")
    for reduction in REDUCTIONS
    for ratio in ("token", "sequence")
]
CONSTANT = 24
"""What the reduction of that name divides by."""


@dataclass
class Rows:
    """The tensors that a loss takes."""

    new: Tensor
    old: Tensor
    ref: Tensor
    advantages: Tensor
    mask: Tensor

    def loss(self, **changes: Any) -> Tensor:
        settings = {**SETTINGS, **changes}
        if settings.get("reduction") == "constant":
            settings = {"total": CONSTANT, **settings}
        return grpo_loss(self.new, self.old, self.ref, self.advantages, self.mask, **settings)

    def gradient(self, **changes: Any) -> Tensor:
        self.new = self.new.detach().requires_grad_()
        [gradient] = torch.autograd.grad(self.loss(**changes), self.new)
        return gradient

    def part(self, start: int, stop: int) -> Rows:
        return Rows(*(each.detach()[start:stop] for each in vars(self).values()))


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    old = -normal(height, width).abs()
    mask = torch.rand(height, width, generator=random) < draw(st.sampled_from([0.3, 0.7, 1.0]))
    return Rows(
        old + 0.3 * normal(height, width),
        old,
        old + 0.3 * normal(height, width),
        normal(height),
        mask,
    )


def by_the_formula(rows: Rows, reduction: str, ratio: str) -> tuple[float, list[list[float]]]:
    """Value and gradient of the loss, a token at a time.

    J = min(r A, clip(r, 0.8, 1.2) A) - 0.04 (q - log q - 1), r = p / p_old, q = p_ref / p;
    d r / d log p = r and d (q - log q - 1) / d log p = 1 - q. With one r for a row of n tokens,
    exp(mean of log p - log p_old), each token's share of the slope is that of all n over n.
    """
    mask: list[list[bool]] = rows.mask.tolist()
    filled_rows = max(1, sum(any(row) for row in mask))
    tokens = max(1, sum(map(sum, mask)))
    value, gradient = 0.0, [[0.0] * len(row) for row in mask]
    for i, row in enumerate(mask):
        weights = {
            "token": 1 / tokens,
            "sequence": 1 / filled_rows / max(1, sum(row)),
            "constant": 1 / CONSTANT,
        }
        weight, a = weights[reduction], rows.advantages[i].item()
        counted = [j for j, counts in enumerate(row) if counts]
        moved = {j: (rows.new[i, j] - rows.old[i, j]).item() for j in counted}
        if ratio == "sequence":
            moved = dict.fromkeys(counted, sum(moved.values()) / max(1, len(counted)))
        for j in counted:
            r, q = math.exp(moved[j]), math.exp((rows.ref[i, j] - rows.new[i, j]).item())
            clipped = min(max(r, 0.8), 1.2)
            value -= weight * (min(r * a, clipped * a) - 0.04 * (q - math.log(q) - 1))
            # The n tokens of a row all have the same slope, and each of them 1/n of its sum.
            slope = r * a if r * a <= clipped * a else 0.0
            gradient[i][j] = -weight * (slope - 0.04 * (1 - q))
    return value, gradient


@pytest.mark.parametrize("choice", CHOICES)
@given(rows=rows())
def test_value_and_gradient_are_those_of_the_formula(choice: dict[str, str], rows: Rows):
    value, gradient = by_the_formula(rows, **choice)
    torch.testing.assert_close(rows.gradient(**choice), torch.tensor(gradient, dtype=torch.float64))
    assert rows.loss(**choice).item() == pytest.approx(value)


@pytest.mark.parametrize("choice", CHOICES)
@given(rows=rows(), junk=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_a_masked_token_has_exactly_no_gradient_whatever_stands_there(
    choice: dict[str, str], rows: Rows, junk: float
):
    expected = rows.gradient(**choice)
    for values in (rows.new, rows.old, rows.ref):
        values.data[~rows.mask] = junk
    gradient = rows.gradient(**choice)
    assert gradient[~rows.mask].eq(0).all()
    assert gradient.equal(expected)


@pytest.mark.parametrize("choice", CHOICES)
@given(rows=rows(), tokens=st.integers(0, 3), empty_rows=st.integers(0, 2))
def test_padding_changes_nothing(choice: dict[str, str], rows: Rows, tokens: int, empty_rows: int):
    def pad(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values.detach(), (0, tokens, 0, empty_rows))

    padded = Rows(
        pad(rows.new),
        pad(rows.old),
        pad(rows.ref),
        torch.nn.functional.pad(rows.advantages, (0, empty_rows)),
        pad(rows.mask),
    )
    height, width = rows.mask.shape
    torch.testing.assert_close(padded.loss(**choice), rows.loss(**choice))
    torch.testing.assert_close(padded.gradient(**choice)[:height, :width], rows.gradient(**choice))


@pytest.mark.parametrize("choice", CHOICES)
@given(rows=rows(), data=st.data())
def test_micro_batches_add_up(choice: dict[str, str], rows: Rows, data: st.DataObject):
    height = rows.mask.shape[0]
    cut = data.draw(st.integers(0, height))
    counts = {"token": rows.mask.sum(), "sequence": rows.mask.any(dim=1).sum()}
    whole = {**choice, "total": int(counts.get(choice["reduction"], CONSTANT))}
    parts = [rows.part(0, cut), rows.part(cut, height)]
    torch.testing.assert_close(sum(part.loss(**whole) for part in parts), rows.loss(**choice))
    torch.testing.assert_close(
        torch.cat([part.gradient(**whole) for part in parts]), rows.gradient(**choice)
    )


def test_clipping_a_doubled_probability():
    new, old = torch.log(torch.tensor([[0.5]])), torch.log(torch.tensor([[0.25]]))
    one = torch.ones(1, 1, dtype=torch.bool)
    loss = grpo_loss(new, old, old, torch.tensor([1.0]), one, clip_range=0.2, kl_coef=0.0)
    assert loss.item() == pytest.approx(-1.2)  # -min(2.0, 1.2)


def test_a_doubled_probability_of_a_bad_token_is_not_clipped():
    new, old = torch.log(torch.tensor([[0.5]])), torch.log(torch.tensor([[0.25]]))
    one = torch.ones(1, 1, dtype=torch.bool)
    loss = grpo_loss(new, old, old, torch.tensor([-1.0]), one, clip_range=0.2, kl_coef=0.0)
    assert loss.item() == pytest.approx(2.0)  # -min(-2.0, -1.2)


def test_a_long_row_weighs_more_by_token_and_the_same_by_sequence():
    # On policy the ratio is 1 and the loss of a token -A: tokens -(3 * 1 + 1 * 5) / 4, rows -(1 + 5) / 2.
    same, mask = torch.zeros(2, 3), torch.tensor([[True, True, True], [False, True, False]])
    rows = Rows(same, same, same, torch.tensor([1.0, 5.0]), mask)
    assert rows.loss(reduction="token").item() == pytest.approx(-2.0)
    assert rows.loss(reduction="sequence").item() == pytest.approx(-3.0)


def test_each_token_weighs_the_same_in_a_long_row_and_a_short_one_by_constant():
    # On policy the loss of a token is -A, so that of all is -(3 * 1 + 1 * 5) over the constant 24.
    same, mask = torch.zeros(2, 3), torch.tensor([[True, True, True], [False, True, False]])
    rows = Rows(same, same, same, torch.tensor([1.0, 5.0]), mask)
    assert rows.loss(reduction="constant").item() == pytest.approx(-8 / 24)


def test_a_constant_to_divide_by_has_to_be_given():
    same, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="'constant' needs a total"):
        Rows(same, same, same, torch.ones(1), mask).loss(reduction="constant", total=None)


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    # Twice and an eighth times as likely, the row is sqrt(2 / 8) = 1/2 as likely a token: its gain
    # is -1/2 clipped to -0.8, where the tokens' own ratios give -(2 + 0.8) / 2.
    new, old = torch.log(torch.tensor([[0.5, 0.1]])), torch.log(torch.tensor([[0.25, 0.8]]))
    rows = Rows(new, old, old, torch.tensor([-1.0]), torch.ones(1, 2, dtype=torch.bool))
    assert rows.loss(kl_coef=0.0, ratio="sequence").item() == pytest.approx(0.8)
    assert rows.loss(kl_coef=0.0, ratio="token").item() == pytest.approx(1.4)


def test_the_kl_of_a_halved_probability():
    # p = 0.5, p_ref = 0.25: q = 0.5, and q - log q - 1 = 0.5 + 0.693147 - 1
    kl = kl_estimate(torch.log(torch.tensor([[0.5]])), torch.log(torch.tensor([[0.25]])))
    assert kl.item() == pytest.approx(0.193147, abs=1e-6)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_kl_estimate_is_never_negative(new: float, ref: float):
    assert kl_estimate(torch.tensor([[new]]), torch.tensor([[ref]])).item() >= 0


def test_without_a_kl_weight_no_reference_is_needed():
    same, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    loss = grpo_loss(same, same, None, torch.tensor([1.0]), mask, clip_range=0.2, kl_coef=0.0)
    assert loss.item() == -1.0
    with pytest.raises(ValueError, match="there are no ref_logprobs"):
        grpo_loss(same, same, None, torch.tensor([1.0]), mask, clip_range=0.2, kl_coef=0.1)


def test_nothing_to_learn_is_a_loss_of_zero():
    same, mask = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    assert Rows(same, same, same, torch.tensor([1.0]), mask).loss().item() == 0.0
    assert sft_loss(same, mask).item() == 0.0


@given(rows())
def test_the_supervised_loss_is_the_mean_over_masked_tokens_and_adds_up(rows: Rows):
    total = int(rows.mask.sum())
    if total:
        expected = -rows.new[rows.mask].mean()
        torch.testing.assert_close(sft_loss(rows.new, rows.mask), expected)
        parts = [
            sft_loss(new[None], mask[None], total=total)
            for new, mask in zip(rows.new, rows.mask, strict=True)
        ]
        torch.testing.assert_close(sum(parts), expected)


def test_tensors_that_do_not_fit_together_are_refused():
    same, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TypeCheckError):
        grpo_loss(same, same, same, torch.zeros(3), mask, **SETTINGS)
