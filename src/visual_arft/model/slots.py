"""Memory for the keys and values of sequences side by side, each as long as it is.

Every row starts in column 0; what lies behind its end is masked out. So rows come, grow and go
without the others being copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BLOCK, _BLOCK_OF_ONE = 192, 32
"""Columns that torch's CPU kernels sum at a time, for rows of several tokens and of one: over whole
blocks a row is rounded the same, however many of them the longest row needs."""


class Slots:
    """Rows of keys and values; memory is taken as rows and columns are asked for."""

    def __init__(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Empty, for a language model of transformers with this `config`."""
        head = getattr(config, "head_dim", None)
        head = head or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, 0, config.num_key_value_heads, 0, head)
        self._empty = torch.zeros(shape, device=device, dtype=dtype)
        self.clear()

    def clear(self) -> None:
        """Gives all memory back."""
        self._memory = self._empty

    def reserve(self, rows: int, columns: int) -> None:
        """Makes room for so many rows and columns; what lies there stays."""
        layers, both, had_rows, heads, had_columns, dim = self._memory.shape
        if rows <= had_rows and columns <= had_columns:
            return
        # Some more than asked for, since one row or column seldom comes alone.
        if rows > had_rows:
            rows = max(rows, had_rows + had_rows // 4)
        if columns > had_columns:
            columns = _whole(columns + columns // 4, _BLOCK)
        rows, columns = max(rows, had_rows), max(columns, had_columns)
        # Zeros, for what is masked out must still be a number.
        grown = self._memory.new_zeros((layers, both, rows, heads, columns, dim))
        grown[:, :, :had_rows, :, :had_columns] = self._memory
        self._memory = grown

    def put(self, row: int, start: int, states: Tensor) -> None:
        """Writes a stretch (layer x 2 x head x tok x dim) into a row, from a column on."""
        self._memory[:, :, row, :, start : start + states.shape[-2]] = states

    def take(self, row: int, start: int, stop: int) -> Tensor:
        """A copy of a stretch of a row."""
        return self._memory[:, :, row, :, start:stop].clone()

    def copy(self, row: int, to: int, length: int) -> None:
        """Writes the first columns of a row into another."""
        self._memory[:, :, to, :, :length] = self._memory[:, :, row, :, :length]

    def window(self, first: int, columns: Tensor, width: int) -> Window:
        """The rows from `first` on, for one forward pass of the model.

        Args:
            first: the first of the rows.
            columns: row x tok, where each token's keys and values go.
            width: columns that are in use.
        """
        rows = slice(first, first + len(columns))
        width = _whole(width, _BLOCK if columns.shape[1] > 1 else _BLOCK_OF_ONE)
        return Window(self._memory[:, :, rows, :, :width], columns)


class Window:
    """What a forward pass reads and writes of the slots; takes the place of transformers' cache."""

    def __init__(self, memory: Tensor, columns: Tensor) -> None:
        self._memory = memory
        self._rows = torch.arange(len(columns), device=columns.device).unsqueeze(1)
        self._columns = columns
        width = torch.arange(memory.shape[4], device=columns.device)
        self.mask = (width <= columns.unsqueeze(-1)).unsqueeze(1)
        """Row x 1 x tok x column: what each token sees, itself and all before it."""

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (row x head x column x dim) of a layer, the new tokens' among them."""
        held = self._memory[layer]
        held[0][self._rows, :, self._columns] = keys.transpose(1, 2)
        held[1][self._rows, :, self._columns] = values.transpose(1, 2)
        return held[0], held[1]

    def get_seq_length(self, *args: object) -> int:
        """Asked where no positions are given; they always are."""
        raise AssertionError("a forward pass over slots has positions of its own")


def _whole(columns: int, block: int) -> int:
    return -(-columns // block) * block
