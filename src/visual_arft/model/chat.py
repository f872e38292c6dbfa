"""From a prompt to token ids, through the model's own chat template.

The template is rendered with a placeholder for each message's content, and each content is
tokenised by itself with special tokens switched off. Three things follow: text from a tool can
never become a control token; a reply that was sampled stays the very ids that were sampled; and a
growing chat's ids extend the ids before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from visual_arft.errors import TokenMismatch, UserError
from visual_arft.types import Image, Message, Prompt

_SLOT = re.compile("\ue000(\\d+)\ue001")

_Shape = tuple[tuple[str, int], ...]
"""Role and number of images of each message."""

_Skeleton = list[list[int] | int]
"""What the template writes, as ids, and between it the places of the messages' contents."""


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model takes it: ids, with one run of placeholders for each image in order."""

    ids: tuple[int, ...]
    images: tuple[Image, ...]


class Chat:
    """The chat format of one model."""

    def __init__(
        self, tokenizer: Any, image_token: str, image_tokens: Callable[[Image], int]
    ) -> None:
        """Wraps a tokenizer that has a chat template.

        Args:
            tokenizer: a fast tokenizer of transformers.
            image_token: the placeholder that the template writes once for each image.
            image_tokens: how many placeholders the model expects for an image.
        """
        if not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; "
                "give an instruct model"
            )
        self.tokenizer = tokenizer
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(image_token)
        self.end_ids: frozenset[int] = frozenset({tokenizer.eos_token_id})
        """The ids that end a reply."""
        self._image_tokens = image_tokens
        self._skeletons: dict[_Shape, _Skeleton] = {}

    def encode(self, prompt: Prompt) -> Encoded:
        """The ids of a prompt, up to where the policy's reply begins."""
        shape = tuple((message.role, len(message.images)) for message in prompt.messages)
        if shape not in self._skeletons:
            self._skeletons[shape] = self._skeleton(shape)
        ids: list[int] = []
        images = iter(prompt.images)
        for piece in self._skeletons[shape]:
            if isinstance(piece, int):
                ids += self._content(prompt.messages[piece])
                continue
            # A sampled reply already ends with the end token that the template writes.
            is_ended = bool(ids) and ids[-1] == piece[0] and ids[-1] in self.end_ids
            for token in piece[is_ended:]:
                is_image = token == self.image_token_id
                ids += [token] * (self._image_tokens(next(images)) if is_image else 1)
        return Encoded(ids=tuple(ids), images=prompt.images)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without the end token."""
        kept = [token for token in ids if token not in self.end_ids]
        return self.tokenizer.decode(kept, clean_up_tokenization_spaces=False)

    def tokenize(self, text: str) -> list[int]:
        """The ids of plain text; control tokens written in it stay text."""
        made = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return made["input_ids"]

    @property
    def banned_ids(self) -> list[int]:
        """Control tokens that a reply may not hold: all but those that end it."""
        added = self.tokenizer.added_tokens_decoder.items()
        return sorted(i for i, token in added if token.special and i not in self.end_ids)

    def check(self, ids: Sequence[int], images: Sequence[Image], name: str) -> None:
        """Raises `TokenMismatch`, naming `name`, unless each image has its own placeholders."""
        expected = [self._image_tokens(image) for image in images]
        places = groupby(ids, key=lambda token: token == self.image_token_id)
        found = [sum(1 for _ in run) for is_image, run in places if is_image]
        if expected != found:
            raise TokenMismatch(
                f"{name}: image tokens stand in runs of {found}, but the images give {expected} "
                "features; the ids come from another model or another max_pixels"
            )

    def _content(self, message: Message) -> Sequence[int]:
        return self.tokenize(message.text) if message.token_ids is None else message.token_ids

    def _skeleton(self, shape: _Shape) -> _Skeleton:
        conversation = [
            {"role": role, "content": _parts(count, f"\ue000{number}\ue001")}
            for number, (role, count) in enumerate(shape)
        ]
        text = self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
        pieces = _SLOT.split(text)
        if [int(slot) for slot in pieces[1::2]] != list(range(len(shape))):
            raise UserError(
                f"{self.tokenizer.name_or_path}: its chat template drops or repeats messages of "
                f"{[role for role, _ in shape]}; use a template that writes each message once"
            )
        skeleton: _Skeleton = []
        for number, piece in enumerate(pieces):
            if number % 2:
                skeleton.append(int(piece))
            elif piece:
                skeleton.append(self.tokenizer(piece, add_special_tokens=False)["input_ids"])
        self._check_images(skeleton, sum(count for _, count in shape))
        return skeleton

    def _check_images(self, skeleton: _Skeleton, expected: int) -> None:
        written = [piece for piece in skeleton if isinstance(piece, list)]
        found = sum(piece.count(self.image_token_id) for piece in written)
        if found != expected:
            raise UserError(
                f"{self.tokenizer.name_or_path}: its chat template writes {found} image tokens for "
                f"{expected} images; use the template of a vision-language model"
            )


def _parts(images: int, text: str) -> str | list[dict[str, str]]:
    if not images:
        return text
    return [{"type": "image"}] * images + [{"type": "text", "text": text}]
