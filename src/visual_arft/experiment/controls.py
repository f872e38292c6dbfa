"""Tools for controls: if the gain survives them, the agent does not use its tools."""

from __future__ import annotations

from collections.abc import Sequence

from visual_arft.tools import Tool
from visual_arft.types import Image, StopReason, Task, ToolCall, ToolResult, Trajectory


class Unchanged:
    """The Python tool switched off: code is not run, and the image comes back as it went in."""

    async def run(self, call: ToolCall) -> ToolResult:
        """The call's own images."""
        return ToolResult(images=call.images)


class Swapped:
    """The Python tool with its images shuffled between tasks.

    Each task gets what the tool really made for another one, and the agent cannot tell but by what
    it reads there. Code that then works on that image is really run.
    """

    def __init__(self, tool: Tool, played: Sequence[Trajectory]) -> None:
        """Takes the images from episodes that were played before, with the tool as it is."""
        self._tool = tool
        self._given: dict[str, Image] = {}
        made = [_last_image(each) for each in played]
        for number, each in enumerate(played):
            others = [*reversed(made[:number]), *reversed(made[number + 1 :])]
            if given := next((image for image in others if image and image != made[number]), None):
                self._given[each.task.images[0].sha256] = given

    async def run(self, call: ToolCall) -> ToolResult:
        """Another task's image in place of what the tool makes of a task's own."""
        given = self._given.get(call.images[0].sha256) if call.images else None
        return ToolResult(images=(given,)) if given else await self._tool.run(call)


def swapped_pictures(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, each with the picture of the task before it."""
    return [
        task.model_copy(update={"images": tasks[number - 1].images})
        for number, task in enumerate(tasks)
    ]


def _last_image(trajectory: Trajectory) -> Image | None:
    if trajectory.stop_reason is StopReason.TOOL_FAILED:
        return None
    made = [i for turn in trajectory.turns if turn.result for i in turn.result.images]
    return made[-1] if made else None
