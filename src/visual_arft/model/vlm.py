"""A vision-language model ready for sampling and for training: one class for both.

Works with any model of transformers whose vision tower gives features for `image_grid_thw`:
Qwen2-VL, Qwen2.5-VL, Qwen3-VL.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visual_arft.errors import UserError
from visual_arft.images import Images, decode
from visual_arft.model.chat import Chat
from visual_arft.types import Image

_CACHED_IMAGES = 2048


class VisionLanguageModel:
    """Weights, tokenizer and image processor of one model on one device."""

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, images: Images
    ) -> None:
        """Wraps loaded parts; `images` is where the bytes behind an `Image` are found."""
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.images = images
        self.chat = Chat(tokenizer, _image_token(self.core.config, tokenizer), self.image_tokens)
        self._pixels: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._banned = torch.tensor(self.chat.banned_ids, dtype=torch.long, device=self.device)

    @property
    def core(self) -> Any:
        """The conditional-generation model itself, LoRA adapters and all, without PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.core.parameters()).device

    def image_tokens(self, image: Image) -> int:
        """How many tokens the model spends on an image."""
        size = getattr(self.image_processor, "get_number_of_image_patches")
        patches = size(image.height, image.width, {})
        return int(patches) // self.image_processor.merge_size**2

    def pixels(self, image: Image) -> tuple[Tensor, Tensor]:
        """Patches (patches x values) and grid (t, h, w) of an image; kept while recently used."""
        if image.sha256 in self._pixels:
            self._pixels.move_to_end(image.sha256)
            return self._pixels[image.sha256]
        made = self.image_processor(images=[decode(self.images.read(image))], return_tensors="pt")
        self._pixels[image.sha256] = (made["pixel_values"], made["image_grid_thw"][0])
        if len(self._pixels) > _CACHED_IMAGES:
            self._pixels.popitem(last=False)
        return made["pixel_values"], made["image_grid_thw"][0]

    def inputs(self, rows: Sequence[Sequence[int]], images: Sequence[Image], *, left: bool) -> Inputs:
        """Rows of ids as one padded batch, with positions; `images` of all rows, in order."""
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
        if not images:
            return {}
        distinct = {image.sha256: image for image in images}
        order = {sha256: number for number, sha256 in enumerate(distinct)}
        loaded = [self.pixels(image) for image in distinct.values()]
        output = self.core.model.get_image_features(
            torch.cat([values for values, _ in loaded]).to(self.device, self.core.dtype),
            torch.stack([grid for _, grid in loaded]).to(self.device),
            return_dict=True,
        )
        where = [order[image.sha256] for image in images]
        output.pooler_output = [output.pooler_output[i] for i in where]
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [[level[i] for i in where] for level in output.deepstack_features]
        return {"mm_encoder_outputs": {"image": output}}

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
        """log p of the next token (… x vocabulary) after hidden states, control tokens excluded.

        The policy samples from this distribution and the trainer scores with it, so the ratio of an
        unchanged policy is exactly 1. A temperature of 0 stands for greedy choice and scores as 1.
        """
        logits = self.core.lm_head(hidden).float() / (temperature or 1.0)
        return logits.index_fill(-1, self._banned, float("-inf")).log_softmax(-1)

    def logprobs(self, inputs: Inputs, mask: Tensor, temperature: float) -> Tensor:
        """log p of every id where `mask` (row x tok) is True given what stands before it; 0 elsewhere."""
        states = self.hidden(inputs, use_cache=False).last_hidden_state[:, :-1]
        learned = mask[:, 1:]
        scores = self.log_probabilities(states[learned], temperature)
        chosen = scores.gather(-1, inputs.ids[:, 1:][learned].unsqueeze(-1)).squeeze(-1)
        out = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device)
        return out.masked_scatter(torch.nn.functional.pad(learned, (1, 0)), chosen)

    def save(self, folder: Path) -> None:
        """Writes a folder that transformers' `from_pretrained` loads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def _positions(self, ids: Tensor, attention: Tensor, grids: Tensor | None) -> Tensor:
        types = (ids == self.chat.image_token_id).int() * attention.int()
        positions, _ = self.core.model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=attention
        )
        return positions


class Inputs:
    """A padded batch: ids and attention (row x tok), positions (3 x row x tok), images in order."""

    def __init__(
        self, ids: Tensor, attention: Tensor, positions: Tensor, images: tuple[Image, ...]
    ) -> None:
        self.ids = ids
        self.attention = attention
        self.positions = positions
        self.images = images


def _image_token(config: Any, tokenizer: Any) -> str:
    token_id = getattr(config, "image_token_id", None)
    if token_id is None:
        raise UserError(
            f"{config.name_or_path or config.model_type}: not a vision-language model (its config has "
            "no image_token_id); give a Qwen2.5-VL or Qwen3-VL folder or hub id"
        )
    return str(tokenizer.convert_ids_to_tokens(token_id))
