from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from visual_arft.envs.search.env import SearchEnv
from visual_arft.envs.search.rewards import query_similarity, search_step_reward
from visual_arft.episode import Episode
from visual_arft.tags import wrap
from visual_arft.types import Action, Completion, Task, Trajectory


class Angles:
    """An embedder for texts that are angles in degrees."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        radians = np.radians([float(text) for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def step(kind: str, content: str) -> Task:
    answers = (content,) if kind == "answer" else ("42",)
    expected = Action(kind=kind, content=content)
    return Task(id="step", question="?", answers=answers, expected=expected)


def played(task: Task, reply: str) -> Trajectory:
    episode = Episode(task, SearchEnv(), max_turns=1)
    episode.act(Completion(text=reply))
    return episode.trajectory


@pytest.mark.parametrize(
    ("angle", "reward"),
    [
        ("0", 1.0),
        ("59", np.cos(np.radians(59))),  # 0.515
        ("61", 0.0),  # the cosine is 0.485
        ("180", 0.0),
    ],
)
def test_a_query_earns_its_cosine_to_the_gold_one_and_nothing_below_one_half(
    angle: str, reward: float
):
    trajectory = played(step("search", "0"), wrap("", "search", angle))
    assert query_similarity(Angles())(trajectory) == pytest.approx(reward)
    assert search_step_reward(Angles())(trajectory) == pytest.approx(reward)


@pytest.mark.parametrize("reply", [wrap("", "answer", "42"), "<search>0</search>", "0"])
def test_a_reply_that_is_no_search_earns_nothing_where_one_is_due(reply: str):
    assert search_step_reward(Angles())(played(step("search", "0"), reply)) == 0.0


def test_an_answer_earns_its_f1_where_one_is_due():
    task = step("answer", "Gustave Eiffel")
    reward = search_step_reward(Angles())
    assert reward(played(task, wrap("", "answer", "Gustave Flaubert"))) == pytest.approx(0.5)
    assert reward(played(task, wrap("", "search", "Gustave Eiffel"))) == 0.0


def test_a_gold_query_is_embedded_once_for_the_whole_group():
    embedder = Angles()
    reward = query_similarity(embedder)
    for angle in ("10", "20", "30"):
        reward(played(step("search", "0"), wrap("", "search", angle)))
    assert sorted(embedder.asked) == ["0", "10", "20", "30"]


def test_a_whole_episode_has_no_gold_query():
    task = Task(id="whole", question="?", answers=("42",))
    with pytest.raises(ValueError, match="'whole' has no gold query"):
        query_similarity(Angles())(played(task, wrap("", "answer", "42")))
