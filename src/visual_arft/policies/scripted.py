"""A policy that says what it is told to say: for tests, tours and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visual_arft.types import Completion, Prompt


class ScriptedPolicy:
    """A policy without a model: its replies come from a list or a function, without tokens.

    >>> import asyncio
    >>> policy = ScriptedPolicy(lambda prompt: f"{len(prompt.messages)} messages")
    >>> asyncio.run(policy.generate([Prompt(messages=())]))[0].text
    '0 messages'
    """

    def __init__(self, replies: Sequence[str] | Callable[[Prompt], str]) -> None:
        """Starts before the first reply.

        Args:
            replies: the texts to hand out, one for each prompt in the order in which they come; or
                a function from a prompt to its reply.
        """
        self._replies = replies
        self.prompts: list[Prompt] = []
        """Every prompt seen so far, in order."""

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt; raises `IndexError` when the list of replies runs out."""
        return [Completion(text=self._reply(prompt)) for prompt in prompts]

    def _reply(self, prompt: Prompt) -> str:
        self.prompts.append(prompt)
        if callable(self._replies):
            return self._replies(prompt)
        if len(self.prompts) > len(self._replies):
            raise IndexError(
                f"the script has {len(self._replies)} replies and prompt {len(self.prompts)} came; "
                "add a reply, or script a function"
            )
        return self._replies[len(self.prompts) - 1]
