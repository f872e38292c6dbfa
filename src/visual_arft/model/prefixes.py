"""Keys and values that were computed once, found again by the tokens that they belong to.

They lie in a tree of tokens: what sequences have in common at their beginning is kept once, and a
new sequence takes over all that it shares with any before it. An image's tokens are named by the
picture, so those of different pictures never match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from visual_arft.types import Image

Token = int | str
"""An id; in an image's places, the hash of the picture."""

Take = Callable[[int, int], Tensor]
"""`take(start, stop)`: keys and values of a stretch of tokens, in memory of their own."""


def names(ids: Sequence[int], images: Sequence[Image], image_id: int) -> tuple[Token, ...]:
    """The ids, with each run of image placeholders named by its picture.

    >>> picture = Image(sha256="0" * 64, width=8, height=8)
    >>> [str(name)[:4] for name in names([7, 5, 5, 8], [picture], 5)]
    ['7', '0000', '0000', '8']
    """
    named: list[Token] = []
    pictures = iter(images)
    picture = ""
    for place, token in enumerate(ids):
        if token != image_id:
            named.append(token)
            continue
        if not place or ids[place - 1] != image_id:
            picture = next(pictures).sha256
        named.append(picture)
    return tuple(named)


@dataclass(frozen=True)
class Found:
    """The beginning of a sequence that was computed before."""

    pieces: tuple[Tensor, ...]
    """Its keys and values in order: layer x 2 x head x tok x dim."""
    after: tuple[int, ...]
    """For each of its tokens, the rotary position of the token after it; of an image's tokens only
    the last one's counts."""


@dataclass(eq=False)
class _Node:
    """A stretch of tokens in which no two sequences part."""

    tokens: tuple[Token, ...] = ()
    after: tuple[int, ...] = ()
    states: Tensor | None = None
    parent: _Node | None = None
    children: dict[Token, _Node] = field(default_factory=dict)
    used: int = 0
    """When it was last of use."""


class PrefixCache:
    """What is kept, up to a number of tokens; the longest unused goes first."""

    def __init__(self, limit: int) -> None:
        """Starts empty; `limit` tokens are kept."""
        self._limit = limit
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._root = _Node()
        self._clock = 0
        self.size = 0
        """Tokens that are kept."""

    def find(self, tokens: tuple[Token, ...]) -> Found:
        """The longest beginning of a sequence that is kept; its last token is never part of it.

        That one is computed in any case, for what the model says after it.
        """
        self._clock += 1
        pieces: list[Tensor] = []
        after: list[int] = []
        for node, shared in self._path(tokens[:-1]):
            assert node.states is not None
            pieces.append(node.states[..., :shared, :])
            after += node.after[:shared]
        return Found(tuple(pieces), tuple(after))

    def add(self, tokens: tuple[Token, ...], after: Sequence[int], take: Take) -> None:
        """Keeps a sequence; what is kept of it already is not taken again.

        Args:
            tokens: the sequence.
            after: for each token, the rotary position of the token after it.
            take: gives the keys and values of a stretch of it.
        """
        self._clock += 1
        node, done = self._root, 0
        for below, shared in self._path(tokens):
            node = self._split(below, shared) if shared < len(below.tokens) else below
            done += shared
        if done < len(tokens):
            states = take(done, len(tokens))
            leaf = _Node(tokens[done:], tuple(after[done:]), states, node)
            leaf.used = self._clock
            node.children[leaf.tokens[0]] = leaf
            self.size += len(leaf.tokens)
            self._shrink()

    def _path(self, tokens: tuple[Token, ...]) -> list[tuple[_Node, int]]:
        """The nodes along a sequence, and how many tokens of each it shares; they are of use."""
        path: list[tuple[_Node, int]] = []
        node, done = self._root, 0
        while done < len(tokens) and (below := node.children.get(tokens[done])) is not None:
            below.used = self._clock
            shared = _shared(below.tokens, tokens[done : done + len(below.tokens)])
            path.append((below, shared))
            if shared < len(below.tokens):
                break
            node, done = below, done + shared
        return path

    def _split(self, node: _Node, at: int) -> _Node:
        """The upper part of a node that is made two, so that a sequence can part from it there."""
        assert node.states is not None
        assert node.parent is not None
        upper = _Node(
            node.tokens[:at], node.after[:at], node.states[..., :at, :].clone(), node.parent
        )
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.after = node.tokens[at:], node.after[at:]
        node.states, node.parent = node.states[..., at:, :].clone(), upper
        upper.children = {node.tokens[0]: node}
        return upper

    def _shrink(self) -> None:
        while self.size > self._limit:
            leaves = [each for each in _below(self._root) if not each.children]
            for leaf in sorted(leaves, key=lambda each: each.used):
                if self.size <= self._limit:
                    return
                assert leaf.parent is not None
                del leaf.parent.children[leaf.tokens[0]]
                self.size -= len(leaf.tokens)


def _below(node: _Node) -> Iterator[_Node]:
    for child in node.children.values():
        yield child
        yield from _below(child)


def _shared(one: tuple[Token, ...], other: tuple[Token, ...]) -> int:
    if one == other:
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
