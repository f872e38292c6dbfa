"""Playing episodes: a policy answers their prompts, tools answer their calls.

Two drivers of the same `Episode`: `play` goes in lockstep, for a model that samples a batch at
once; `play_freely` lets each episode run ahead, for a server that batches on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

from visual_arft.episode import Episode
from visual_arft.errors import EpisodeError, TokenMismatch, ToolFailure
from visual_arft.policies import Policy
from visual_arft.tools import OpenTool, StatefulTool, Tools
from visual_arft.types import Prompt, ToolCall, Trajectory


async def play(episodes: Sequence[Episode], policy: Policy, tools: Tools) -> list[Trajectory]:
    """The trajectories of `episodes`, in their order, played in lockstep.

    A `ToolFailure` ends its own episode only; any other exception ends the rollout.
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
    opened = {id(episode): _open(tools) for episode in episodes}
    try:
        while any(episode.pending is not None for episode in episodes):
            await _reply(episodes, policy)
            await _run_tools(episodes, opened)
            for episode in episodes:
                if episode.pending is None:
                    _close(opened[id(episode)], tools)
            yield episodes
    finally:
        for own in opened.values():
            _close(own, tools)


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
    for (episode, _), completion in zip(waiting, completions, strict=True):
        episode.act(completion)


async def _run_tools(episodes: Sequence[Episode], opened: Mapping[int, Tools]) -> None:
    waiting = [(each, each.pending) for each in episodes if isinstance(each.pending, ToolCall)]
    await asyncio.gather(
        *(_run_tool(episode, call, opened[id(episode)]) for episode, call in waiting)
    )


async def _run_tool(episode: Episode, call: ToolCall, tools: Tools) -> None:
    if call.tool not in tools:
        known = ", ".join(sorted(tools)) or "none"
        raise EpisodeError(
            f"task {episode.task.id!r} asks for the tool {call.tool!r} and the rollout has "
            f"{known}; pass the tool in `tools`"
        )
    try:
        result = await tools[call.tool].run(call)
    except ToolFailure as failure:
        episode.abort(str(failure))
    else:
        episode.observe(result)


def _open(tools: Tools) -> Tools:
    """The tools for one episode: its own, where they keep state."""
    return {
        name: tool.open() if isinstance(tool, StatefulTool) else tool
        for name, tool in tools.items()
    }


def _close(own: Tools, tools: Tools) -> None:
    for name, tool in own.items():
        if tool is not tools[name]:
            cast(OpenTool, tool).close()
