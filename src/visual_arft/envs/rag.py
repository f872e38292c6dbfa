"""The game of one search: the question is looked up as it stands, then the policy answers once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from visual_arft.envs.direct import answer_or_all
from visual_arft.envs.search.actions import SEARCH
from visual_arft.envs.search.env import information
from visual_arft.envs.template import checked, fill
from visual_arft.types import Action, Completion, Message, Prompt, Task, ToolCall, Turn

DEFAULT_TEMPLATE = """\
Answer the question, which may be about the image. What a search for it found stands below; it may \
help or not. Reply with <answer> answer </answer>, and keep it short.

<query>{question}</query>{chain}"""

TEXT_TEMPLATE = DEFAULT_TEMPLATE.replace(", which may be about the image", "")
"""The same for a question without an image."""

_SEARCH = re.compile(rf"<{SEARCH}>(.*)</{SEARCH}>", re.DOTALL)


def look_up(task: Task) -> Completion:
    """The first reply of every episode, which the rules give and no policy: search the question."""
    return Completion(text=f"<{SEARCH}>{task.question}</{SEARCH}>")


class RagEnv:
    """One search, given by `look_up`, and one reply, which is or holds the answer."""

    def __init__(self, template: str = DEFAULT_TEMPLATE) -> None:
        """Starts from the instructions.

        Args:
            template: `{question}` marks where the question goes, and `{chain}`, which may be left
                out, where what was found goes; without it that goes to the end.
        """
        self.template = checked(template, "rag")

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """The images, the question and what was found."""
        found = "".join(
            f"\n{information(task, number, turn)}" for number, turn in enumerate(turns, start=1)
        )
        text = fill(self.template, task.question, found)
        return Prompt(messages=(Message(role="user", text=text, images=task.images),))

    def parse(self, text: str) -> Action:
        """The search, or the answer in a reply."""
        if search := _SEARCH.fullmatch(text.strip()):
            return Action(kind=SEARCH, content=search[1].strip())
        return answer_or_all(text)

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """The question as a query."""
        if action.kind != SEARCH:
            return None
        return ToolCall(tool=SEARCH, arguments={"query": action.content})
