from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from visual_arft.errors import UserError
from visual_arft.training.packed import BLOCK, block_mask, dense_mask
from visual_arft.training.segments import Row
from visual_arft.training.shared import blocks
from visual_arft.training.tree import Tree, runs, trees
from visual_arft.types import Image

IMAGE_TOKEN, START = 9, 8
PICTURES = [Image(sha256=f"{n}" * 64, width=28 * n, height=28) for n in (1, 2, 3)]
"""Of one token, two and three."""

# A piece is a word, sampled or not, or a picture.
pieces = st.one_of(st.tuples(st.integers(0, 2), st.booleans()), st.sampled_from(PICTURES))


@st.composite
def row_lists(draw: st.DrawFn) -> list[Row]:
    drawn = draw(st.lists(st.lists(pieces, min_size=1, max_size=7), min_size=1, max_size=6))
    return [row(f"t{number}", each) for number, each in enumerate(drawn)]


def row(name: str, drawn: list[Image | tuple[int, bool]]) -> Row:
    ids: list[int] = []
    mask: list[bool] = []
    for piece in drawn:
        if isinstance(piece, Image):
            ids += [START, *[IMAGE_TOKEN] * (piece.width // 28)]
            mask += [False] * (len(ids) - len(mask))
        else:
            ids.append(piece[0])
            mask.append(piece[1])
    images = tuple(piece for piece in drawn if isinstance(piece, Image))
    return Row(name, tuple(ids), tuple(mask), (0.0,) * len(ids), images, 1.0)


def beginning(row: Row, length: int) -> tuple[object, ...]:
    """The first tokens of a row, each placeholder as the image it stands for."""
    images = iter(row.images)
    found: list[object] = []
    for place, token in enumerate(row.ids):
        if token == IMAGE_TOKEN and row.ids[place - 1] == START:
            image = next(images)
        found.append(image.sha256 if token == IMAGE_TOKEN else token)
    return tuple(found[:length])


def beginnings(rows: list[Row]) -> set[tuple[object, ...]]:
    return {beginning(each, n + 1) for each in rows for n in range(len(each.ids))}


def paths(tree: Tree) -> list[tuple[Row, list[int]]]:
    pairs = zip(tree.rows, tree.paths.tolist(), strict=True)
    return [(each, path[: len(each.ids)]) for each, path in pairs]


@given(row_lists())
def test_each_row_is_a_path_and_a_token_looks_at_what_is_before_it_on_its_path(rows: list[Row]):
    [tree] = trees(rows, IMAGE_TOKEN, 1000)
    sees = dense_mask(tree.ends)
    for each, path in paths(tree):
        assert tuple(tree.ids[path].tolist()) == each.ids
        for number, place in enumerate(path):
            assert sees[place].nonzero().flatten().tolist() == path[: number + 1]


@given(row_lists())
def test_rows_share_a_token_where_all_before_it_is_the_same_images_included(rows: list[Row]):
    [tree] = trees(rows, IMAGE_TOKEN, 1000)
    assert len(tree.ids) == len(beginnings(rows))
    told = {}
    for each, path in paths(tree):
        for number, place in enumerate(path):
            assert told.setdefault(place, beginning(each, number + 1)) == beginning(
                each, number + 1
            )


def test_no_token_passes_for_an_image():
    texts = [Row(f"t{n}", (START, n), (False, True), (0.0, 0.0), (), 1.0) for n in range(100)]
    texts[IMAGE_TOKEN] = row("seen", [PICTURES[0]])
    [tree] = trees(texts, IMAGE_TOKEN, 1000)
    assert len(tree.ids) == 101


@given(row_lists())
def test_the_edges_are_the_sampled_tokens_each_once_after_the_token_before_it(rows: list[Row]):
    [tree] = trees(rows, IMAGE_TOKEN, 1000)
    edges = {
        (path[n], path[n - 1])
        for each, path in paths(tree)
        for n in range(1, len(path))
        if each.mask[n]
    }
    found = list(zip(tree.sampled.tolist(), tree.parents.tolist(), strict=True))
    assert found == sorted(edges)


@given(row_lists())
def test_images_stand_in_the_order_of_their_placeholders(rows: list[Row]):
    [tree] = trees(rows, IMAGE_TOKEN, 1000)
    told = {}
    for each, path in paths(tree):
        starts = [path[n + 1] for n, token in enumerate(each.ids) if token == START]
        told |= dict(zip(starts, each.images, strict=True))
    assert [image for _, image in sorted(told.items())] == list(tree.images)


@given(row_lists(), st.integers(0, 30))
def test_packs_hold_each_row_whole_within_the_budget_and_compute_the_least(
    rows: list[Row], spare: int
):
    budget = max(len(each.ids) for each in rows) + spare
    cut = trees(rows, IMAGE_TOKEN, budget)
    assert all(len(tree.ids) <= budget for tree in cut)
    assert Counter(each for tree in cut for each in tree.rows) == Counter(rows)
    order = [each for tree in cut for each in tree.rows]
    assert (sum(len(tree.ids) for tree in cut), len(cut)) == min(
        (sum(map(len, parts)), len(parts))
        for parts in partitions([beginnings([each]) for each in order])
        if all(len(part) <= budget for part in parts)
    )


def partitions(sets: list[set[object]]) -> list[list[set[object]]]:
    """Every way to unite neighbours."""
    places = range(1, len(sets))
    bounds = [(0, *cut, len(sets)) for n in range(len(sets)) for cut in combinations(places, n)]
    return [[set().union(*sets[a:b]) for a, b in pairwise(each)] for each in bounds]


def test_a_row_longer_than_the_budget_is_an_error_that_names_its_task():
    long = row("the long one", [(1, True)] * 5)
    with pytest.raises(UserError, match=r"^task 'the long one': a row of 5 tokens is longer than pack_tokens = 4; raise pack_tokens, or sample shorter episodes$"):  # fmt: skip
        trees([row("a", [(1, True)] * 4), long], IMAGE_TOKEN, 4)


def test_equal_rows_with_other_credit_stay_two_rows_of_one_path():
    one = row("t", [(1, False), (2, True)])
    [tree] = trees([one, replace(one, advantage=-1.0)], IMAGE_TOKEN, 10)
    assert len(tree.ids) == 2
    assert [each.advantage for each in tree.rows] == [1.0, -1.0]
    assert tree.paths.tolist() == [[0, 1], [0, 1]]


@given(row_lists())
def test_runs_cover_the_line_and_part_only_at_branches(rows: list[Row]):
    [tree] = trees(rows, IMAGE_TOKEN, 1000)
    found = runs(tree.ends)
    assert [place for run in found for place in range(run.start, run.stop)] == list(
        range(len(tree.ids))
    )
    ends = tree.ends.tolist()
    assert all(set(ends[run.start : run.stop]) == {run.end} for run in found)
    assert all(one.end != other.end or one.stop != other.start for one, other in pairwise(found))  # fmt: skip


@given(row_lists(), st.sampled_from([1, 2, 3, 128]))
def test_blocks_are_who_looks_at_whom_each_pair_once(rows: list[Row], piece: int):
    [tree] = trees(rows, IMAGE_TOKEN, 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visual_arft.training.shared._PIECE", piece)
        found = blocks(tree)
    looks = torch.zeros(len(tree.ids), len(tree.ids), dtype=torch.int)
    for block in found:
        part = torch.ones(block.last - block.first, block.stop - block.start, dtype=torch.int)
        looks[block.first : block.last, block.start : block.stop] += (
            part.tril() if block.is_causal else part
        )
    assert torch.equal(looks, dense_mask(tree.ends).int())


@st.composite
def lines(draw: st.DrawFn) -> torch.Tensor:
    """Where branches end, of lines of several of FlexAttention's blocks."""
    length = draw(st.integers(1, 700))
    ends: list[int] = []
    still_open = [length]
    while len(ends) < length:
        while still_open[-1] <= len(ends):
            still_open.pop()
        if draw(st.integers(0, 3)) and still_open[-1] > len(ends) + 1:
            still_open.append(draw(st.integers(len(ends) + 1, still_open[-1])))
        for _ in range(draw(st.integers(1, 300))):
            if len(ends) < still_open[-1]:
                ends.append(still_open[-1])
    return torch.tensor(ends)


@given(lines())
@example(torch.tensor([BLOCK * 3] * BLOCK * 3))
def test_the_block_mask_skips_what_nobody_sees_and_masks_nothing_that_all_see(ends: torch.Tensor):
    count = -(-len(ends) // BLOCK)
    dense = torch.zeros(count * BLOCK, count * BLOCK, dtype=torch.bool)
    dense[: len(ends), : len(ends)] = dense_mask(ends)
    tiles = dense.view(count, BLOCK, count, BLOCK)
    is_full, is_seen = tiles.all(dim=3).all(dim=1), tiles.any(dim=3).any(dim=1)
    mask = block_mask(ends)
    assert torch.equal(listed(mask.full_kv_num_blocks, mask.full_kv_indices), is_full)
    assert torch.equal(listed(mask.kv_num_blocks, mask.kv_indices), is_seen & ~is_full)
    places = torch.arange(len(ends))
    none = torch.tensor(0)
    said = mask.mask_mod(none, none, places[:, None], places[None, :])
    assert torch.equal(said, dense_mask(ends))


def listed(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for row, count in enumerate(counts[0, 0].tolist()):
        found[row, indices[0, 0, row, :count].long()] = True
    return found
