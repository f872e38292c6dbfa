"""The rules of the search game: search as often as needed, perhaps read and look, then answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from visual_arft import tags
from visual_arft.envs.search.actions import LOOK, READ, SEARCH
from visual_arft.envs.search.browse import look_call, read_call
from visual_arft.envs.template import checked, fill
from visual_arft.errors import UserError
from visual_arft.types import Action, Image, Malformed, Message, Prompt, Task, ToolCall, Turn

_TEMPLATE = """\
Answer the question below{image}, one small step at a time.

Begin every reply with your reasoning in <think> </think>. Then do exactly one of these:
{actions}
- <answer> answer </answer> ends your work.

{blind}Ask for one fact at a time, and never for the same one twice. Do not repeat earlier steps.
Keep the answer short.

<query>{question}</query>"""

_ACTIONS = {
    SEARCH: "- <search> query </search> looks something up; the next turn shows what was found.",
    READ: "- <read> number or address </read> reads a result or another page that came up; write\n"
    "  <read> number or address, page 2 </read> to go on with a long one.",
    LOOK: "- <look> number or address </look> shows such a page as a picture with its elements\n"
    "  numbered. On an open page: <look> click 3 </look>, <look> type 3 words </look>,\n"
    "  <look> scroll down </look>, <look> scroll up </look>, <look> back </look>.",
}


_BLIND = "The search engine cannot see the image, so a query must name what it is about.\n"


def instructions(actions: Sequence[str] = (SEARCH,), *, images: bool = True) -> str:
    """The instructions of an agent that may do `actions`, with `images` in sight or without."""
    text = _TEMPLATE.replace("{actions}", "\n".join(_ACTIONS[each] for each in actions))
    text = text.replace("{image}", ", which may be about the image" if images else "")
    return text.replace("{blind}", _BLIND if images else "")


DEFAULT_TEMPLATE = instructions()
"""The instructions of an agent that searches."""


class SearchEnv:
    """The search agent's rules; `retell` is the paper's context, `append` a growing chat."""

    def __init__(
        self,
        context: Literal["retell", "append"] = "retell",
        template: str = "",
        *,
        actions: Sequence[str] = (SEARCH,),
        free: bool = False,
        special_tokens: Sequence[str] = (),
    ) -> None:
        """Starts from the instructions.

        Args:
            context: `retell` rebuilds one user message each turn, with all that happened so far in
                its text. `append` adds each reply and each result as a message of its own.
            template: the instructions. `{question}` marks where the question goes, and `{chain}`,
                which may be left out, where the earlier steps go; without it they go to the end.
            actions: what the policy may do beside answering: `search`, `read`, `look`.
            special_tokens: of the policy's tokenizer; text from outside cannot write them. Those
                of common models are known without saying.
            free: let it read and look at any address, not only at those that came into sight.
        """
        self.context = context
        self.template = checked(template or instructions(actions), "search")
        self._actions = tuple(actions)
        self._free = free
        self._special_tokens = tuple(special_tokens)

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """What the policy sees after `turns`."""
        if self.context == "append":
            return Prompt(messages=(self._opening(task, "", ()), *self._conversation(task, turns)))
        steps = zip(turns, self._informations(task, turns), strict=True)
        chain = "".join(f"\n{turn.completion.text}\n{information}" for turn, information in steps)
        return Prompt(messages=(self._opening(task, chain, _last_images(turns)),))

    def parse(self, text: str) -> Action | Malformed:
        """One of the actions or an answer; an action on nothing is malformed."""
        action = tags.parse(text, (*self._actions, tags.ANSWER))
        if isinstance(action, Action) and action.kind in self._actions and not action.content:
            return Malformed(reason=f"the <{action.kind}> is empty")
        return action

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """The query of a search, or the address to open; None for an answer."""
        if action.kind == READ:
            return read_call(task, turns, action, free=self._free)
        if action.kind == LOOK:
            return look_call(task, turns, action, free=self._free)
        if action.kind != SEARCH:
            return None
        return ToolCall(tool=SEARCH, arguments={"query": action.content})

    def _opening(self, task: Task, chain: str, images: Sequence[Image]) -> Message:
        text = fill(self.template, task.question, chain)
        return Message(role="user", text=text, images=(*task.images, *images))

    def _conversation(self, task: Task, turns: Sequence[Turn]) -> list[Message]:
        messages: list[Message] = []
        for turn, information in zip(turns, self._informations(task, turns), strict=True):
            reply = turn.completion
            images = turn.result.images if turn.result else ()
            messages.append(Message(role="assistant", text=reply.text, token_ids=reply.token_ids))
            messages.append(Message(role="user", text=information, images=images))
        return messages

    def _informations(self, task: Task, turns: Sequence[Turn]) -> list[str]:
        return [
            information(task, number, turn, self._special_tokens)
            for number, turn in enumerate(turns, start=1)
        ]


def _last_images(turns: Sequence[Turn]) -> Sequence[Image]:
    """What the last look showed, for the context that tells all anew: it shows no older one."""
    return next((t.result.images for t in reversed(turns) if t.result and t.result.images), ())


def information(task: Task, number: int, turn: Turn, special_tokens: Sequence[str] = ()) -> str:
    """What a search brought, as the policy reads it.

    Text from outside is data: the grammar's own tags in it, the control tokens of common models and
    those the env was told of are defused here. Where this package makes the tokens itself they
    would be plain text in any case; a server that is sent this text takes them at their word.
    """
    if turn.result is None:
        raise UserError(
            f"task {task.id!r}, turn {number}: the search has no result to show; "
            "give the turn its `result`"
        )
    found = turn.result.text if turn.result.error is None else turn.result.error
    return f"<information> {tags.defuse(found, special_tokens)} </information>"
