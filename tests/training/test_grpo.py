from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_vlm import FreeEnv, ask, lively_vlm, picture, reward_of
from visual_arft.envs.search.env import SearchEnv
from visual_arft.errors import ToolFailure
from visual_arft.images import MemoryImages
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rewards import Scores, answer_f1, format_reward, score
from visual_arft.training import checkpoint
from visual_arft.training.grpo import Game, Grpo, Round, describe
from visual_arft.training.learner import Learner
from visual_arft.training.segments import Row
from visual_arft.training.settings import GrpoConfig, OptimizerConfig
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)

IMAGES = MemoryImages()
NO_REWARD: Callable[[Trajectory], Scores] = reward_of(lambda text: 0.0)


def tasks(start: int, count: int) -> list[Task]:
    return [
        Task(id=f"t{n}", question=f"What is {n}?", answers=(), images=(picture(IMAGES, n % 3),))
        for n in range(start, start + count)
    ]


def config(**more: object) -> GrpoConfig:
    settings = {"steps": 4, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 8}
    optimizer = OptimizerConfig(lr=3e-3, warmup_steps=1, decay=True)
    return GrpoConfig.model_validate(
        {"kl_coef": 0.0, "checkpoint_every": 2, "optimizer": optimizer, **settings, **more}
    )


def game(**more: Any) -> Game:
    parts = {
        "env": FreeEnv(),
        "tools": {},
        "tasks": tasks,
        "score": reward_of(lambda t: len(t) % 5 / 4),
    }
    return Game(**{**parts, **more})


def numbers(done: Round) -> dict[str, float]:
    """A round's numbers without the clock."""
    return {name: value for name, value in done.metrics.items() if not name.endswith("_s")}


def weights(vlm: VisionLanguageModel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in vlm.model.parameters()]


def assert_equal(one: VisionLanguageModel, other: VisionLanguageModel) -> None:
    for left, right in zip(weights(one), weights(other), strict=True):
        assert torch.equal(left, right)


def started(
    folder: Path, seed: int = 0, **more: object
) -> tuple[VisionLanguageModel, Iterator[Round]]:
    vlm, reference = lively_vlm(IMAGES), lively_vlm(IMAGES)
    run = Grpo(
        vlm, game(), config(kl_coef=0.05, **more), seed=seed, folder=folder, reference=reference
    )
    return vlm, run.rounds()


def test_runs_in_one_process_do_not_disturb_each_other_nor_the_global_generators(tmp_path: Path):
    # Not looked at: `random`, from which beartype draws when it checks shapes in these tests.
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    alone, rounds = started(tmp_path / "alone")
    expected = [numbers(done) for done in rounds]
    one, first = started(tmp_path / "one")
    two, second = started(tmp_path / "two")
    _, third = started(tmp_path / "three", seed=7, temperature=0.5)
    together = [tuple(map(numbers, each)) for each in zip(first, second, third, strict=True)]
    assert [each[0] for each in together] == expected
    assert [each[1] for each in together] == expected
    assert [each[2] for each in together] != expected
    assert_equal(one, alone)
    assert_equal(two, alone)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_a_run_that_was_cut_short_goes_on_as_if_it_had_not_been(tmp_path: Path):
    whole, rounds = started(tmp_path / "whole")
    expected = [numbers(done) for done in rounds]
    _, rounds = started(tmp_path / "cut")
    before = [numbers(next(rounds)) for _ in range(3)]  # the third comes after the last checkpoint
    assert before == expected[:3]
    found = checkpoint.latest(tmp_path / "cut")
    assert found is not None
    assert found.step == 2
    again = load(ModelConfig(path=str(found.path)), IMAGES)
    run = Grpo(
        again, game(), config(kl_coef=0.05), seed=0, folder=tmp_path / "cut",
        reference=lively_vlm(IMAGES),
    )  # fmt: skip
    assert run.step == 2
    assert [numbers(done) for done in run.rounds()] == expected[2:]
    assert_equal(again, whole)
    assert run.step == 4
    assert list(run.rounds()) == []


