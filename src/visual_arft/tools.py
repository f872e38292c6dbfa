"""What a tool is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from visual_arft.types import ToolCall, ToolResult


class Tool(Protocol):
    """Something an action can ask for.

    A mistake of the model comes back as `ToolResult.error`; machinery that fails raises
    `ToolFailure`.
    """

    async def run(self, call: ToolCall) -> ToolResult:
        """Carry out one call."""
        ...


@runtime_checkable
class SessionTool(Tool, Protocol):
    """A tool that keeps something between the calls of an episode: variables, an open page.

    Its own `run` is a call outside any episode.
    """

    def session(self) -> AbstractAsyncContextManager[Tool]:
        """What one episode uses, from its first call to its end."""
        ...


Tools = Mapping[str, Tool]
"""Tools by the name a `ToolCall` uses."""
