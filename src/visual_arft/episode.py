"""One game, without I/O: an episode says what it wants next and is told what came back.

>>> # while (pending := episode.pending) is not None:
>>> #     a Prompt wants a Completion:  episode.act(completion)
>>> #     a ToolCall wants a ToolResult: episode.observe(result)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from visual_arft.errors import EpisodeError
from visual_arft.tags import ANSWER
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    Prompt,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)


class Env(Protocol):
    """The rules of a game, as three functions without state."""

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        """What the policy sees after `turns` (a step task's prefix included)."""
        ...

    def parse(self, text: str) -> Action | Malformed:
        """How a reply is read."""
        ...

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        """What an action asks for after `turns`; None where the rules alone go on."""
        ...


class Episode:
    """One task being played, from its first prompt to its trajectory."""

    def __init__(
        self, task: Task, env: Env, *, max_turns: int = 5, run_last_tool: bool = False
    ) -> None:
        """Starts before the first turn.

        Args:
            task: the problem; a step task (one with `expected`) lasts one turn in any case.
            env: the rules.
            max_turns: turns after which an episode without an answer ends.
            run_last_tool: also carry out what the last turn asks for. Nobody sees the result but a
                reward, so it is for step tasks that are scored on what their code did.
        """
        if max_turns < 1:
            raise ValueError(f"max_turns is {max_turns}; an episode needs at least 1")
        self.task = task
        self._env = env
        self._max_turns = 1 if task.expected is not None else max_turns
        self._run_last_tool = run_last_tool
        self._turns: list[Turn] = []
        self._stop_reason: StopReason | None = None
        self._failure: str | None = None
        self.pending: Prompt | ToolCall | None = env.prompt(task, task.prefix)
        """What the episode waits for; None when it is over."""

    def act(self, completion: Completion) -> None:
        """Answers a pending prompt."""
        if not isinstance(self.pending, Prompt):
            raise EpisodeError(f"task {self.task.id!r}: no prompt is pending, so no reply is due")
        if completion.finish_reason == "length":
            action: Action | Malformed = Malformed(reason="the reply was cut at the token limit")
        else:
            action = self._env.parse(completion.text)
        before = self._seen
        self._turns.append(Turn(prompt=self.pending, completion=completion, action=action))
        if completion.finish_reason == "length":
            self._stop(StopReason.TRUNCATED)
        elif isinstance(action, Malformed):
            self._stop(StopReason.MALFORMED)
        elif action.kind == ANSWER:
            self._stop(StopReason.ANSWERED)
        else:
            call = self._env.tool_call(self.task, before, action)
            if call is not None and (not self._is_last or self._run_last_tool):
                self.pending = call
            else:
                self._next()

    def observe(self, result: ToolResult) -> None:
        """Answers a pending tool call."""
        if not isinstance(self.pending, ToolCall):
            raise EpisodeError(
                f"task {self.task.id!r}: no tool call is pending, so no result is due"
            )
        self._turns[-1] = self._turns[-1].model_copy(update={"result": result})
        self._next()

    def abort(self, failure: str) -> None:
        """Ends the episode because machinery failed; it is set aside and never trained on."""
        if self.pending is None:
            raise EpisodeError(f"task {self.task.id!r}: the episode is over and cannot be aborted")
        self._failure = failure
        self._stop(StopReason.TOOL_FAILED)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far; a step task's prefix is not among them."""
        return tuple(self._turns)

    @property
    def trajectory(self) -> Trajectory:
        """The record; an error while something is still pending."""
        if self._stop_reason is None:
            raise EpisodeError(f"task {self.task.id!r}: the episode still waits for an answer")
        return Trajectory(
            task=self.task,
            turns=self.turns,
            stop_reason=self._stop_reason,
            failure=self._failure,
        )

    @property
    def _seen(self) -> tuple[Turn, ...]:
        return (*self.task.prefix, *self._turns)

    @property
    def _is_last(self) -> bool:
        return len(self._turns) >= self._max_turns

    def _next(self) -> None:
        if self._is_last:
            self._stop(StopReason.MAX_TURNS)
        else:
            self.pending = self._env.prompt(self.task, self._seen)

    def _stop(self, reason: StopReason) -> None:
        self._stop_reason = reason
        self.pending = None


def replay(
    trajectory: Trajectory, env: Env, *, max_turns: int = 5, run_last_tool: bool = False
) -> Trajectory:
    """The same episode from its recorded replies and results: equal, if the rules still are."""
    episode = Episode(trajectory.task, env, max_turns=max_turns, run_last_tool=run_last_tool)
    for turn in trajectory.turns:
        episode.act(turn.completion)
        if isinstance(episode.pending, ToolCall) and turn.result is not None:
            episode.observe(turn.result)
    if episode.pending is not None:
        episode.abort(trajectory.failure or "the recording ends here")
    return episode.trajectory
