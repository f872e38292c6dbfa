"""A vision-language model ready for sampling and for training: one class for both.

Works with any model of transformers whose vision tower gives features for `image_grid_thw`:
Qwen2-VL, Qwen2.5-VL, Qwen3-VL.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from visual_arft.errors import UserError
from visual_arft.images import Images, decode
from visual_arft.model.chat import Chat
from visual_arft.types import Image

_CACHED_BYTES = 2**27
_MAX_RATIO = 200

Features = tuple[Tensor, ...]
"""What the vision tower makes of one picture: a row for each of its tokens; with deepstack, also
what is added after the first layers."""


class VisionLanguageModel:
    """Weights, tokenizer and image processor of one model on one device."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, images: Images) -> None:
        """Wraps loaded parts; `images` is where the bytes behind an `Image` are found."""
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.images = images
        self.chat = Chat(tokenizer, _image_token(self.core.config, tokenizer), self.image_tokens)
        self._pixels: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._bytes = 0
        self._banned = torch.tensor(self.chat.banned_ids, dtype=torch.long, device=self.device)

    @property
    def core(self) -> Any:
        """The conditional-generation model itself, with its LoRA layers but not PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.core.parameters()).device

    def image_tokens(self, image: Image) -> int:
        """How many tokens the model spends on an image."""
        if max(image.width, image.height) >= _MAX_RATIO * min(image.width, image.height):
            raise UserError(
                f"image {image.sha256[:12]}…: {image.width} x {image.height} pixels are too narrow "
                f"for the model; give one less than {_MAX_RATIO} times as long as wide"
            )
        patches = self.image_processor.get_number_of_image_patches(image.height, image.width)
        return int(patches) // self.image_processor.merge_size**2

    def pixels(self, image: Image) -> tuple[Tensor, Tensor]:
        """Patches (patches x values) and grid (t, h, w) of an image; kept while recently used."""
        if image.sha256 in self._pixels:
            self._pixels.move_to_end(image.sha256)
            return self._pixels[image.sha256]
        # Said and not guessed: an image of 3 pixels' height would pass for its three channels.
        made = self.image_processor(
            images=[decode(self.images.read(image))],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        found = made["pixel_values"], made["image_grid_thw"][0]
        self._pixels[image.sha256] = found
        self._bytes += found[0].nbytes
        while self._bytes > _CACHED_BYTES:
            _, (oldest, _) = self._pixels.popitem(last=False)
            self._bytes -= oldest.nbytes
        return found

    def inputs(
        self, rows: Sequence[Sequence[int]], images: Sequence[Image], *, left: bool
    ) -> Inputs:
        """Rows of ids as one batch, filled up on the `left` or right; `images` of all, in order."""
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            where = slice(width - len(row), width) if left else slice(0, len(row))
            ids[number, where] = torch.tensor(row, dtype=torch.long)
            attention[number, where] = 1
        grids = torch.stack([self.pixels(image)[1] for image in images]) if images else None
        positions = self._positions(ids, attention, grids)
        return Inputs(
            ids.to(self.device), attention.to(self.device), positions.to(self.device), tuple(images)
        )

    def features(self, images: Sequence[Image]) -> dict[str, Any]:
        """Vision features, one for each of `images`; each distinct picture is encoded once."""
        return placed(images, self.encode(images))

    def encode(self, images: Sequence[Image]) -> dict[str, Features]:
        """The vision tower's output for each distinct picture, by its hash."""
        distinct = list({image.sha256: image for image in images}.values())
        if not distinct:
            return {}
        loaded = [self.pixels(image) for image in distinct]
        output = self.core.model.get_image_features(
            torch.cat([values for values, _ in loaded]).to(self.device, self.core.dtype),
            torch.stack([grid for _, grid in loaded]).to(self.device),
            return_dict=True,
        )
        levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        return dict(
            zip((image.sha256 for image in distinct), zip(*levels, strict=True), strict=True)
        )

    def hidden(self, inputs: Inputs, **kwargs: Any) -> Any:
        """The language model's output over a batch, its images included."""
        return self.core.model(
            input_ids=inputs.ids,
            attention_mask=inputs.attention,
            position_ids=inputs.positions,
            **self.features(inputs.images),
            **kwargs,
        )

    def log_probabilities(self, hidden: Tensor, temperature: float) -> Tensor:
        """Log p of the next token (… x vocabulary) after hidden states, control tokens excluded.

        The policy samples from this distribution and the trainer scores with it, so the ratio of an
        unchanged policy is exactly 1. A temperature of 0 stands for greedy choice and scores as 1.
        """
        logits = self.core.lm_head(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / (temperature or 1.0)
        return logits.index_fill(-1, self._banned, float("-inf")).log_softmax(-1)

    def logprobs(self, inputs: Inputs, mask: Tensor, temperature: float) -> Tensor:
        """Log p of every id where `mask` (row x tok) is True, given the ids before; 0 elsewhere."""
        states = self.hidden(inputs, use_cache=False).last_hidden_state[:, :-1]
        learned = mask[:, 1:]
        scores = self.log_probabilities(states[learned], temperature)
        chosen = scores.gather(-1, inputs.ids[:, 1:][learned].unsqueeze(-1)).squeeze(-1)
        out = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device)
        return out.masked_scatter(torch.nn.functional.pad(learned, (1, 0)), chosen)

    @contextmanager
    def recomputing(self) -> Generator[None]:
        """Within it layers that were set to gradient checkpointing are computed twice.

        Only there: such layers keep no keys and values, which sampling needs. transformers asks a
        layer whether it is in training; what lies in it is left in evaluation, without dropout.
        """
        layers = [m for m in self.core.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = layer.gradient_checkpointing
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def save(self, folder: Path) -> None:
        """Writes a folder from which transformers loads model, tokenizer and image processor.

        Its `AutoProcessor`, which joins the last two, also asks for torchvision: for videos.
        """
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def _positions(self, ids: Tensor, attention: Tensor, grids: Tensor | None) -> Tensor:
        types = (ids == self.chat.image_token_id).int() * attention.int()
        positions, _ = self.core.model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=attention
        )
        return positions


@dataclass(frozen=True)
class Inputs:
    """A padded batch on the model's device."""

    ids: Tensor
    """Row x tok."""
    attention: Tensor
    """Row x tok; 0 on the filling."""
    positions: Tensor
    """3 x row x tok: time, height and width."""
    images: tuple[Image, ...]
    """Of all rows, in the order of their placeholders."""


def placed(images: Sequence[Image], encoded: Mapping[str, Features]) -> dict[str, Any]:
    """Encoded pictures as a model's forward takes them: one for each of `images`, in order."""
    if not images:
        return {}
    pooled, *deepstack = zip(*(encoded[image.sha256] for image in images), strict=True)
    output = SimpleNamespace(pooler_output=pooled, deepstack_features=deepstack)
    return {"mm_encoder_outputs": {"image": output}}


def _image_token(config: Any, tokenizer: Any) -> str:
    token_id = getattr(config, "image_token_id", None)
    if token_id is None:
        raise UserError(
            f"{config.name_or_path or config.model_type}: not a vision-language model (its config "
            "has no image_token_id); give a Qwen2.5-VL or Qwen3-VL folder or hub id"
        )
    return str(tokenizer.convert_ids_to_tokens(token_id))
