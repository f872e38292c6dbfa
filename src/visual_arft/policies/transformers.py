"""A policy that samples with a local model, with token ids and log-probabilities.

All prompts that wait, whoever asks, are answered in one batch that runs step by step: a reply that
ended leaves it at once, a new prompt joins it, and between two steps whatever else there is to do
is done, so that tools run while others decode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from visual_arft.errors import TokenMismatch
from visual_arft.model.chat import Encoded
from visual_arft.model.decoder import Decoder
from visual_arft.model.drawing import drawn_at, stream_of
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.types import Completion, Prompt

_JOIN_EVERY = 4
"""Steps between which no new prompt joins a running batch, so that several join at once."""


class TransformersPolicy:
    """Samples replies; its random generator is its own: equal seeds give equal replies on CPU."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        sampling: Sampling,
        *,
        batch_size: int = 256,
        keep: int = 2**17,
    ) -> None:
        """Wraps a model that may be trained between calls.

        Args:
            vlm: the model.
            sampling: how replies are drawn.
            batch_size: replies drawn side by side; further prompts wait until one has ended.
            keep: tokens whose keys and values stay, for prompts that go on from what was played.
        """
        self.vlm = vlm
        self.sampling = sampling
        self._batch_size = batch_size
        self.generator = torch.Generator(device=vlm.device).manual_seed(sampling.seed)
        self._decoder = Decoder(vlm, keep=keep)
        self._waiting: list[_Reply] = []
        self._running: list[_Reply] = []
        """One for each row of the decoder, in order."""
        self._since_join = 0
        """Steps."""
        self._step: asyncio.Task[None] | None = None

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt, in order; several calls may be under way at once."""
        replies = [self._reply(number, prompt) for number, prompt in enumerate(prompts)]
        self._waiting += replies
        try:
            while not all(reply.is_over for reply in replies):
                await self._stepped()
        finally:
            self._drop([reply for reply in replies if not reply.is_over])
        return [self._completion(reply) for reply in replies]

    def forget(self) -> None:
        """Gives back the memory of keys and values, which is kept between calls."""
        self._decoder.forget()

    def _reply(self, number: int, prompt: Prompt) -> _Reply:
        encoded = self.vlm.chat.encode(prompt)
        try:
            self.vlm.chat.check(encoded.ids, encoded.images, f"prompt {number}")
        except TokenMismatch as error:
            error.index = number
            raise
        stream = stream_of(prompt, self.sampling.seed) if self.sampling.keyed else None
        return _Reply(encoded, stream)

    async def _stepped(self) -> None:
        """Waits for the next step, which is one and the same for all who wait."""
        if self._step is None or self._step.done():
            self._step = asyncio.create_task(self._do_step())
        await asyncio.shield(self._step)

    async def _do_step(self) -> None:
        await asyncio.sleep(0)  # who asks at the same time is there for this step
        try:
            self._decode()
        except BaseException:
            # All who wait are told of it: nothing of a batch that broke in the middle goes on.
            self._waiting, self._running = [], []
            self._decoder.clear()
            raise

    @torch.no_grad()
    def _decode(self) -> None:
        """One more token of each reply."""
        if not self._running or (self._waiting and self._since_join >= _JOIN_EVERY):
            self._join()
        if not self._running:  # whoever asked for this step has given up
            return
        self._since_join += 1
        tokens, logprobs = (drawn.tolist() for drawn in self._draw())
        for reply, token, logprob in zip(self._running, tokens, logprobs, strict=True):
            reply.add(token, logprob, self.vlm.chat.end_ids, self.sampling.max_new_tokens)
        over = [place for place, reply in enumerate(self._running) if reply.is_over]
        if over:
            stay = self._decoder.leave(over)
            self._running = [self._running[place] for place in stay]
            tokens = [tokens[place] for place in stay]
        if tokens:
            self._decoder.advance(tokens)

    def _join(self) -> None:
        self._since_join = 0
        free = self._batch_size - len(self._running)
        new, self._waiting = self._waiting[:free], self._waiting[free:]
        order = self._decoder.join([reply.encoded for reply in new])
        self._running += [new[number] for number in order]

    def _draw(self) -> tuple[Tensor, Tensor]:
        """The next token of each row, and its log-probability."""
        scores = self._decoder.log_probabilities(self.sampling.temperature)
        if self.sampling.temperature == 0:
            tokens = scores.argmax(-1)
        elif self.sampling.keyed:
            streams = (reply.stream for reply in self._running)
            uniforms = [stream.random() for stream in streams if stream is not None]
            tokens = drawn_at(scores.exp(), torch.tensor(uniforms, dtype=torch.float64))
        else:
            tokens = torch.multinomial(scores.exp(), 1, generator=self.generator).squeeze(-1)
        return tokens, scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    def _drop(self, replies: Sequence[_Reply]) -> None:
        """Goes on without replies that nobody waits for any more."""
        gone = set(map(id, replies))
        self._waiting = [reply for reply in self._waiting if id(reply) not in gone]
        places = [place for place, reply in enumerate(self._running) if id(reply) in gone]
        if places:
            self._running = [self._running[place] for place in self._decoder.leave(places)]

    def _completion(self, reply: _Reply) -> Completion:
        return Completion(
            text=self.vlm.chat.decode(reply.ids),
            prompt_ids=reply.encoded.ids,
            token_ids=tuple(reply.ids),
            logprobs=tuple(reply.logprobs),
            finish_reason="stop" if reply.is_ended else "length",
        )


@dataclass(eq=False)
class _Reply:
    """A prompt, and what was sampled for it so far."""

    encoded: Encoded
    stream: np.random.Generator | None
    """Its own randomness, where its draws are keyed."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_ended: bool = False
    """The model ended it."""
    is_over: bool = False
    """It ended, or is cut."""

    def add(self, token: int, logprob: float, end_ids: frozenset[int], limit: int) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.is_ended = token in end_ids
        self.is_over = self.is_ended or len(self.ids) == limit
