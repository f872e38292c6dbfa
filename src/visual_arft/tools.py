"""What a tool is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from visual_arft.types import ToolCall, ToolResult


class Tool(Protocol):
    """Something an action can ask for.

    A mistake of the model comes back as `ToolResult.error`; machinery that fails raises
    `ToolFailure`.
    """

    async def run(self, call: ToolCall) -> ToolResult:
        """Carry out one call."""
        ...


Tools = Mapping[str, Tool]
"""Tools by the name a `ToolCall` uses."""
