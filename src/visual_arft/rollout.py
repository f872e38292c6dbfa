"""Playing episodes: a policy answers their prompts, tools answer their calls.

Two drivers of the same `Episode`: `play` goes in lockstep, for a model that samples a batch at
once; `play_freely` lets each episode run ahead, for a server that batches on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from visual_arft.episode import Episode
from visual_arft.errors import EpisodeError, PolicyFailure, TokenMismatch, ToolFailure
from visual_arft.policies import Policy
from visual_arft.tools import SessionTool, Tool, Tools
from visual_arft.types import Prompt, ToolCall, Trajectory


async def play(episodes: Sequence[Episode], policy: Policy, tools: Tools) -> list[Trajectory]:
    """The trajectories of `episodes`, in their order, played in lockstep.

    A `ToolFailure` ends its own episode only, and a `PolicyFailure` those that were to be answered
    together; any other exception ends the rollout.
    """
    async for _ in rounds(episodes, policy, tools):
        pass
    return [episode.trajectory for episode in episodes]


async def rounds(
    episodes: Sequence[Episode], policy: Policy, tools: Tools
) -> AsyncIterator[Sequence[Episode]]:
    """The episodes after each round of lockstep play, for who wants to watch.

    A round is one call of the policy for all pending prompts, then all pending tool calls at once.
    """
    async with AsyncExitStack() as sessions:
        own = [_EpisodeTools(tools) for _ in episodes]
        for each in own:
            sessions.push_async_callback(each.close)
        while any(episode.pending is not None for episode in episodes):
            await _reply(episodes, policy)
            await _run_tools(episodes, own)
            yield episodes


class _EpisodeTools:
    """The tools of one episode: those that keep something between calls are its own."""

    def __init__(self, tools: Tools) -> None:
        self._shared = tools
        self._own: dict[str, Tool] = {}
        self._sessions = AsyncExitStack()

    def __contains__(self, name: str) -> bool:
        return name in self._shared

    @property
    def names(self) -> str:
        return ", ".join(sorted(self._shared)) or "none"

    async def tool(self, name: str) -> Tool:
        """The tool of a name; a session opens with its first call."""
        if name not in self._own:
            tool = self._shared[name]
            if isinstance(tool, SessionTool):
                tool = await self._sessions.enter_async_context(tool.session())
            self._own[name] = tool
        return self._own[name]

    async def close(self) -> None:
        """Ends the sessions; a second time does nothing."""
        await self._sessions.aclose()


async def play_freely(
    episodes: Sequence[Episode], policy: Policy, tools: Tools, *, concurrency: int
) -> list[Trajectory]:
    """The trajectories of `episodes`, in their order, at most `concurrency` under way at a time."""
    gate = asyncio.Semaphore(concurrency)

    async def one(episode: Episode) -> Trajectory:
        async with gate:
            [trajectory] = await play([episode], policy, tools)
            return trajectory

    return await asyncio.gather(*(one(episode) for episode in episodes))


async def _reply(episodes: Sequence[Episode], policy: Policy) -> None:
    waiting = [(each, each.pending) for each in episodes if isinstance(each.pending, Prompt)]
    if not waiting:
        return
    try:
        completions = await policy.generate([prompt for _, prompt in waiting])
    except TokenMismatch as error:
        if error.index is None:
            raise
        task = waiting[error.index][0].task
        raise TokenMismatch(f"task {task.id!r}: {error}") from error
    except PolicyFailure as failure:
        for episode, _ in waiting:
            episode.abort(str(failure))
        return
    for (episode, _), completion in zip(waiting, completions, strict=True):
        episode.act(completion)


async def _run_tools(episodes: Sequence[Episode], own: Sequence[_EpisodeTools]) -> None:
    both = list(zip(episodes, own, strict=True))
    waiting = [
        (each, each.pending, tools) for each, tools in both if isinstance(each.pending, ToolCall)
    ]
    await asyncio.gather(*(_run_tool(*each) for each in waiting))
    for episode, tools in both:
        if episode.pending is None:
            await tools.close()


async def _run_tool(episode: Episode, call: ToolCall, tools: _EpisodeTools) -> None:
    if call.tool not in tools:
        raise EpisodeError(
            f"task {episode.task.id!r} asks for the tool {call.tool!r} and the rollout has "
            f"{tools.names}; pass the tool in `tools`"
        )
    try:
        tool = await tools.tool(call.tool)
        result = await tool.run(call)
    except ToolFailure as failure:
        episode.abort(str(failure))
    else:
        episode.observe(result)
