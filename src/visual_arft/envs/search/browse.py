"""The rules of reading and looking: which address an action means, and whether it may be opened.

Only addresses that came into sight may be opened: those in the question, and those of results and
pages that were shown. So a page that talks the policy into something cannot have it carry what it
knows to an address that the page made up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urldefrag

from pydantic import JsonValue

from visual_arft.envs.search.actions import LOOK, READ, SEARCH, STEPS
from visual_arft.types import Action, Task, ToolCall, Turn

_ADDRESS = re.compile(r"https?://[^\s<>\"'`\]]+")
_PAGE = re.compile(r"^(.*?)(?:\s*,)?\s+page\s+(\d{1,6})$", re.IGNORECASE | re.DOTALL)


def read_call(task: Task, turns: Sequence[Turn], action: Action, *, free: bool) -> ToolCall:
    """What `<read> URL or NUMBER, page N </read>` asks for."""
    match = _PAGE.match(action.content)
    target, page = (match[1].strip(), int(match[2])) if match else (action.content, 1)
    arguments: dict[str, JsonValue] = {"page": page, "question": task.question}
    return ToolCall(tool=READ, arguments=arguments | _address(task, turns, target, free=free))


def look_call(task: Task, turns: Sequence[Turn], action: Action, *, free: bool) -> ToolCall:
    """What `<look> URL or NUMBER </look>` asks for, or `<look> click 3 </look>` and the like."""
    first, _, rest = action.content.partition(" ")
    if first.lower() in STEPS:
        return ToolCall(tool=LOOK, arguments={"step": first.lower(), "with": rest.strip()})
    address = _address(task, turns, action.content, free=free)
    return ToolCall(tool=LOOK, arguments={"step": "open", **address})


def _address(task: Task, turns: Sequence[Turn], target: str, *, free: bool) -> dict[str, JsonValue]:
    """The address that is meant, or why it is not opened."""
    if target.isdecimal():
        shown = _latest_results(turns)
        number = int(target)
        if not 1 <= number <= len(shown):
            return {"refused": f"there is no result {number}: the last search has {len(shown)}"}
        return {"url": shown[number - 1]}
    if not free and _plain(target) not in seen(task, turns):
        return {
            "refused": f"{target[:120]!r} did not come up so far; open a result by its number, or "
            "an address from the question, a result or a page"
        }
    return {"url": target}


def seen(task: Task, turns: Sequence[Turn]) -> set[str]:
    """The addresses that came into sight so far."""
    in_question = (match.rstrip(".,;:!?)") for match in _ADDRESS.findall(task.question))
    shown = (link for turn in turns if turn.result for link in turn.result.links)
    return {_plain(address) for address in (*in_question, *shown)}


def _latest_results(turns: Sequence[Turn]) -> tuple[str, ...]:
    """The addresses of the last search, in the order of its results."""
    for turn in reversed(turns):
        if isinstance(turn.action, Action) and turn.action.kind == SEARCH and turn.result:
            return turn.result.links
    return ()


def _plain(address: str) -> str:
    return urldefrag(address).url.rstrip("/")
