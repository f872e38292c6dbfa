"""The Python tool: the policy's code and an image in, the processed image out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import cv2
import numpy as np

from visual_arft.images import Images, Pixels, decode, encode
from visual_arft.sandbox import Outcome, Sandbox, Session
from visual_arft.tools import Tool
from visual_arft.types import ToolCall, ToolResult

INPUT_FILE = "path_to_input_image.jpg"
"""The file that code reads the image from."""

MAX_SIDE = 4096
"""Pixels along the longer side of an image that code reads or gives back."""

_RESTARTED = "What this step made is lost; what the steps before it made is still there."
_MAX_TEXT = 2000
_MAX_RATIO = 200


class PythonTool:
    """A tool that runs each piece of code by itself, in a sandbox."""

    def __init__(self, sandbox: Sandbox, images: Images, *, max_side: int = MAX_SIDE) -> None:
        """Wraps a sandbox, which stays its owner's to close.

        Args:
            sandbox: where code runs.
            images: where the images of calls lie, and processed ones go.
            max_side: larger inputs are scaled down before code sees them, larger outputs
                are the code's mistake.
        """
        self.sandbox = sandbox
        self._images = images
        self._max_side = max_side

    async def run(self, call: ToolCall) -> ToolResult:
        """What the call's `code` made of its image: the last image it gave back, and its prints."""
        return self.result(await self.sandbox.arun(*self.request(call)))

    def request(self, call: ToolCall) -> tuple[str, dict[str, Pixels]]:
        """The code of a call, and the files that it reads."""
        return str(call.arguments["code"]), self._inputs(call)

    def result(self, outcome: Outcome) -> ToolResult:
        """What the policy is told of an execution."""
        text = outcome.stdout[:_MAX_TEXT].strip()
        error = outcome.error
        if error is None and outcome.images:
            error = self._fault(outcome.images[-1])
        if error is not None:
            return ToolResult(text=text, error=error[-_MAX_TEXT:])
        made = tuple(self._images.add(encode(pixels)) for pixels in outcome.images[-1:])
        return ToolResult(text=text, images=made)

    def _inputs(self, call: ToolCall) -> dict[str, Pixels]:
        if not call.images:
            return {}
        return {INPUT_FILE: self._shrunk(decode(self._images.read(call.images[0])))}

    def _fault(self, pixels: Pixels) -> str | None:
        height, width, _ = pixels.shape
        size = f"the image is {width} x {height} pixels"
        if max(width, height) > self._max_side:
            return f"{size}; its longer side may have {self._max_side}"
        if max(width, height) >= _MAX_RATIO * min(width, height):
            return f"{size}; that is too narrow to be looked at"
        return None

    def _shrunk(self, pixels: Pixels) -> Pixels:
        height, width, _ = pixels.shape
        scale = self._max_side / max(width, height)
        if scale >= 1:
            return pixels
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


class PythonSessions(PythonTool):
    """The same tool for episodes whose steps share variables, imports and files."""

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Tool]:
        """What one episode runs its code with; its process ends with the block."""
        with self.sandbox.session() as python:
            yield _Session(self, python)


class _Session:
    """One episode's Python; the newest image lies in the input file at each step."""

    def __init__(self, tool: PythonTool, python: Session) -> None:
        self._tool = tool
        self._python = python

    async def run(self, call: ToolCall) -> ToolResult:
        if self._python.is_over:
            await asyncio.to_thread(self._python.restart, replay=True)
        result = self._tool.result(await self._python.arun(*self._tool.request(call)))
        if self._python.is_over:
            return result.model_copy(update={"error": f"{result.error}\n{_RESTARTED}"})
        return result
