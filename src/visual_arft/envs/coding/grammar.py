"""What the coding agent's actions hold: a set of problem names, or one block of Python."""

from __future__ import annotations

import re

from visual_arft.tags import ANSWER
from visual_arft.types import Action, Malformed

PROBLEM, CODE = "problem", "code"
KINDS = (PROBLEM, CODE, ANSWER)
"""Every kind of action, in the order in which a good episode takes them."""

MENDABLE = ("rotation90", "rotation180", "dark", "overexposure", "blur", "noise")
"""The problems that are a fault of the whole image."""
PROBLEMS = (*MENDABLE, "crop", "none")
"""Every problem name; `crop` says that only a part of the image matters."""

_NAME = r"""\s*(?:'(\w+)'|"(\w+)")\s*"""
_SET = re.compile(rf"\{{{_NAME}(?:,{_NAME})?,?\s*\}}")
_FENCED = re.compile(r"```python[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def problem_names(action: Action | Malformed) -> frozenset[str]:
    """The one or two names of a problem action; empty when it is none, or names what is unknown.

    >>> sorted(problem_names(Action(kind="problem", content="{'rotation90', 'dark'}")))
    ['dark', 'rotation90']
    """
    if isinstance(action, Malformed) or action.kind != PROBLEM:
        return frozenset()
    match = _SET.fullmatch(action.content)
    names = frozenset(name for name in match.groups() if name) if match else frozenset[str]()
    return names if names <= set(PROBLEMS) else frozenset()


def code_of(action: Action | Malformed) -> str:
    """The program of a code action; empty when it is none, or not one fenced block.

    >>> code_of(Action(kind="code", content=fenced("print(1)")))
    'print(1)'
    """
    if isinstance(action, Malformed) or action.kind != CODE or action.content.count("```") != 2:
        return ""
    match = _FENCED.fullmatch(action.content)
    return match[1] if match else ""


def problem_set(names: tuple[str, ...]) -> str:
    """The content that `problem_names` reads back.

    >>> problem_set(("dark", "blur"))
    "{'dark', 'blur'}"
    """
    return "{" + ", ".join(f"'{name}'" for name in names) + "}"


def fenced(code: str) -> str:
    """The content that `code_of` reads back."""
    return f"```python\n{code}\n```"