def test_the_probability_of_a_rewarded_reply_rises(tmp_path: Path):
    vlm = lively_vlm(IMAGES)
    prompt = ask("What is 0?", picture(IMAGES, 0))
    inputs = vlm.inputs([vlm.chat.encode(prompt).ids], prompt.images, left=False)

    def probabilities() -> torch.Tensor:
        with torch.no_grad():
            return vlm.log_probabilities(vlm.hidden(inputs).last_hidden_state[0, -1], 1.0).exp()

    wanted = int(probabilities().argsort()[-2])
    before = float(probabilities()[wanted])
    played = game(
        tasks=lambda start, count: tasks(0, 1) * count,
        score=reward_of(lambda text: float(text == vlm.chat.decode([wanted]))),
    )
    settings = config(steps=25, prompts_per_step=4, group_size=8, max_new_tokens=1)
    done = list(Grpo(vlm, played, settings, seed=0, folder=tmp_path).rounds())
    assert before < 0.1
    assert float(probabilities()[wanted]) > 0.8
    assert done[-1].metrics["reward"] > done[0].metrics["reward"] + 0.5


class Searching(SearchEnv):
    """A search, whatever the first reply is, then an answer."""

    def __init__(self) -> None:
        super().__init__("append", "{question}")

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Any:
        self.turns = len(turns)
        return super().prompt(task, turns)

    def parse(self, text: str) -> Action | Malformed:
        return Action(kind="answer" if self.turns else "search", content=text)


@dataclass
class Failing:
    """A search engine that breaks down for each `every`-th call."""

    every: int
    calls: int = 0

    async def run(self, call: ToolCall) -> ToolResult:
        self.calls += 1
        if self.calls % self.every == 0:
            raise ToolFailure("the line is dead")
        return ToolResult(text=f"page {self.calls}")


def lively(*, temperature: float = 1.0, **more: object) -> GrpoConfig:
    return config(steps=1, max_new_tokens=80, temperature=temperature, **more)


@pytest.mark.parametrize(("every", "aside"), [(4, 2), (1, 8)])
def test_an_episode_whose_tool_failed_is_set_aside_and_the_rest_of_its_group_learns(
    tmp_path: Path, every: int, aside: int
):
    vlm = lively_vlm(IMAGES)
    before = weights(vlm)
    played = game(env=Searching(), tools={"search": Failing(every)})
    [done] = Grpo(vlm, played, lively(), seed=0, folder=tmp_path).rounds()
    failed = [each.stop_reason is StopReason.TOOL_FAILED for each in done.trajectories]
    assert sum(failed) == aside, "choose another seed: some replies were cut"
    assert [each is None for each in done.scores] == failed
    assert done.metrics["tool_failed"] == aside / 8
    assert done.metrics["rows"] == 8 - aside
    learned = any(not torch.equal(a, b) for a, b in zip(before, weights(vlm), strict=True))
    assert learned == (aside < 8)


def test_a_group_of_which_one_is_left_teaches_nothing(tmp_path: Path):
    played = game(env=Searching(), tools={"search": Failing(2)})
    settings = lively(group_size=2)
    [done] = Grpo(lively_vlm(IMAGES), played, settings, seed=0, folder=tmp_path).rounds()
    assert done.metrics["tool_failed"] == 0.5
    assert done.metrics["rows"] == 0


def test_single_decisions_are_trained_without_a_tool(tmp_path: Path):
    def steps(start: int, count: int) -> list[Task]:
        expected = Action(kind="search", content="who built the tower")
        return [t.model_copy(update={"expected": expected}) for t in tasks(start, count)]

    def scored(trajectory: Trajectory) -> Scores:
        rewards = {"format": format_reward, "answer": answer_f1()}
        return score(trajectory, rewards, {"format": 1.0, "answer": 1.0})

    class Guessing(Searching):
        def parse(self, text: str) -> Action | Malformed:
            return Action(kind=("search", "answer")[len(text) % 2], content=text)

    played = game(env=Guessing(), tasks=steps, score=scored)
    [done] = Grpo(lively_vlm(IMAGES), played, lively(), seed=0, folder=tmp_path).rounds()
    assert all(len(each.turns) == 1 for each in done.trajectories)
    assert 0 < done.metrics["reward_format"] < 1
    assert done.metrics["reward_answer"] == 0
    assert done.metrics["rows"] == 8
    assert done.metrics["grad_norm"] > 0


