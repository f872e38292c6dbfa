from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.training.advantages import group_advantages

tenths = st.integers(0, 20).map(lambda tenth: tenth / 10)
groups = st.integers(2, 6).flatmap(
    lambda size: st.lists(st.lists(tenths, min_size=size, max_size=size), min_size=1, max_size=4)
)


def test_a_group_worked_out_by_hand():
    # mean 0.5; squared deviations 0.25 * 4 = 1, over 4 - 1; the root of 1/3 is 0.57735
    rewards = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    scaled = group_advantages(rewards, scale=True)
    assert scaled[0].tolist() == pytest.approx([0.5 / 0.57745027] * 2 + [-0.5 / 0.57745027] * 2)


def test_equal_rewards_teach_nothing_even_where_their_mean_is_rounded():
    rewards = torch.tensor([[0.1] * 7, [0.9] * 7], dtype=torch.float32)
    assert group_advantages(rewards, scale=True).eq(0).all()


@given(groups)
def test_advantages_of_a_group_sum_to_zero(rewards: list[list[float]]):
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64), scale=False)
    assert advantages.sum(dim=1).abs().max() < 1e-9


@given(groups, tenths)
def test_a_reward_that_everybody_gets_changes_nothing(rewards: list[list[float]], bonus: float):
    plain = torch.tensor(rewards, dtype=torch.float64)
    for scale in (True, False):
        torch.testing.assert_close(
            group_advantages(plain + bonus, scale=scale),
            group_advantages(plain, scale=scale),
            atol=1e-9,
            rtol=1e-9,
        )


def test_groups_do_not_see_each_other():
    rewards = torch.tensor([[0.0, 1.0], [5.0, 9.0]])
    alone = torch.cat([group_advantages(row[None], scale=True) for row in rewards])
    assert group_advantages(rewards, scale=True).equal(alone)
