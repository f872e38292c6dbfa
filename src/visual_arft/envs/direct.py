"""The games of one reply, without tools: answer at once, or think aloud and answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from visual_arft.envs.template import checked, fill
from visual_arft.tags import ANSWER
from visual_arft.types import Action, Malformed, Message, Prompt, Task, ToolCall, Turn

DEFAULT_TEMPLATE = """\
Answer the question about the image. Reply with <answer> answer </answer>, and keep it short.

<query>{question}</query>"""

TEXT_TEMPLATE = DEFAULT_TEMPLATE.replace(" about the image", "")
"""The same for a question without an image."""

COT_TEMPLATE = """\
Answer the question about the image. Think step by step in <think> </think>, then reply with \
<answer> answer </answer>, and keep the answer short.

<query>{question}</query>"""

COT_TEXT_TEMPLATE = COT_TEMPLATE.replace(" about the image", "")
"""The same for a question without an image."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHT = "</think>"


def answer_or_all(text: str) -> Action:
    """What stands in the only `<answer>` of a reply, or else the whole reply but its thought.

    >>> answer_or_all("It is <answer> 42 </answer>.").content, answer_or_all(" 42").content
    ('42', '42')
    >>> answer_or_all("<think>6 x 7</think> 42").content
    '42'
    """
    said = text.rpartition(_THOUGHT)[2]
    found = _ANSWER.findall(said)
    return Action(kind=ANSWER, content=(found[0] if len(found) == 1 else said).strip())


def answer_after_thought(text: str) -> Action | Malformed:
    """What stands in the last `<answer>` of a reply, or else after its thought.

    >>> answer_after_thought("<think>6 x 7</think> 42").content
    '42'
    >>> answer_after_thought("Six times seven makes")
    Malformed(reason='the reply has neither an <answer> nor an end of its thought')
    """
    if found := _ANSWER.findall(text):
        return Action(kind=ANSWER, content=found[-1].strip())
    _, ended, rest = text.rpartition(_THOUGHT)
    if not ended or not rest.strip():
        return Malformed(reason="the reply has neither an <answer> nor an end of its thought")
    return Action(kind=ANSWER, content=rest.strip())


class DirectEnv:
    """One prompt, one reply, which is or holds the answer."""

    def __init__(
        self,
        template: str = DEFAULT_TEMPLATE,
        read: Callable[[str], Action | Malformed] = answer_or_all,
    ) -> None:
        """Starts from the instructions.

        Args:
            template: the instructions; `{question}` marks where the question goes.
            read: how the answer is found in the reply.
        """
        self.template = checked(template, "direct")
        self._read = read

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """The images and the question."""
        text = fill(self.template, task.question)
        return Prompt(messages=(Message(role="user", text=text, images=task.images),))

    def parse(self, text: str) -> Action | Malformed:
        """The answer in a reply."""
        return self._read(text)

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """Never one: an answer asks for nothing."""
        return None
