"""Sequences that a model decodes side by side; each joins and leaves when it likes.

No token and no image is computed twice: a sequence that goes on from one that was decoded before
takes over its keys and values, and equal ones that join together are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from visual_arft.errors import UserError
from visual_arft.model.attention import decoding
from visual_arft.model.chat import Encoded
from visual_arft.model.prefixes import Found, PrefixCache, Token, names
from visual_arft.model.slots import Slots, Window
from visual_arft.model.vlm import Inputs, VisionLanguageModel
from visual_arft.types import Image

_PASS_TOKENS = 16_384
"""Tokens of one forward pass over new sequences, filling included."""

_PASS_COST = 512
"""Tokens that cost about as much as another pass: more filling than that is not computed."""

_STEADY = 4
"""Rows of one token are filled up to so many, and rows of several tokens to a multiple of it: then
torch's CPU kernels round a row the same whatever is computed beside it."""


class Decoder:
    """The rows of a batch, and what is kept of those that were decoded before."""

    def __init__(self, vlm: VisionLanguageModel, *, keep: int) -> None:
        """No rows yet.

        Args:
            vlm: the model; when its weights have changed, what was kept is forgotten.
            keep: tokens whose keys and values stay for sequences to come.
        """
        config = vlm.core.config.get_text_config()
        _check_attention(config)
        self._vlm = vlm
        self._prefixes = PrefixCache(keep)
        self._weights = _version(vlm)
        self._slots = Slots(config, vlm.device, vlm.core.dtype)
        self._rows: list[_Row] = []
        self.last = torch.zeros(0, config.hidden_size, device=vlm.device, dtype=vlm.core.dtype)
        """Row x hidden: the model's state after each row's newest token."""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def forget(self) -> None:
        """Drops what is kept, and gives back the memory that no row needs."""
        self._prefixes.clear()
        if not self._rows:
            self._slots.clear()

    def clear(self) -> None:
        """Drops all rows, and what is kept."""
        self._arrange([])
        self.forget()

    def log_probabilities(self, temperature: float) -> Tensor:
        """Log p of the next token of each row (row x vocabulary), as the model is asked for it."""
        filling = max(0, _STEADY - len(self))
        scores = self._vlm.log_probabilities(pad(self.last, (0, 0, 0, filling)), temperature)
        return scores[: len(self)]

    def join(self, sequences: Sequence[Encoded]) -> list[int]:
        """Adds a row for each; returns which of `sequences` each new row is, in the rows' order."""
        self._forget_old_weights()
        order: list[int] = []
        for part in _passes(self._news(sequences)):
            self._compute(part)
            order += [new.members[0] for new in part]
            first = len(self._rows) - len(part)
            again = [(first + n, each) for n, new in enumerate(part) for each in new.members[1:]]
            self._repeat([row for row, _ in again])
            order += [each for _, each in again]
        return order

    def advance(self, tokens: Sequence[int]) -> None:
        """Writes one more token to each row."""
        filling = [0] * (_STEADY - len(self))
        lengths = [len(row.tokens) for row in self._rows] + filling
        self._slots.reserve(len(lengths), max(lengths) + 1)
        window = self._slots.window(0, self._long(lengths).unsqueeze(1), max(lengths) + 1)
        ids = self._long([*tokens, *filling]).unsqueeze(1)
        positions = self._long([row.after[-1] for row in self._rows] + filling)
        inputs = Inputs(ids, window.mask, positions.expand(3, 1, -1).mT, ())
        self.last = self._states(inputs, window)[: len(self), -1]
        for row, token in zip(self._rows, tokens, strict=True):
            row.tokens.append(token)
            row.after.append(row.after[-1] + 1)

    def leave(self, places: Sequence[int]) -> list[int]:
        """Takes rows out, and keeps what they hold; returns the old places of those that stay."""
        for place in places:
            row = self._rows[place]
            self._prefixes.add(tuple(row.tokens), row.after, partial(self._slots.take, place))
        order = list(range(len(self)))
        for place in sorted(places, reverse=True):
            order[place] = order[-1]  # the last one fills the gap, so that few are moved
            order.pop()
        self._arrange(order)
        return order

    def _forget_old_weights(self) -> None:
        if (weights := _version(self._vlm)) != self._weights:
            self.forget()
            self._weights = weights

    def _news(self, sequences: Sequence[Encoded]) -> list[_New]:
        image_id = self._vlm.chat.image_token_id
        equal: dict[tuple[Token, ...], list[int]] = {}
        for number, each in enumerate(sequences):
            equal.setdefault(names(each.ids, each.images, image_id), []).append(number)
        return [
            _New(sequences[members[0]], tokens, self._prefixes.find(tokens), members)
            for tokens, members in equal.items()
        ]

    def _compute(self, part: Sequence[_New]) -> None:
        """Adds a row for each new sequence, of which only what is new is computed."""
        first, lengths = len(self), [len(new.tokens) for new in part]
        self._slots.reserve(first + len(part), max(lengths) + 1)
        for row, new in enumerate(part, start=first):
            new.put(self._slots, row)
        images = [image for new in part for image in new.images]
        inputs = self._vlm.inputs([new.ids for new in part], images, left=False)
        filling = -inputs.ids.shape[1] % _STEADY
        ids = pad(inputs.ids, (0, filling), value=self._vlm.tokenizer.eos_token_id)
        positions = inputs.positions + self._long([new.position for new in part]).unsqueeze(1)
        starts = self._long([new.start for new in part]).unsqueeze(1)
        columns = starts + torch.arange(ids.shape[1], device=starts.device)
        # The filling's states all go to the column behind the row's end, which comes next.
        columns = columns.minimum(self._long(lengths).unsqueeze(1))
        window = self._slots.window(first, columns, max(lengths) + 1)
        filled = Inputs(ids, window.mask, pad(positions, (0, filling)), inputs.images)
        states = self._states(filled, window)
        ends = self._long([len(new.ids) - 1 for new in part])
        self.last = torch.cat([self.last, states[torch.arange(len(part)), ends]])
        # The largest of time, height and width counts on, as in the model's own generation.
        after = positions.amax(0) + 1
        for new, behind in zip(part, after.tolist(), strict=True):
            self._rows.append(_Row(list(new.tokens), [*new.found.after, *behind[: len(new.ids)]]))

    def _repeat(self, rows: Sequence[int]) -> None:
        """Adds a copy of each of these rows."""
        if not rows:
            return
        width = max(len(self._rows[row].tokens) for row in rows)
        self._slots.reserve(len(self) + len(rows), width + 1)
        for row in rows:
            source = self._rows[row]
            self._slots.copy(row, len(self), len(source.tokens))
            self._rows.append(_Row([*source.tokens], [*source.after]))
        self.last = torch.cat([self.last, self.last[self._long(rows)]])

    def _arrange(self, order: Sequence[int]) -> None:
        for place, row in enumerate(order):
            if place != row:
                self._slots.copy(row, place, len(self._rows[row].tokens))
        self._rows = [self._rows[row] for row in order]
        self.last = self.last[self._long(order)]

    def _states(self, inputs: Inputs, window: Window) -> Tensor:
        with decoding(self._vlm.core.config.get_text_config()):
            output = self._vlm.hidden(inputs, past_key_values=window, use_cache=True)
        return output.last_hidden_state

    def _long(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._vlm.device)


