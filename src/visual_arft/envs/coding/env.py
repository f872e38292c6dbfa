"""The rules of the coding game: name what is wrong with the image, mend it with code, answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from visual_arft import tags
from visual_arft.envs.coding.grammar import CODE, KINDS, MENDABLE, PROBLEM, code_of, problem_names
from visual_arft.envs.coding.shortcuts import CROP_BOX, Shortcut, with_crop_box
from visual_arft.envs.template import checked, fill
from visual_arft.types import (
    Action,
    Image,
    Malformed,
    Message,
    Prompt,
    Record,
    Task,
    ToolCall,
    ToolResult,
    Turn,
)

PYTHON = "python"
"""The name of the tool that runs code."""

DEFAULT_TEMPLATE = """\
Answer a question about an image. The image may be hard to read as it is: work on it in small \
steps, and answer when you can see what is asked for.

Begin every reply with your reasoning in <think> </think>. Then do exactly one of these:
- <problem>{'name'}</problem>, first of all, says what is wrong with the image. It is a set of one \
or two names out of 'rotation90', 'rotation180', 'dark', 'overexposure', 'blur', 'noise', 'crop' \
(only a part of the image matters) and 'none'. What to do next comes back in <tips> </tips>.
- <code>
```python
...
```
</code> mends the image. The code reads path_to_input_image.jpg, writes path_to_output_image.jpg \
and may use cv2, numpy and PIL. You then see the new image.
- <answer> answer </answer> ends your work.

Keep the answer short.

<query>{question}</query>"""


class Wording(Record):
    """What the game says to the policy between its replies: short, for small models read it too."""

    mend: str = "Write code that mends: {problems}."
    """After a problem; `{problems}` becomes the names."""
    crop: str = "Write code that crops the image to the box [x_min, y_min, x_max, y_max]."
    """After the problem `crop`."""
    none: str = "Nothing to mend: answer now."
    """After the problem `none`."""
    processed: str = "The processed image."
    """Beside a new image; only in a growing chat, as are the next two."""
    no_image: str = "The code ran and wrote no image."
    """After code that ran but gave nothing to look at."""
    failed: str = "The code failed: {error}"
    """After code that did not run to its end; `{error}` becomes the end of its traceback."""


class CodingEnv:
    """The coding agent's rules; `retell` is the paper's context, `append` a growing chat."""

    def __init__(
        self,
        context: Literal["retell", "append"] = "retell",
        template: str = DEFAULT_TEMPLATE,
        wording: Wording | None = None,
        *,
        shortcuts: Sequence[Shortcut] = (),
    ) -> None:
        """Starts from the instructions.

        Args:
            context: `retell` rebuilds one user message each turn: the newest image, the
                instructions and the earlier replies; as in the paper, errors are not shown.
                `append` adds each reply and what came of it, errors too, as messages of their own.
            template: the instructions. `{question}` marks where the question goes, and `{chain}`,
                which may be left out, where the earlier steps go; without it they go to the end.
            wording: what the policy reads between its replies.
            shortcuts: what is done for the policy, as the authors' evaluation does.
        """
        self.context = context
        self.template = checked(template, "coding")
        self.wording = wording or Wording()
        self._shortcuts = tuple(shortcuts)

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """What the policy sees after `turns`."""
        if self.context == "append":
            opening = self._opening(task, task.images, chain="")
            return Prompt(messages=(opening, *self._conversation(turns)))
        chain = "".join(f"\n{text}" for turn in turns for text in self._retold(turn))
        return Prompt(messages=(self._opening(task, current_images(task, turns), chain),))

    def parse(self, text: str) -> Action | Malformed:
        """A set of problems, a program or an answer."""
        action = tags.parse(text, KINDS)
        if isinstance(action, Malformed):
            return action
        if action.kind == PROBLEM and not problem_names(action):
            return Malformed(reason="the <problem> is not a set of one or two known names")
        if action.kind == CODE and not code_of(action):
            return Malformed(reason="the <code> is not one fenced python block")
        return action

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """The program and the image it works on, for code."""
        if action.kind != CODE:
            return None
        code, images = code_of(action), current_images(task, turns)
        if CROP_BOX in self._shortcuts and images:
            code = with_crop_box(code, task, turns, images[0])
        return ToolCall(tool=PYTHON, arguments={"code": code}, images=images)

    def _opening(self, task: Task, images: tuple[Image, ...], chain: str) -> Message:
        text = fill(self.template, task.question, chain)
        return Message(role="user", text=text, images=images)

    def _retold(self, turn: Turn) -> Iterator[str]:
        yield turn.completion.text
        if names := problem_names(turn.action):
            yield self._tips(names)

    def _conversation(self, turns: Sequence[Turn]) -> Iterator[Message]:
        for turn in turns:
            reply = turn.completion
            yield Message(role="assistant", text=reply.text, token_ids=reply.token_ids)
            if names := problem_names(turn.action):
                yield Message(role="user", text=self._tips(names))
            else:
                yield self._news(turn.result or ToolResult())

    def _tips(self, names: frozenset[str]) -> str:
        mendable = [name for name in MENDABLE if name in names]
        tips = [self.wording.mend.replace("{problems}", ", ".join(mendable))] if mendable else []
        if "crop" in names:
            tips.append(self.wording.crop)
        return f"<tips>{' '.join(tips) or self.wording.none}</tips>"

    def _news(self, result: ToolResult) -> Message:
        if result.error is not None:
            text = self.wording.failed.replace("{error}", tags.defuse(result.error))
            return Message(role="user", text=text)
        text = self.wording.processed if result.images else self.wording.no_image
        if result.text:
            text = f"{text}\n{tags.defuse(result.text)}"
        return Message(role="user", text=text, images=result.images)


def current_images(task: Task, turns: Sequence[Turn]) -> tuple[Image, ...]:
    """The image that the policy works on after `turns`: the last that code made, or the task's."""
    made = [turn.result.images for turn in turns if turn.result and turn.result.images]
    return made[-1] if made else task.images
