from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visual_arft.model.prefixes import PrefixCache, Token

A, B = "a" * 64, "b" * 64
sequences = st.lists(st.sampled_from([1, 2, A, B]), min_size=1, max_size=7).map(tuple)


def after(tokens: Sequence[Token]) -> list[int]:
    return [
        sum(tokens[:end].count(A) + 1 for end in range(place + 1)) for place in range(len(tokens))
    ]


def states(tokens: Sequence[Token], start: int, stop: int) -> Tensor:
    """What stands for keys and values: of each token, a number that says all that came before."""
    numbers = [float(hash(tuple(tokens[: place + 1])) % 10_007) for place in range(start, stop)]
    return torch.tensor(numbers).reshape(1, 1, 1, -1, 1)


def add(cache: PrefixCache, tokens: tuple[Token, ...]) -> None:
    cache.add(tokens, after(tokens), partial(states, tokens))


def check(cache: PrefixCache, tokens: tuple[Token, ...]) -> int:
    """How much of a sequence is found; what is found must be right."""
    found = cache.find(tokens)
    length = len(found.after)
    assert list(found.after) == after(tokens)[:length]
    if length:
        assert torch.equal(torch.cat(found.pieces, -2), states(tokens, 0, length))
    assert sum(piece.shape[-2] for piece in found.pieces) == length
    return length


@given(st.lists(sequences, max_size=12), sequences)
def test_the_longest_beginning_of_any_sequence_is_found(kept: list[tuple[Token, ...]], asked):
    cache = PrefixCache(10_000)
    for each in kept:
        add(cache, each)
    begun = {each[:end] for each in kept for end in range(len(each) + 1)}
    assert check(cache, asked) == max(
        end for end in range(len(asked)) if not end or asked[:end] in begun
    )


@given(st.lists(sequences, max_size=12))
def test_what_sequences_share_is_kept_once(kept: list[tuple[Token, ...]]):
    cache = PrefixCache(10_000)
    for each in kept:
        add(cache, each)
    assert cache.size == len({each[:end] for each in kept for end in range(1, len(each) + 1)})


@given(st.lists(sequences, max_size=20), st.integers(0, 12))
def test_no_more_is_kept_than_the_limit_and_what_is_left_is_right(
    kept: list[tuple[Token, ...]], limit: int
):
    cache = PrefixCache(limit)
    for each in kept:
        add(cache, each)
        assert cache.size <= limit
        for other in kept:
            check(cache, other)


def test_the_longest_unused_goes_first():
    cache = PrefixCache(6)
    add(cache, (1, 1, 1))
    add(cache, (2, 2, 2))
    assert check(cache, (1, 1, 1, 7)) == 3
    add(cache, (A, A, A))
    assert [check(cache, (token, token, token, 7)) for token in (1, 2, A)] == [3, 0, 3]


def test_only_what_is_new_is_taken():
    taken = []

    def take(start: int, stop: int) -> Tensor:
        taken.append((start, stop))
        return torch.zeros(1, 1, 1, stop - start, 1)

    cache = PrefixCache(100)
    cache.add((1, 2, 3), (1, 2, 3), take)
    cache.add((1, 2, 3), (1, 2, 3), take)
    cache.add((1, 2, 4, 5), (1, 2, 3, 4), take)
    assert taken == [(0, 3), (2, 4)]


def test_a_part_that_was_split_off_holds_no_more_memory_than_its_own():
    cache = PrefixCache(4)
    add(cache, (1, 1, 1, 2))
    add(cache, (1, 3))
    [upper] = cache.find((1, 9)).pieces
    assert upper.untyped_storage().nbytes() == upper.element_size()
    cache = PrefixCache(10)
    add(cache, (1, 1, 1, 2))
    add(cache, (1, 3))
    _, lower = cache.find((1, 1, 1, 2, 9)).pieces
    assert lower.untyped_storage().nbytes() == 3 * lower.element_size()
