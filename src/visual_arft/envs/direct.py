"""The game without tools: look once and answer, to measure what tools are worth."""

from __future__ import annotations

import re
from collections.abc import Sequence

from visual_arft.envs.template import checked, fill
from visual_arft.tags import ANSWER
from visual_arft.types import Action, Malformed, Message, Prompt, Task, ToolCall, Turn

DEFAULT_TEMPLATE = """\
Answer the question about the image. Reply with <answer> answer </answer>, and keep it short.

<query>{question}</query>"""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class DirectEnv:
    """One prompt, one reply, which is the answer."""

    def __init__(self, template: str = DEFAULT_TEMPLATE) -> None:
        """Starts from the instructions; `{question}` marks where the question goes."""
        self.template = checked(template, "direct")

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """The images and the question."""
        text = fill(self.template, task.question)
        return Prompt(messages=(Message(role="user", text=text, images=task.images),))

    def parse(self, text: str) -> Action | Malformed:
        """What stands in the only `<answer>` of the reply, or else the whole reply."""
        found = _ANSWER.findall(text)
        return Action(kind=ANSWER, content=(found[0] if len(found) == 1 else text).strip())

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """Never one: an answer asks for nothing."""
        return None
