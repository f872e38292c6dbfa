"""What the authors' evaluation does for the policy, as switches that are off unless asked for."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Literal

from visual_arft.envs.coding.grammar import problem_names
from visual_arft.types import Image, Task, Turn

Shortcut = Literal["crop-box"]
"""`crop-box`: code that crops does so at the box in the question, whatever box it wrote."""

CROP_BOX: Shortcut = "crop-box"

_BOX = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")


def with_crop_box(code: str, task: Task, turns: Sequence[Turn], image: Image) -> str:
    """The code with each slice `[top:bottom, left:right]` set to the first box in the question.

    The box is in thousandths of width and height. Code stays as it is where the policy named no
    `crop`, the question has no box, or the code is not Python.
    """
    named = any("crop" in problem_names(turn.action) for turn in turns)
    box = _BOX.search(task.question)
    if not named or box is None:
        return code
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the sandbox will say
        return code
    left, top, right, bottom = (int(side) for side in box.groups())
    across, down = image.width / 1000, image.height / 1000
    rows, columns = (int(top * down), int(bottom * down)), (int(left * across), int(right * across))
    return ast.unparse(_Slices(rows, columns).visit(tree))


class _Slices(ast.NodeTransformer):
    """Sets every slice of rows and columns with both ends, and leaves a third index alone."""

    def __init__(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        self._box = [_slice(*rows), _slice(*columns)]

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        match node.slice:
            case ast.Tuple(
                elts=[
                    ast.Slice(ast.expr(), ast.expr(), None),
                    ast.Slice(ast.expr(), ast.expr(), None),
                    *rest,
                ]
            ):
                node.slice = ast.Tuple(elts=[*self._box, *rest], ctx=ast.Load())
            case _:
                pass
        return node


def _slice(start: int, end: int) -> ast.Slice:
    return ast.Slice(lower=ast.Constant(start), upper=ast.Constant(end))
