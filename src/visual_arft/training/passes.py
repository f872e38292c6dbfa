"""An update's rows in parts that fit into memory: as trees of what they share, or padded.

Whichever it is, a part gives log-probabilities (row x tok) of what the policy wrote, and the loss
cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visual_arft.errors import UserError
from visual_arft.model.vlm import VisionLanguageModel, placed
from visual_arft.training.attention import Attention, admitting_trees, line_mask
from visual_arft.training.batch import Batch, pad
from visual_arft.training.packed import PackedAttention
from visual_arft.training.pictures import Pictures
from visual_arft.training.segments import Row
from visual_arft.training.settings import TreeConfig
from visual_arft.training.shared import SharedAttention
from visual_arft.training.tree import Tree, trees
from visual_arft.training.updates import logprobs_of, micro_batches, prepare
from visual_arft.types import Image

_CHUNK = 2**26
"""Logits that exist at once."""


class Pass(Protocol):
    """Some of an update's rows."""

    @property
    def batch(self) -> Batch:
        """The rows as the loss takes them."""
        ...

    def logprobs(self, vlm: VisionLanguageModel, temperature: float) -> Tensor:
        """Log p (row x tok) of the tokens that the policy wrote, 0 elsewhere."""
        ...


def passes(
    vlm: VisionLanguageModel, rows: Sequence[Row], config: TreeConfig, *, micro_batch_size: int
) -> Generator[Pass]:
    """The rows in parts; take the next one when the backward pass of the one before is done.

    Raises `TokenMismatch` naming the task where a row's images do not match its ids.
    """
    with vlm.recomputing():
        if config.way == "padded":
            for part in micro_batches(rows, micro_batch_size):
                yield _PaddedPass(vlm, part)
        else:
            yield from _tree_passes(vlm, rows, config)


def _tree_passes(
    vlm: VisionLanguageModel, rows: Sequence[Row], config: TreeConfig
) -> Generator[Pass]:
    for row in rows:
        vlm.chat.check(row.ids, row.images, f"task {row.task_id!r}")
    grown = trees(rows, vlm.chat.image_token_id, config.pack_tokens)
    pictures = _Albums([tree.images for tree in grown])
    with admitting_trees(vlm.core):
        for number, tree in enumerate(grown):
            yield _TreePass(vlm, tree, _attention(tree, config.way, vlm.device), pictures)
            pictures.release(number)


class _PaddedPass:
    """Rows side by side, each computed whole."""

    def __init__(self, vlm: VisionLanguageModel, rows: Sequence[Row]) -> None:
        self.batch, self._inputs = prepare(vlm, rows)

    def logprobs(self, vlm: VisionLanguageModel, temperature: float) -> Tensor:
        """Log p (row x tok) of the tokens that the policy wrote, 0 elsewhere."""
        return logprobs_of(vlm, self.batch, self._inputs, temperature)


class _TreePass:
    """Rows as a tree: log p of each token that was sampled once, for all rows that use it."""

    def __init__(
        self, vlm: VisionLanguageModel, tree: Tree, attention: Attention, pictures: _Albums
    ) -> None:
        self.batch = pad(tree.rows, pad_id=0)
        self._tree = tree
        self._attention = attention
        self._pictures = pictures
        self._positions = _positions(vlm, tree)

    def logprobs(self, vlm: VisionLanguageModel, temperature: float) -> Tensor:
        """Log p (row x tok) of the tokens that the policy wrote, 0 elsewhere."""
        tree = self._tree
        ids, sampled, parents, paths = (
            each.to(vlm.device) for each in (tree.ids, tree.sampled, tree.parents, tree.paths)
        )
        features = self._pictures.of(vlm).of(tree.images)
        with admitting_trees(vlm.core):
            output = vlm.core.model(
                input_ids=ids[None],
                attention_mask=line_mask(vlm.device),
                position_ids=self._positions.to(vlm.device),
                use_cache=False,
                tree=self._attention,
                **placed(tree.images, features),
            )
        hidden = output.last_hidden_state[0, parents]
        scores = _scores(vlm, hidden, ids[sampled], temperature)
        line = scores.new_zeros(len(ids)).index_put((sampled,), scores)
        return line[paths].masked_fill(~self.batch.mask.to(vlm.device), 0.0)


class _Albums:
    """The pictures of all parts, for each model that reads them."""

    def __init__(self, parts: Sequence[Sequence[Image]]) -> None:
        self._parts = parts
        self._made: dict[tuple[int, bool], Pictures] = {}

    def of(self, vlm: VisionLanguageModel) -> Pictures:
        """A frozen tower's features serve a model and its reference without adapters alike."""
        tower = vlm.core.model.visual
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())
        key = id(vlm), learns
        if key not in self._made:
            self._made[key] = Pictures(vlm, self._parts)
        return self._made[key]

    def release(self, part: int) -> None:
        """To be called when the backward pass of a part is done."""
        for pictures in self._made.values():
            pictures.release(part)


def _attention(tree: Tree, way: str, device: torch.device) -> Attention:
    if way == "packed" or (way == "auto" and device.type != "cpu"):
        return PackedAttention(tree, device)
    if device.type != "cpu":
        raise UserError(f"tree.way = 'shared' is for a CPU, not for {device}; set 'auto'")
    return SharedAttention(tree)


def _positions(vlm: VisionLanguageModel, tree: Tree) -> Tensor:
    """Rotary positions (3 x 1 x line): a token's are those on any row that it stands on."""
    images = [image for row in tree.rows for image in row.images]
    inputs = vlm.inputs([row.ids for row in tree.rows], images, left=False)
    is_token = inputs.attention.bool()
    line = inputs.positions.new_zeros((3, 1, len(tree.ids)))
    line[:, 0, tree.paths.to(vlm.device)[is_token]] = inputs.positions[:, is_token]
    return line


def _scores(vlm: VisionLanguageModel, hidden: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Log p of each id after its hidden state, in chunks that the backward pass makes again."""

    def score(states: Tensor, chosen: Tensor) -> Tensor:
        found = vlm.log_probabilities(states, temperature)
        return found.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)

    size = max(1, _CHUNK // vlm.core.config.get_text_config().vocab_size)
    if len(ids) <= size:
        return score(hidden, ids)
    found = [
        checkpoint(score, states, chosen, use_reentrant=False, preserve_rng_state=False)
        for states, chosen in zip(hidden.split(size), ids.split(size), strict=True)
    ]
    return torch.cat(found)
