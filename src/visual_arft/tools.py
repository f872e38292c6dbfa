"""What a tool is."""

from __future__ import annotations

from collections.abc import Mapping
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


class OpenTool(Tool, Protocol):
    """A tool in the hands of one episode, whose calls share what they leave behind."""

    def close(self) -> None:
        """Gives back what it holds; a second time does nothing."""
        ...


@runtime_checkable
class StatefulTool(Tool, Protocol):
    """A tool that each episode opens for itself; its `run` is a call outside any episode."""

    def open(self) -> OpenTool:
        """The tool for one episode."""
        ...


Tools = Mapping[str, Tool]
"""Tools by the name a `ToolCall` uses."""
