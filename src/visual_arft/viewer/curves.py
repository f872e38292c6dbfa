"""Line charts of what a run logged, as plain geometry that a template draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 48, WIDTH - 10, 12, HEIGHT - 36
"""The frame of the plot in the units of the picture."""


class Tick(NamedTuple):
    """A labelled place on an axis."""

    at: float
    label: str


class Curve(NamedTuple):
    """One quantity over the steps of a run."""

    title: str
    points: str
    """x,y pairs as SVG wants them."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM


def curves(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """A chart for each number that was logged with a `step` at least twice, in order of appearance.

    Rows with a `phase` are charted apart from those of other phases.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not _is_number(row.get("step")):
            continue
        phase = f"{row['phase']}: " if row.get("phase") else ""
        for name, value in row.items():
            if name != "step" and _is_number(value):
                series.setdefault(phase + name, []).append((row["step"], value))
    return [curve(title, points) for title, points in series.items() if len(points) > 1]


def curve(title: str, points: Sequence[tuple[float, float]]) -> Curve:
    """The chart of one quantity."""
    steps, values = zip(*points, strict=True)
    x = _Axis(*_bounds(steps), LEFT, RIGHT)
    y = _Axis(*_bounds(values), BOTTOM, TOP)
    return Curve(
        title=title,
        points=" ".join(f"{x.place(step)},{y.place(value)}" for step, value in points),
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
    )


class _Axis(NamedTuple):
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int = 5) -> list[Tick]:
        """Round numbers within the bounds: at most about `most` of them."""
        unit = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        width = next(unit * m for m in (1, 2, 5, 10) if (self.high - self.low) / (unit * m) <= most)
        numbers = range(math.ceil(self.low / width), math.floor(self.high / width) + 1)
        return [Tick(self.place(number * width), f"{number * width:.6g}") for number in numbers]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The least and greatest value, apart from each other even where all are equal."""
    low, high = min(values), max(values)
    margin = 0.5 * abs(low) or 0.5
    return (low, high) if high - low > 1e-9 * abs(high) else (low - margin, high + margin)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
