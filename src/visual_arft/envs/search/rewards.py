"""The paper's rewards for single steps of a search."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from visual_arft.envs.search.embedder import Embedder
from visual_arft.envs.search.env import SEARCH
from visual_arft.rewards import Reward, answer_f1
from visual_arft.types import Action, Trajectory

THRESHOLD = 0.5
"""A cosine below this counts as no likeness at all."""


def query_similarity(embedder: Embedder) -> Reward:
    """The reward for a query like the gold one: their cosine, cut to 0.0 below the threshold.

    A step task that expects an answer, and a reply that is no search, earn 0.0. (The authors' code
    compares a malformed reply as if all of it were a query.)
    """

    @cache
    def gold(text: str) -> NDArray[np.float32]:
        return embedder.embed([text])[0]

    def reward(trajectory: Trajectory) -> float:
        expected, action = trajectory.task.expected, trajectory.turns[-1].action
        if expected is None:
            raise ValueError(
                f"task {trajectory.task.id!r} has no gold query, so its episode cannot be compared "
                "with one; use this reward for step tasks"
            )
        if expected.kind != SEARCH or not isinstance(action, Action) or action.kind != SEARCH:
            return 0.0
        cosine = float(embedder.embed([action.content])[0] @ gold(expected.content))
        return cosine if cosine >= THRESHOLD else 0.0

    return reward


def search_step_reward(embedder: Embedder) -> Reward:
    """The paper's reward for one step: a query's likeness or an answer's F1; else 0.0."""
    query, answer = query_similarity(embedder), answer_f1()
    return lambda trajectory: query(trajectory) + answer(trajectory)  # one of them is always 0.0
