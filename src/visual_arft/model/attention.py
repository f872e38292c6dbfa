"""Attention for decoding that reads keys and values where they lie.

transformers repeats them for each query head that shares them, which can cost more than to attend.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "arft_decoding"


@contextmanager
def decoding(config: Any) -> Generator[None]:
    """Within it a language model with this `config` attends so, if it would by torch's kernel."""
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    rows, heads, tokens, size = query.shape
    attend = partial(scaled_dot_product_attention, attn_mask=mask, scale=kwargs["scaling"])
    if tokens == 1:
        # Query heads that share keys stand where several tokens would: they see the same.
        together = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
        return attend(together, key, value).reshape(rows, 1, heads, size), None
    if query.device.type == "cpu":
        return attend(query, key, value, enable_gqa=True).transpose(1, 2).contiguous(), None
    # A GPU's fast kernels do not know shared keys together with a mask.
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


AttentionInterface.register(_NAME, _attend)
