"""A policy that samples with any local model, through transformers' own `generate`: batched.

Prompts of like length share a batch, and only such as have equally many images: some processors
take no mixture. The next token is chosen here, within `generate`, which is told to be greedy: so
nothing in a model's generation_config.json (top_p, top_k, beams, penalties…) changes the
distribution, and log-probabilities are exactly those of what was drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from visual_arft.model.drawing import drawn_at, stream_of
from visual_arft.model.foreign import ForeignModel
from visual_arft.policies import Sampling
from visual_arft.types import Completion, Prompt


class GeneratePolicy:
    """Samples replies; its random generator is its own: equal seeds give equal replies on CPU."""

    def __init__(self, model: ForeignModel, sampling: Sampling, *, batch_size: int = 16) -> None:
        """Wraps a model.

        Args:
            model: the model.
            sampling: how replies are drawn.
            batch_size: replies drawn side by side; more prompts than that go in several batches.
        """
        self.model = model
        self.sampling = sampling
        self._batch_size = batch_size
        self._generator = torch.Generator(device=model.device).manual_seed(sampling.seed)

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt, in order."""
        done: dict[int, Completion] = {}
        for batch in self._batches(prompts):
            done |= zip(batch, self._batch([prompts[number] for number in batch]), strict=True)
        return [done[number] for number in range(len(prompts))]

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        order = sorted(range(len(prompts)), key=lambda number: _size(prompts[number]))
        for _, alike in groupby(order, key=lambda number: len(prompts[number].images)):
            numbers = list(alike)
            for start in range(0, len(numbers), self._batch_size):
                yield numbers[start : start + self._batch_size]

    def _batch(self, prompts: Sequence[Prompt]) -> Iterator[Completion]:
        inputs = self.model.inputs(prompts)
        draw = _Draw(self.sampling, prompts, self._generator)
        self.model.model.generate(
            **inputs.tensors,
            max_new_tokens=self.sampling.max_new_tokens,
            logits_processor=LogitsProcessorList([draw]),
        )
        for prompt_ids, (ids, logprobs) in zip(inputs.prompt_ids, draw.replies(), strict=True):
            yield self._completion(prompt_ids, ids, logprobs)

    def _completion(
        self, prompt_ids: tuple[int, ...], ids: list[int], logprobs: list[float]
    ) -> Completion:
        """The reply up to where it ended: the rows of a batch go on until all have."""
        most = min(len(ids), self.sampling.max_new_tokens)
        ends = (place + 1 for place in range(most) if ids[place] in self.model.end_ids)
        length = next(ends, None)
        kept = slice(most if length is None else length)
        return Completion(
            text=self.model.decode(ids[kept]),
            prompt_ids=prompt_ids,
            token_ids=tuple(ids[kept]),
            logprobs=tuple(logprobs[kept]),
            finish_reason="length" if length is None else "stop",
        )


class _Draw:
    """Chooses the next token of every row, and leaves no other to `generate`."""

    def __init__(
        self, sampling: Sampling, prompts: Sequence[Prompt], generator: torch.Generator
    ) -> None:
        self._temperature = sampling.temperature
        self._generator = generator
        self._streams: list[np.random.Generator] = []
        if sampling.keyed:
            self._streams = [stream_of(prompt, sampling.seed) for prompt in prompts]
        self._tokens: list[Tensor] = []
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A temperature of 0 stands for greedy choice and scores as 1.
        logprobs = (scores / (self._temperature or 1.0)).log_softmax(-1)
        tokens = self._chosen(scores, logprobs).unsqueeze(-1)
        self._tokens.append(tokens)
        self._logprobs.append(logprobs.gather(-1, tokens))
        return torch.full_like(scores, float("-inf")).scatter(-1, tokens, 0.0)

    def replies(self) -> Iterator[tuple[list[int], list[float]]]:
        """For each row what was drawn, and its log-probabilities."""
        tokens, logprobs = torch.cat(self._tokens, -1), torch.cat(self._logprobs, -1)
        return zip(tokens.tolist(), logprobs.tolist(), strict=True)

    def _chosen(self, scores: Tensor, logprobs: Tensor) -> Tensor:
        if self._temperature == 0:
            return scores.argmax(-1)
        if self._streams:
            uniforms = [stream.random() for stream in self._streams]
            return drawn_at(logprobs.exp(), torch.tensor(uniforms, dtype=torch.float64))
        return torch.multinomial(logprobs.exp(), 1, generator=self._generator).squeeze(-1)


def _size(prompt: Prompt) -> tuple[int, int]:
    """What makes prompts alike: the number of images, then the length of the texts."""
    return len(prompt.images), sum(len(message.text) for message in prompt.messages)
