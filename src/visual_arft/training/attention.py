"""How a model of transformers attends along the paths of a tree: a way in, and who is refused.

Every layer but attention treats tokens one by one and needs no change. Attention is asked for by
name, so a name of our own is registered: called with a tree it attends along its paths, called
without one it is what the model used before.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from visual_arft.errors import UserError

_SUFFIX = "_or_tree"


class Attention(Protocol):
    """One way to attend along the paths of one tree."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """What each token of the line sees on its path; all are 1 x head x line x dim."""
        ...


@contextmanager
def admitting_trees(core: Any) -> Generator[None]:
    """Within it a model's forward takes `tree=`; `UserError` names a model that cannot.

    A backward pass belongs within it too: gradient checkpointing runs layers a second time there.
    """
    config = core.model.language_model.config
    before: str = config._attn_implementation
    if not before.endswith(_SUFFIX):
        _check(core, config)
        config._attn_implementation = _registered(before)
    try:
        yield
    finally:
        config._attn_implementation = before


def line_mask(device: torch.device) -> Tensor:
    """What stands for the mask where a tree is given: transformers makes none of its own."""
    return torch.empty((1, 1, 1, 1), device=device)


def _registered(usual: str) -> str:
    """The name of an attention that is `usual` where no tree is given."""
    known = usual if usual in ALL_ATTENTION_FUNCTIONS else "sdpa"  # the models' own is in no table
    name = usual + _SUFFIX
    ALL_ATTENTION_FUNCTIONS.register(name, _or_tree(ALL_ATTENTION_FUNCTIONS[known]))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[known])
    return name


def _or_tree(usual: Any) -> Any:
    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        tree: Attention | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if tree is None:
            return usual(module, query, key, value, attention_mask, **kwargs)
        # Under autocast the rotary embedding leaves queries and keys wider than the projections.
        seen = tree(query.to(value.dtype), key.to(value.dtype), value, kwargs["scaling"])
        return seen.transpose(1, 2), None

    return attend


def _check(core: Any, config: Any) -> None:
    """Raises `UserError` for a model whose layers cannot attend along a tree."""
    usual = ["sliding_attention"] if getattr(config, "use_sliding_window", False) else []
    kinds = set(getattr(config, "layer_types", None) or usual) - {"full_attention"}
    if not core._supports_attention_backend:
        kinds.add("attention that cannot be exchanged")
    if core.training and getattr(config, "attention_dropout", 0.0):
        kinds.add("attention with dropout")
    if kinds:
        raise UserError(
            f"{core.config.name_or_path or core.config.model_type}: its layers "
            f"({', '.join(sorted(kinds))}) cannot attend along a tree; set tree.way = 'padded'"
        )
