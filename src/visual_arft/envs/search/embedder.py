"""all-MiniLM-L6-v2, the paper's sentence embedder, in numpy: no torch, no sentence-transformers.

It was made for English: a question in Chinese and the same in English are nearly orthogonal. Nor
does it weigh words as a reader would: height and weight of the Eiffel Tower are 0.815 alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from visual_arft.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[np.float32]

OFFICIAL = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""SHA-256 of the published files: the threshold of the query reward belongs to these weights."""

MAX_TOKENS = 256
"""Longer texts are cut, as the published model does."""


class Embedder(Protocol):
    """What turns texts into directions."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 for each text."""
        ...


class MiniLm:
    """A BERT sentence embedder from a folder: mean of the last layer, scaled to length 1."""

    def __init__(self, folder: Path, *, any_weights: bool = False) -> None:
        """Reads the model.

        Args:
            folder: holds `model.safetensors`, `tokenizer.json` and `config.json`.
            any_weights: take a BERT other than the published all-MiniLM-L6-v2.

        Raises:
            UserError: a file is missing or not the published one, or an extra is not installed.
        """
        _check(folder, any_weights)
        self._weights, self._tokenizer = _load(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])

    def embed(self, texts: Sequence[str]) -> Array:
        """One row of length 1 for each text."""
        return np.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Array:
        x = self._words(np.array(self._tokenizer.encode(text).ids))
        for number in range(self._layers):
            x = self._layer(x, f"encoder.layer.{number}")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _words(self, ids: NDArray[np.int64]) -> Array:
        table = {
            kind: self._weights[f"embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        }
        x = table["word"][ids] + table["position"][: len(ids)] + table["token_type"][0]
        return self._norm(x, "embeddings.LayerNorm")

    def _layer(self, x: Array, layer: str) -> Array:
        attended = self._linear(self._attention(x, layer), f"{layer}.attention.output.dense")
        x = self._norm(x + attended, f"{layer}.attention.output.LayerNorm")
        inner = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
        return self._norm(
            x + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
        )

    def _attention(self, x: Array, layer: str) -> Array:
        query, key, value = (
            self._linear(x, f"{layer}.attention.self.{part}")
            .reshape(len(x), self._heads, -1)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(query.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ value).transpose(1, 0, 2).reshape(x.shape)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self._epsilon))
        return centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(x: Array) -> Array:
    """The exact GELU, its erf by Abramowitz and Stegun 7.1.26 (off by less than 1.5e-7)."""
    z = np.abs(x) / np.float32(np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    return (x * (1 + erf) / 2).astype(np.float32)


def _check(folder: Path, any_weights: bool) -> None:
    for name, official in OFFICIAL.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"{folder / name}: {error.strerror}; give the folder of all-MiniLM-L6-v2"
            ) from None
        if found != official and not any_weights:
            raise UserError(
                f"{folder / name}: its SHA-256 is {found[:12]}…, all-MiniLM-L6-v2's is "
                f"{official[:12]}…; download it again, or allow other weights (any_weights)"
            )


def _load(folder: Path) -> tuple[dict[str, Any], Tokenizer]:
    try:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            f"the query reward needs {error.name}; pip install tokenizers safetensors"
        ) from None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return load_file(folder / "model.safetensors"), tokenizer
