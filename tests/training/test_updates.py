from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_vlm import lively_vlm, sampled_rows
from visual_arft.errors import TokenMismatch, UserError
from visual_arft.training.segments import Row
from visual_arft.training.settings import OptimizerConfig
from visual_arft.training.updates import Updates, logprobs_of, micro_batches, prepare


def row(length: int) -> Row:
    return Row("t", (1,) * length, (True,) * length, (0.0,) * length, (), 1.0)


def model() -> torch.nn.Module:
    made = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + number)
    return made


def steps(trained: torch.nn.Module, updates: Updates, first: int, last: int) -> list[float]:
    """The gradient norms of updates on a stream of made-up numbers."""
    norms: list[float] = []
    for number in range(first, last):
        trained(torch.linspace(0, number, 12).view(4, 3)).square().sum().backward()
        norms.append(updates.step())
    return norms


@given(st.lists(st.integers(1, 30)), st.integers(1, 8))
def test_micro_batches_hold_every_row_once_and_at_most_so_many(lengths: list[int], size: int):
    given_rows = [row(length) for length in lengths]
    parts = micro_batches(given_rows, size)
    assert all(0 < len(part) <= size for part in parts)
    assert [len(each.ids) for part in parts for each in part] == sorted(lengths)


def test_the_learning_rate_rises_and_falls_in_straight_lines():
    config = OptimizerConfig(lr=1.0, warmup_steps=3, decay=True)
    trained = model()
    updates = Updates(trained, config, 10)
    rates: list[float] = []
    for number in range(10):
        rates.append(updates.lr)
        steps(trained, updates, number, number + 1)
    # (done + 1) / 4 up to 1, times 1 - 0.9 * done / 10
    assert rates[:5] == pytest.approx([0.25, 0.5 * 0.91, 0.75 * 0.82, 0.73, 0.64])
    assert updates.lr == pytest.approx(0.1)


def test_a_step_is_adamw_s_on_the_clipped_gradient_and_returns_the_norm_before():
    ours, theirs = model(), model()
    config = OptimizerConfig(lr=0.1, betas=(0.8, 0.9), weight_decay=0.1, max_grad_norm=0.5)
    norms = steps(ours, Updates(ours, config, 3), 1, 4)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)
    for number, norm in enumerate(norms, start=1):
        adamw.zero_grad()
        theirs(torch.linspace(0, number, 12).view(4, 3)).square().sum().backward()
        gradients = [parameter.grad for parameter in theirs.parameters()]
        assert norm == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item())
        for gradient in gradients:
            gradient.mul_(min(1.0, 0.5 / norm))
        adamw.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_a_run_that_goes_on_from_its_state_goes_on_the_same(muon_lr: float):
    config = OptimizerConfig(lr=0.1, muon_lr=muon_lr, warmup_steps=4, decay=True)
    straight, resumed = model(), model()
    expected = steps(straight, Updates(straight, config, 6), 0, 6)
    before = Updates(resumed, config, 6)
    norms = steps(resumed, before, 0, 3)
    after = Updates(resumed, config, 6)
    after.restore(before.state())
    assert norms + steps(resumed, after, 3, 6) == expected
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_that_need_no_gradient_stay():
    trained = model()
    trained[0].requires_grad_(False)
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    steps(trained, Updates(trained, OptimizerConfig(lr=0.1, weight_decay=0.5), 2), 0, 2)
    moved = [not torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True)]
    assert moved == [False, False, True, True, True, True]


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="no weight of the model can be trained"):
        Updates(model().requires_grad_(False), OptimizerConfig(), 1)


def test_prepared_rows_give_the_logprobs_they_were_sampled_with():
    vlm = lively_vlm()
    sampled = sampled_rows(vlm, [1.0] * 5)
    batch, inputs = prepare(vlm, sampled)
    assert torch.equal(inputs.attention.bool(), batch.is_token)
    assert torch.equal(inputs.ids[batch.is_token], batch.ids[batch.is_token])
    with torch.no_grad():
        logprobs = logprobs_of(vlm, batch, inputs, temperature=1.0)
    torch.testing.assert_close(logprobs, batch.old_logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lost", [0, 1])
def test_rows_whose_images_are_not_those_of_their_ids_name_the_task(lost: int):
    vlm = lively_vlm()
    sampled = sampled_rows(vlm, [1.0] * 4)
    images = (sampled[1].images + sampled[3].images, ())[lost]
    sampled[3] = replace(sampled[3], images=images)
    with pytest.raises(TokenMismatch, match=r"^task 't3': image tokens stand in runs of \["):
        prepare(vlm, sampled)