def test_every_group_is_one_task_s_and_every_round_s_tasks_are_the_next(tmp_path: Path):
    rounds = Grpo(lively_vlm(IMAGES), game(), config(), seed=0, folder=tmp_path).rounds()
    for first, second in (("t0", "t1"), ("t2", "t3")):
        ids = [each.task.id for each in next(rounds).trajectories]
        assert ids == [first] * 4 + [second] * 4


def test_a_round_without_differences_moves_nothing(tmp_path: Path):
    vlm = lively_vlm(IMAGES)
    before = weights(vlm)
    for done in Grpo(vlm, game(score=NO_REWARD), config(), seed=0, folder=tmp_path).rounds():
        assert done.metrics["rows_computed"] == 0
        assert done.metrics["loss"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(vlm), strict=True))


def test_no_keys_and_values_are_held_during_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = Grpo(lively_vlm(IMAGES), game(), config(steps=1), seed=0, folder=tmp_path)
    held: list[int] = []

    def learn(self: Learner, rows: Sequence[Row]) -> dict[str, float]:
        held.append(run._policy._decoder._prefixes.size)
        return {}

    monkeypatch.setattr(Learner, "learn", learn)
    assert len(list(run.rounds())) == 1
    assert held == [0]


def test_the_next_round_is_played_by_the_policy_that_learned(tmp_path: Path):
    vlm = lively_vlm(IMAGES)
    run = Grpo(vlm, game(), config(), seed=0, folder=tmp_path).rounds()
    next(run)
    sampling = Sampling(temperature=0, max_new_tokens=8)
    prompt = ask("What is 0?", picture(IMAGES, 0))
    before, after = (
        asyncio.run(TransformersPolicy(each, sampling).generate([prompt]))[0].logprobs
        for each in (lively_vlm(IMAGES), vlm)
    )
    assert before != after


def test_the_numbers_of_a_set_of_episodes():
    def turn(logprobs: tuple[float, ...], result: ToolResult | None = None) -> Turn:
        said = Completion(text="", token_ids=(1,) * len(logprobs), logprobs=logprobs)
        return Turn(
            prompt=ask("?"),
            completion=said,
            action=Action(kind="search", content="x"),
            result=result,
        )

    task = Task(id="t", question="?", answers=())
    searched = turn((-1.0, -3.0), ToolResult(error="no results"))
    played = [
        Trajectory(task=task, turns=(searched, turn((-2.0,))), stop_reason=StopReason.ANSWERED),
        Trajectory(task=task, turns=(turn((-4.0,)),), stop_reason=StopReason.MALFORMED),
        Trajectory(task=task, turns=(turn((0.0,)),), stop_reason=StopReason.TOOL_FAILED),
    ]
    scored = [
        Scores(rewards={"answer": 0.5}, total=1.0),
        Scores(rewards={"answer": 0.0}, total=0.0),
        None,
    ]
    assert describe(played, scored) == pytest.approx(
        {
            "reward": 0.5,  # (1 + 0) / 2: the third is set aside
            "reward_answer": 0.25,
            "answered": 1 / 3,
            "malformed": 1 / 3,
            "truncated": 0.0,
            "max_turns": 0.0,
            "tool_failed": 1 / 3,
            "turns": 4 / 3,
            "tool_use": 1 / 3,
            "tool_errors": 1.0,
            "reply_tokens": 5 / 4,
            "surprisal": 10 / 5,
        }
    )
