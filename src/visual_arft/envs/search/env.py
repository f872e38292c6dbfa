"""The rules of the search game: search as often as needed, then answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from visual_arft import tags
from visual_arft.envs.template import checked, fill
from visual_arft.errors import UserError
from visual_arft.types import Action, Malformed, Message, Prompt, Task, ToolCall, Turn

SEARCH = "search"
"""The kind of action that asks the engine, and the name of its tool."""

DEFAULT_TEMPLATE = """\
Answer the question below, which may be about the image, one small step at a time.

Begin every reply with your reasoning in <think> </think>. Then do exactly one of these:
- <search> query </search> looks something up; the next turn shows what was found.
- <answer> answer </answer> ends your work.

The search engine cannot see the image, so a query must name what it is about. Ask for one fact at a
time, and never for the same one twice. Do not repeat earlier steps. Keep the answer short.

<query>{question}</query>"""


class SearchEnv:
    """The search agent's rules; `retell` is the paper's context, `append` a growing chat."""

    def __init__(
        self,
        context: Literal["retell", "append"] = "retell",
        template: str = DEFAULT_TEMPLATE,
    ) -> None:
        """Starts from the instructions.

        Args:
            context: `retell` rebuilds one user message each turn, with all that happened so far in
                its text. `append` adds each reply and each result as a message of its own.
            template: the instructions. `{question}` marks where the question goes, and `{chain}`,
                which may be left out, where the earlier steps go; without it they go to the end.
        """
        self.context = context
        self.template = checked(template, "search")

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """What the policy sees after `turns`."""
        if self.context == "append":
            return Prompt(messages=(self._opening(task, ""), *_conversation(task, turns)))
        steps = zip(turns, _informations(task, turns), strict=True)
        chain = "".join(f"\n{turn.completion.text}\n{information}" for turn, information in steps)
        return Prompt(messages=(self._opening(task, chain),))

    def parse(self, text: str) -> Action | Malformed:
        """A search or an answer; a search for nothing is malformed."""
        action = tags.parse(text, (SEARCH, tags.ANSWER))
        if isinstance(action, Action) and action.kind == SEARCH and not action.content:
            return Malformed(reason="the <search> is empty")
        return action

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """The query, for a search."""
        if action.kind != SEARCH:
            return None
        return ToolCall(tool=SEARCH, arguments={"query": action.content})

    def _opening(self, task: Task, chain: str) -> Message:
        text = fill(self.template, task.question, chain)
        return Message(role="user", text=text, images=task.images)


def _conversation(task: Task, turns: Sequence[Turn]) -> list[Message]:
    messages: list[Message] = []
    for turn, information in zip(turns, _informations(task, turns), strict=True):
        reply = turn.completion
        messages.append(Message(role="assistant", text=reply.text, token_ids=reply.token_ids))
        messages.append(Message(role="user", text=information))
    return messages


def _informations(task: Task, turns: Sequence[Turn]) -> list[str]:
    return [_information(task, number, turn) for number, turn in enumerate(turns, start=1)]


def _information(task: Task, number: int, turn: Turn) -> str:
    """What a search brought, as the policy reads it.

    Text from outside is data: the grammar's own tags in it, and the control tokens of common
    models, are defused here. That any other string which a tokenizer takes for a control token
    stays plain text is seen to where text becomes tokens, since only there it is known.
    """
    if turn.result is None:
        raise UserError(
            f"task {task.id!r}, turn {number}: the search has no result to show; "
            "give the turn its `result`"
        )
    found = turn.result.text if turn.result.error is None else turn.result.error
    return f"<information> {tags.defuse(found)} </information>"
