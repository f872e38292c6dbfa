"""Instructions with two places in them: `{question}`, and `{chain}` for the steps so far."""

from __future__ import annotations

import re

from visual_arft.errors import UserError

_PLACE = re.compile(r"\{question\}|\{chain\}")


def checked(template: str, game: str) -> str:
    """The template; raises `UserError` where it has no place for the question."""
    if "{question}" not in template:
        raise UserError(
            f"the {game} template {template[:40]!r}… has no {{question}}; "
            "write {question} where the question belongs"
        )
    return template


def fill(template: str, question: str, chain: str = "") -> str:
    """The instructions for a question; without a place of its own the chain goes to the end.

    >>> fill("Q: {question}", "What is {chain}?", " A step.")
    'Q: What is {chain}? A step.'
    """
    if "{chain}" not in template:
        template += "{chain}"
    # One pass, so that a question that contains "{chain}" stays as it was asked.
    parts = {"{question}": question, "{chain}": chain}
    return _PLACE.sub(lambda place: parts[place[0]], template)
