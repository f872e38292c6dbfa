"""Rows as prefix trees: what rows share at their beginning stands in a tree once.

Tokens are told apart by their ids, and an image's placeholders by the image: two pictures have the
same ids. A tree is laid out depth first in one line of tokens, so that whatever comes after a token
on some row stands in one interval after it: `ends` alone says who may look at whom. Pure data; what
runs a model over it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from visual_arft.errors import UserError
from visual_arft.training.segments import Row
from visual_arft.types import Image


@dataclass(frozen=True)
class Tree:
    """Some rows in one line of tokens, each distinct beginning once."""

    rows: tuple[Row, ...]
    """In depth-first order."""
    ids: Int[Tensor, " line"]
    ends: Int[Tensor, " line"]
    """One past the last token below each: k comes before q on a row where k <= q < ends[k]."""
    paths: Int[Tensor, "row tok"]
    """Where in the line each token of each row stands; 0 on the filling."""
    sampled: Int[Tensor, " edge"]
    """The tokens that the policy wrote on some row and that follow another, each once."""
    parents: Int[Tensor, " edge"]
    """The token before each of them."""
    images: tuple[Image, ...]
    """In the order of their placeholders in the line."""


@dataclass(frozen=True)
class Run:
    """Tokens in a line that follow one another without a branch, `start` up to `stop`."""

    start: int
    stop: int
    end: int
    """One past the last token below; the branches stand from `stop` up to here."""


def trees(rows: Sequence[Row], image_token: int, budget: int) -> list[Tree]:
    """The rows as trees of at most `budget` tokens, cut where least is computed again.

    A row stays whole, with all that it is sampled after: one longer than the budget is a
    `UserError` that names its task. Each image must have one run of placeholders of its own.
    """
    numbers: dict[str, int] = {}
    keyed = [_keyed(row, image_token, numbers) for row in rows]
    # In the order of their keys, rows that begin alike are neighbours: this is depth first.
    keyed.sort(key=lambda each: each.keys)
    for each in keyed:
        if len(each.keys) > budget:
            raise UserError(
                f"task {each.row.task_id!r}: a row of {len(each.keys)} tokens is longer than "
                f"pack_tokens = {budget}; raise pack_tokens, or sample shorter episodes"
            )
    shared = [0, *(_common(one.keys, other.keys) for one, other in pairwise(keyed))]
    bounds = _cut([len(each.keys) for each in keyed], shared, budget)
    return [_tree(keyed[start:stop], shared[start:stop]) for start, stop in bounds]


def runs(ends: Int[Tensor, " line"]) -> list[Run]:
    """A line's runs, in order: a token goes on with the run before it where both end together."""
    found: list[Run] = []
    for place, end in enumerate(ends.tolist()):
        if found and found[-1].end == end:
            found[-1] = Run(found[-1].start, place + 1, end)
        else:
            found.append(Run(place, place + 1, end))
    return found


@dataclass(frozen=True)
class _Keyed:
    """A row, what its tokens are compared by, and where its images begin."""

    row: Row
    keys: tuple[int, ...]
    image_starts: tuple[int, ...]


def _keyed(row: Row, image_token: int, numbers: dict[str, int]) -> _Keyed:
    """Ids as they are; the placeholders of an image as a number below 0, of `numbers`' giving."""
    keys: list[int] = []
    starts: list[int] = []
    before: int | None = None
    key = 0
    for place, token in enumerate(row.ids):
        if token == image_token and before != image_token:
            key = -1 - numbers.setdefault(row.images[len(starts)].sha256, len(numbers))
            starts.append(place)
        keys.append(key if token == image_token else token)
        before = token
    return _Keyed(row, tuple(keys), tuple(starts))


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many keys two rows share at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _cut(lengths: Sequence[int], shared: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Consecutive rows as packs `start` up to `stop`: the fewest tokens, then the fewest packs."""
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    """For the rows before each: tokens, packs, and where the last pack starts."""
    for stop in range(1, len(lengths) + 1):
        choices: list[tuple[int, int, int]] = []
        tails = 0
        for start in range(stop - 1, -1, -1):
            size = lengths[start] + tails
            if size <= budget:
                choices.append((best[start][0] + size, best[start][1] + 1, start))
            tails += lengths[start] - shared[start]
            if tails > budget:
                break
        best.append(min(choices))
    bounds: list[tuple[int, int]] = []
    stop = len(lengths)
    while stop:
        bounds.append((best[stop][2], stop))
        stop = best[stop][2]
    return bounds[::-1]


def _tree(keyed: Sequence[_Keyed], shared: Sequence[int]) -> Tree:
    ids: list[int] = []
    ends: list[int] = []
    parents: list[int] = []
    images: list[Image] = []
    paths: list[list[int]] = []
    sampled: set[int] = set()
    path: list[int] = []
    for number, each in enumerate(keyed):
        common = shared[number] if number else 0
        for closed in path[common:]:
            ends[closed] = len(ids)
        path = [*path[:common], *range(len(ids), len(ids) + len(each.keys) - common)]
        parents += [path[n - 1] if n else -1 for n in range(common, len(path))]
        ids += each.row.ids[common:]
        ends += [0] * (len(ids) - len(ends))
        pairs = zip(each.image_starts, each.row.images, strict=True)
        images += [image for start, image in pairs if start >= common]
        sampled |= {path[n] for n, is_sampled in enumerate(each.row.mask) if n and is_sampled}
        paths.append(path)
    for closed in path:
        ends[closed] = len(ids)
    children = sorted(sampled)
    width = max(map(len, paths))
    return Tree(
        rows=tuple(each.row for each in keyed),
        ids=torch.tensor(ids),
        ends=torch.tensor(ends),
        paths=torch.tensor([each + [0] * (width - len(each)) for each in paths]),
        sampled=torch.tensor(children, dtype=torch.long),
        parents=torch.tensor([parents[child] for child in children], dtype=torch.long),
        images=tuple(images),
    )
