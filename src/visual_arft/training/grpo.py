"""GRPO: groups of rollouts, rewards, group-relative advantages, an update of the policy.

Whole episodes with tools really executed, or the paper's single decisions: the difference is in the
tasks, for a step task is an episode of one turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visual_arft.episode import Env, Episode
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rewards import Scores
from visual_arft.rollout import play
from visual_arft.tools import Tools
from visual_arft.training import checkpoint
from visual_arft.training.advantages import group_advantages
from visual_arft.training.learner import Learner
from visual_arft.training.segments import Row, rows, segments
from visual_arft.training.settings import GrpoConfig
from visual_arft.types import StopReason, Task, Trajectory

TaskSource = Callable[[int, int], Sequence[Task]]
"""`tasks(start, count)`: the next ones of a stream, the same for the same numbers."""

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Game:
    """What is played and what it is worth."""

    env: Env
    tools: Tools
    tasks: TaskSource
    score: Callable[[Trajectory], Scores]
    run_last_tool: bool = False
    """Step tasks only: carry out what the reply asks for, so that a reward can look at it."""


@dataclass(frozen=True)
class Round:
    """One round of training: its rollouts, what they earned (None: set aside), and its numbers."""

    trajectories: Sequence[Trajectory]
    scores: Sequence[Scores | None]
    metrics: Metrics


class Grpo:
    """A training run: `for done in run.rounds(): …`."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        game: Game,
        config: GrpoConfig,
        *,
        seed: int,
        folder: Path,
        reference: VisionLanguageModel | None = None,
    ) -> None:
        """Starts before the first round, or after the newest checkpoint in `folder`.

        Args:
            vlm: the policy. On a resume, load it from `checkpoint.latest(folder)`.
            game: what is played.
            config: how the policy is updated.
            seed: of sampling.
            folder: where checkpoints go.
            reference: the model that the KL penalty is taken to; None with LoRA means the policy
                without its adapters, and with a `kl_coef` of 0 none is needed.
        """
        self.vlm = vlm
        self._game = game
        self._config = config
        self._folder = folder
        self._learner = Learner(vlm, config, reference)
        sampling = Sampling(
            temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=seed
        )
        self._policy = TransformersPolicy(vlm, sampling)
        self.step = 0
        if (found := checkpoint.latest(folder)) is not None:
            self._restore(found)

    def rounds(self) -> Iterator[Round]:
        """Plays and updates until all rounds are done; a checkpoint is left on the way.

        It is left after its round was handed out: what a run goes on from has been recorded.
        """
        while self.step < self._config.steps:
            done = self._round()
            self.step += 1
            yield done
            if self.step % self._config.checkpoint_every == 0 or self.step == self._config.steps:
                self._save()

    def _round(self) -> Round:
        began = time.perf_counter()
        size = self._config.prompts_per_step
        tasks = self._game.tasks(self.step * size, size)
        episodes = [self._episode(task) for task in tasks for _ in range(self._config.group_size)]
        trajectories = asyncio.run(play(episodes, self._policy, self._game.tools))
        self._policy.forget()  # the update needs the memory, and makes what is kept void
        scores = [
            None if each.stop_reason is StopReason.TOOL_FAILED else self._game.score(each)
            for each in trajectories
        ]
        played = time.perf_counter()
        learned = self._learner.learn(self._rows(trajectories, scores))
        metrics = {"step": self.step + 1, **describe(trajectories, scores), **learned}
        metrics |= {"play_s": played - began, "update_s": time.perf_counter() - played}
        return Round(trajectories, scores, metrics)

    def _episode(self, task: Task) -> Episode:
        return Episode(
            task,
            self._game.env,
            max_turns=self._config.max_turns,
            run_last_tool=self._game.run_last_tool,
        )

    def _rows(
        self, trajectories: Sequence[Trajectory], scores: Sequence[Scores | None]
    ) -> list[Row]:
        """All rows of a round; a group of which fewer than two can be scored teaches nothing."""
        size = self._config.group_size
        found: list[Row] = []
        for start in range(0, len(trajectories), size):
            members = slice(start, start + size)
            played = zip(trajectories[members], scores[members], strict=True)
            group = [(each, score.total) for each, score in played if score is not None]
            if len(group) < 2:
                continue
            rewards = torch.tensor([[total for _, total in group]])
            advantages = group_advantages(rewards, scale=self._config.scale_advantage)[0].tolist()
            for (each, _), advantage in zip(group, advantages, strict=True):
                found += rows(segments(each, advantage))
        return found

    def _save(self) -> None:
        state = {
            "updates": self._learner.updates.state(),
            "generators": checkpoint.generator_states([self._policy.generator]),
        }
        checkpoint.save(self._folder, self.step, self.vlm.save, state)

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        state = found.state()
        self._learner.updates.restore(state["updates"])
        checkpoint.restore_generators([self._policy.generator], state["generators"])
        self.step = found.step


def describe(trajectories: Sequence[Trajectory], scores: Sequence[Scores | None]) -> Metrics:
    """The numbers of a set of episodes: mean rewards, why they ended, turns, use of tools.

    `surprisal` is the mean -log p of a sampled token, an estimate of the policy's entropy.
    """
    scored = [score for score in scores if score is not None]
    names = scored[0].rewards if scored else {}
    turns = [turn for each in trajectories for turn in each.turns]
    calls = [turn.result for turn in turns if turn.result is not None]
    logprobs = [logprob for turn in turns for logprob in turn.completion.logprobs or ()]
    stops = Counter(each.stop_reason for each in trajectories)
    return {
        "reward": _mean([score.total for score in scored]),
        **{f"reward_{name}": _mean([score.rewards[name] for score in scored]) for name in names},
        **{str(reason): stops[reason] / len(trajectories) for reason in StopReason},
        "turns": _mean([len(each.turns) for each in trajectories]),
        "tool_use": _mean([any(t.result for t in each.turns) for each in trajectories]),
        "tool_errors": _mean([result.error is not None for result in calls]),
        "reply_tokens": _mean([len(turn.completion.token_ids or ()) for turn in turns]),
        "surprisal": -_mean(logprobs),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
