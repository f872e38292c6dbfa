"""A policy that samples with a local model: batched, with token ids and log-probabilities.

Equal prompts (a group's first turn) are prefilled once and expanded; equal images are encoded once;
a reply that ended leaves the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from visual_arft.errors import TokenMismatch
from visual_arft.model.chat import Encoded
from visual_arft.model.drawing import drawn_at, stream_of
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.types import Completion, Prompt

_LEAVE_SHARE = 0.75
"""Ended rows leave once fewer than this share goes on: leaving copies the keys and values."""


class TransformersPolicy:
    """Samples replies; its random generator is its own: equal seeds give equal replies on CPU."""

    def __init__(
        self, vlm: VisionLanguageModel, sampling: Sampling, *, batch_size: int = 256
    ) -> None:
        """Wraps a model that may be trained between calls.

        Args:
            vlm: the model.
            sampling: how replies are drawn.
            batch_size: replies drawn side by side; more prompts than that go in several batches.
        """
        self.vlm = vlm
        self.sampling = sampling
        self._batch_size = batch_size
        self.generator = torch.Generator(device=vlm.device).manual_seed(sampling.seed)

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt, in order."""
        encoded = [self._encode(number, prompt) for number, prompt in enumerate(prompts)]
        # Prompts of like length share a batch, so that padding stays small.
        order = sorted(range(len(encoded)), key=lambda number: len(encoded[number].ids))
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            replies = [self._reply(prompts[number]) for number in batch]
            self._batch([encoded[number] for number in batch], replies)
            done |= {
                number: self._completion(encoded[number], reply)
                for number, reply in zip(batch, replies, strict=True)
            }
        return [done[number] for number in range(len(prompts))]

    def _encode(self, number: int, prompt: Prompt) -> Encoded:
        encoded = self.vlm.chat.encode(prompt)
        try:
            self.vlm.chat.check(encoded.ids, encoded.images, f"prompt {number}")
        except TokenMismatch as error:
            error.index = number
            raise
        return encoded

    def _reply(self, prompt: Prompt) -> _Reply:
        return _Reply(stream_of(prompt, self.sampling.seed) if self.sampling.keyed else None)

    @torch.no_grad()
    def _batch(self, encoded: Sequence[Encoded], replies: Sequence[_Reply]) -> None:
        rows = self._prefill(encoded)
        for step in range(self.sampling.max_new_tokens):
            tokens, logprobs = self._draw(rows.last, [replies[row].stream for row in rows.numbers])
            for row, token, logprob in zip(
                rows.numbers, tokens.tolist(), logprobs.tolist(), strict=True
            ):
                replies[row].add(token, logprob, self.vlm.chat.end_ids)
            going = [place for place, row in enumerate(rows.numbers) if not replies[row].ended]
            if not going or step + 1 == self.sampling.max_new_tokens:
                break
            if len(going) < _LEAVE_SHARE * len(rows.numbers):
                rows.keep(going)
                tokens = tokens[going]
            self._advance(rows, tokens)

    def _completion(self, source: Encoded, reply: _Reply) -> Completion:
        return Completion(
            text=self.vlm.chat.decode(reply.ids),
            prompt_ids=source.ids,
            token_ids=tuple(reply.ids),
            logprobs=tuple(reply.logprobs),
            finish_reason="stop" if reply.ended else "length",
        )

    def _prefill(self, encoded: Sequence[Encoded]) -> _Rows:
        distinct = {(source.ids, source.images): source for source in encoded}
        place = {key: number for number, key in enumerate(distinct)}
        inputs = self.vlm.inputs(
            [source.ids for source in distinct.values()],
            [image for source in distinct.values() for image in source.images],
            left=True,
        )
        cache = DynamicCache(config=self.vlm.core.config.get_text_config())
        output = self.vlm.hidden(inputs, past_key_values=cache, use_cache=True)
        rows = _Rows(
            numbers=list(range(len(distinct))),
            cache=cache,
            attention=inputs.attention,
            # The largest of time, height and width counts on, as in the model's own generation.
            position=inputs.positions[:, :, -1].amax(0) + 1,
            last=output.last_hidden_state[:, -1],
        )
        rows.keep([place[source.ids, source.images] for source in encoded])
        rows.numbers = list(range(len(encoded)))
        return rows

    def _draw(
        self, last: Tensor, streams: Sequence[np.random.Generator | None]
    ) -> tuple[Tensor, Tensor]:
        scores = self.vlm.log_probabilities(last, self.sampling.temperature)
        if self.sampling.temperature == 0:
            tokens = scores.argmax(-1)
        elif self.sampling.keyed:
            uniforms = [stream.random() for stream in streams if stream is not None]
            tokens = drawn_at(scores.exp(), torch.tensor(uniforms, dtype=torch.float64))
        else:
            tokens = torch.multinomial(scores.exp(), 1, generator=self.generator).squeeze(-1)
        return tokens, scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    def _advance(self, rows: _Rows, tokens: Tensor) -> None:
        rows.attention = torch.nn.functional.pad(rows.attention, (0, 1), value=1)
        output = self.vlm.core.model(
            input_ids=tokens[:, None],
            attention_mask=rows.attention,
            position_ids=rows.position.expand(3, -1)[:, :, None],
            past_key_values=rows.cache,
            use_cache=True,
        )
        rows.position = rows.position + 1
        rows.last = output.last_hidden_state[:, -1]


@dataclass
class _Reply:
    """What was sampled so far for one prompt."""

    stream: np.random.Generator | None = None
    """Its own randomness, where its draws are keyed."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False

    def add(self, token: int, logprob: float, end_ids: frozenset[int]) -> None:
        if not self.ended:
            self.ids.append(token)
            self.logprobs.append(logprob)
            self.ended = token in end_ids


@dataclass
class _Rows:
    """The rows of a batch still being written."""

    numbers: list[int]
    cache: DynamicCache
    attention: Tensor
    position: Tensor
    last: Tensor

    def keep(self, places: Sequence[int]) -> None:
        index = torch.tensor(places, device=self.attention.device)
        self.numbers = [self.numbers[place] for place in places]
        self.cache.batch_select_indices(index)
        self.attention = self.attention[index]
        self.position = self.position[index]
        self.last = self.last[index]