@dataclass
class _Row:
    """A sequence as far as its keys and values are computed."""

    tokens: list[Token]
    after: list[int]
    """For each token, the rotary position of the token after it."""


@dataclass(frozen=True)
class _New:
    """A sequence that joins, once for all `members` that are equal."""

    whole: Encoded
    tokens: tuple[Token, ...]
    found: Found
    """Its beginning, where that was computed before."""
    members: Sequence[int]

    @property
    def start(self) -> int:
        """How many of its tokens need not be computed."""
        return len(self.found.after)

    @property
    def position(self) -> int:
        """The rotary position of the first token to compute."""
        return self.found.after[-1] if self.found.after else 0

    @property
    def ids(self) -> tuple[int, ...]:
        """What is to compute."""
        return self.whole.ids[self.start :]

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures of what is to compute: a prompt never parts from another inside of one."""
        known = self.tokens[: self.start]
        edges = zip(known, (None, *known), strict=False)
        return self.whole.images[sum(isinstance(a, str) and a != b for a, b in edges) :]

    def put(self, slots: Slots, row: int) -> None:
        """Writes what is known into a row."""
        start = 0
        for piece in self.found.pieces:
            slots.put(row, start, piece)
            start += piece.shape[-2]


def _passes(news: Sequence[_New]) -> Iterator[list[_New]]:
    """New sequences in groups for one forward pass: of like length, and not too many tokens."""
    part: list[_New] = []
    for new in sorted(news, key=lambda each: len(each.ids)):
        filling = len(part) * (len(new.ids) - len(part[-1].ids)) if part else 0
        if filling > _PASS_COST or (part and (len(part) + 1) * len(new.ids) > _PASS_TOKENS):
            yield part
            part = []
        part.append(new)
    if part:
        yield part


def _check_attention(config: Any) -> None:
    """Raises `UserError` for layers that do not see all that came before."""
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if others:
        raise UserError(
            f"{config.name_or_path or config.model_type}: its layers use {', '.join(others)}, "
            "which sampling does not support; give a model with full attention in every layer"
        )


def _version(vlm: VisionLanguageModel) -> tuple[tuple[int, int], ...]:
    """Changes with every change of the weights in place, and with other weights."""
    return tuple((each.data_ptr(), each._version) for each in vlm.core.parameters())
