"""One question to a model, watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from visual_arft.envs.search.recording import Desk
from visual_arft.episode import Episode
from visual_arft.experiment.benchmark import env_tools
from visual_arft.experiment.player import EnvName, find_player
from visual_arft.images import MemoryImages, load
from visual_arft.policies import Policy, Sampling
from visual_arft.rollout import rounds
from visual_arft.tools import Tools
from visual_arft.types import Task, Trajectory, Turn

Tell = Callable[[Turn], None]
"""Told of a turn as soon as its result is there."""


def chat(
    image: Path, question: str, *, model: str, env: EnvName, corpus: str | None, tell: Tell
) -> Trajectory:
    """One episode about an image."""
    images = MemoryImages()
    task = Task(id=image.name, question=question, answers=(), images=(load(image, images),))
    player = find_player(model, env)
    with ExitStack() as stack:
        tools = env_tools(
            env,
            images,
            corpus,
            context=player.context,
            actions=player.actions,
            desk=Desk(),
            mini=player.is_tiny,
            stack=stack,
        )
        # Here, so that what is wrong with the rest of the command shows before torch loads.
        from visual_arft.model.load import load as load_model
        from visual_arft.policies.transformers import TransformersPolicy

        policy = TransformersPolicy(load_model(player.model, images), Sampling(temperature=0))
        episode = Episode(task, player.rules("agent"), max_turns=player.max_turns)
        asyncio.run(_watch(episode, policy, tools, tell))
    return episode.trajectory


async def _watch(episode: Episode, policy: Policy, tools: Tools, tell: Tell) -> None:
    async for _ in rounds([episode], policy, tools):
        tell(episode.turns[-1])
