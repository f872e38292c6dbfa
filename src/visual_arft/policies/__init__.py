"""Policies: prompts in, completions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from visual_arft.types import Completion, Prompt, Record


class Sampling(Record):
    """How replies are drawn."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 1024
    """Tokens of one reply; a longer one is cut and its finish reason is `length`."""
    seed: int = 0
    """Of the sampler's own random generator."""
    keyed: bool = False
    """Draw each reply from the seed and its own prompt alone: what else is in the batch, and what
    was asked before, changes nothing. Equal prompts then get equal replies."""


class Policy(Protocol):
    """What chooses the next action."""

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt, in order."""
        ...
