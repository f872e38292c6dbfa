from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from visual_arft.viewer.curves import BOTTOM, LEFT, RIGHT, TOP, curve, curves

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 4))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(values=st.lists(numbers, min_size=2, max_size=20))
def test_every_point_and_tick_lies_within_the_frame(values):
    drawn = curve("reward", list(enumerate(values)))
    for point in drawn.points.split():
        x, y = map(float, point.split(","))
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM
    assert all(LEFT <= tick.at <= RIGHT for tick in drawn.x_ticks)
    assert all(TOP <= tick.at <= BOTTOM for tick in drawn.y_ticks)
    assert 1 <= len(drawn.y_ticks) <= 6


def test_a_line_rises_from_the_lower_left_to_the_upper_right():
    drawn = curve("reward", [(0, 0.0), (10, 1.0)])
    assert drawn.points == f"{LEFT}.0,{BOTTOM}.0 {RIGHT}.0,{TOP}.0"
    assert [tick.label for tick in drawn.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_only_numbers_that_were_logged_twice_with_a_step_are_charted():
    rows = [
        {"phase": "rl", "step": 1, "reward": 0.1, "note": "x", "kl": math.nan, "ok": True},
        {"phase": "rl", "step": 2, "reward": 0.2, "kl": math.nan, "final": 1.0},
        {"reward": 0.3},
        {"phase": "cold start", "step": 1, "loss": 2.0},
        {"phase": "cold start", "step": 2, "loss": 1.0},
    ]
    assert [each.title for each in curves(rows)] == ["rl: reward", "cold start: loss"]
