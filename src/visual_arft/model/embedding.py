"""A local embedding model: whatever transformers loads, its last layer made one vector a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from visual_arft.errors import UserError


class SentenceModel:
    """An embedder of texts; how it pools is read from `1_Pooling/config.json`, else by the mean."""

    def __init__(self, folder: Path, *, max_tokens: int = 512) -> None:
        """Loads a folder as transformers saves it; raises `UserError` where it is none."""
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: not an embedding model ({error}); give its folder"
            ) from None
        self._model.eval()
        self._tokenizer.padding_side = "right"
        self._max_tokens = max_tokens
        self._pool = _pooling(folder)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 for each text."""
        inputs = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        states: Tensor = self._model(**inputs).last_hidden_state
        pooled = self._pool(states.float(), inputs["attention_mask"])
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()


def _pooling(folder: Path) -> Callable[[Tensor, Tensor], Tensor]:
    try:
        modes = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        modes = {}
    if modes.get("pooling_mode_cls_token"):
        return _first
    if modes.get("pooling_mode_lasttoken"):
        return _last
    return _mean


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    counted = mask.unsqueeze(-1).to(states.dtype)
    return (states * counted).sum(1) / counted.sum(1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _last(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states)), mask.sum(1) - 1]
