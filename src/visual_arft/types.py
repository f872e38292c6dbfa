"""The nouns: frozen records, comparable and JSON-able.

A record says what happened or what is asked; no record does anything. A word missing here is an
idea that is not ready.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Record(BaseModel):
    """A frozen set of named values; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Image(Record):
    """A picture named by the hash of its bytes; the bytes live in an image store."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    width: Annotated[int, Field(ge=1)]
    """Pixels, as stored."""
    height: Annotated[int, Field(ge=1)]
    """Pixels, as stored."""


class Message(Record):
    """One message of a conversation; its images stand before its text."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()
    token_ids: tuple[int, ...] | None = None
    """Of an assistant message that was sampled: its very ids, so nothing is tokenised again."""


class Prompt(Record):
    """Everything the policy sees when it chooses its next action."""

    messages: tuple[Message, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in the order in which the policy sees them."""
        return tuple(image for message in self.messages for image in message.images)


class Usage(Record):
    """What a server counted, and charges for, of one reply."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]


class Completion(Record):
    """One sampled reply."""

    text: str
    prompt_ids: tuple[int, ...] | None = None
    """The ids the policy was given, image placeholders expanded; None where a backend is silent."""
    token_ids: tuple[int, ...] | None = None
    """The sampled ids, the end token included; None where a backend reports none."""
    logprobs: tuple[float, ...] | None = None
    """log p of each sampled id under the distribution it was sampled from (natural log)."""
    finish_reason: Literal["stop", "length"] = "stop"
    usage: Usage | None = None
    """What the server counted; None where there is none or it did not say."""


class Action(Record):
    """What the policy decided, read from a well-formed reply."""

    kind: str
    content: str
    thought: str = ""


class Malformed(Record):
    """Why a reply is no action."""

    reason: str


class ToolCall(Record):
    """A request to run one tool."""

    tool: str
    arguments: dict[str, JsonValue] = {}
    images: tuple[Image, ...] = ()


class ToolResult(Record):
    """What a tool sent back; `error` is for the model to read."""

    text: str = ""
    images: tuple[Image, ...] = ()
    error: str | None = None
    links: tuple[str, ...] = ()
    """The addresses that it shows, in order; of a search, one for each result."""


class Turn(Record):
    """One step: the prompt, the reply, how the reply was read, and what came back."""

    prompt: Prompt
    completion: Completion
    action: Action | Malformed
    result: ToolResult | None = None


class Task(Record):
    """One problem. A step task starts after the turns of `prefix` and expects one action."""

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[Image, ...] = ()
    prefix: tuple[Turn, ...] = ()
    expected: Action | None = None
    split: str = ""
    kind: str = ""
    """What sort of problem it is: `rotation90+dark` for coding, the number of hops for search."""


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    MAX_TURNS = "max_turns"
    TOOL_FAILED = "tool_failed"


class Trajectory(Record):
    """A finished episode; a step task's prefix stays with its task."""

    task: Task
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    failure: str | None = None
    """What broke, a tool or the model's server, where the stop reason is `tool_failed`."""

    @property
    def answer(self) -> str | None:
        """The text of the final answer, None when there is none."""
        if self.stop_reason is not StopReason.ANSWERED:
            return None
        action = self.turns[-1].action
        return action.content.strip() if isinstance(action, Action) else None
