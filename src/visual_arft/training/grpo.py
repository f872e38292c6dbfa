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
from torch import Tensor

from visual_arft.episode import Env, Episode
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rewards import Scores
from visual_arft.rollout import play
from visual_arft.tools import Tools
from visual_arft.training import checkpoint
from visual_arft.training.advantages import group_advantages
from visual_arft.training.loss import grpo_loss, kl_estimate
from visual_arft.training.segments import Row, rows, segments
from visual_arft.training.settings import GrpoConfig
from visual_arft.training.updates import Updates, logprobs_of, micro_batches, prepare
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
        if config.kl_coef and reference is None and not hasattr(vlm.model, "disable_adapter"):
            raise ValueError(f"kl_coef is {config.kl_coef}, which needs a reference model")
        self.vlm = vlm
        self._game = game
        self._config = config
        self._folder = folder
        self._reference = reference
        sampling = Sampling(
            temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=seed
        )
        self._policy = TransformersPolicy(vlm, sampling)
        updates = config.steps * config.updates_per_step
        self._updates = Updates(vlm.model.parameters(), config.optimizer, updates)
        self.step = 0
        if (found := checkpoint.latest(folder)) is not None:
            self._restore(found)

    def rounds(self) -> Iterator[Round]:
        """Plays and updates until all rounds are done; a checkpoint is left on the way."""
        while self.step < self._config.steps:
            done = self._round()
            self.step += 1
            if self.step % self._config.checkpoint_every == 0 or self.step == self._config.steps:
                self._save()
            yield done

    def _round(self) -> Round:
        began = time.perf_counter()
        size = self._config.prompts_per_step
        tasks = self._game.tasks(self.step * size, size)
        trajectories = asyncio.run(
            play([self._episode(task) for task in tasks for _ in self._group], self._policy,
                 self._game.tools)
        )  # fmt: skip
        scores = [
            None if each.stop_reason is StopReason.TOOL_FAILED else self._game.score(each)
            for each in trajectories
        ]
        played = time.perf_counter()
        learned = self._learn(self._rows(trajectories, scores))
        metrics = {"step": self.step + 1, **describe(trajectories, scores), **learned}
        metrics |= {"play_s": played - began, "update_s": time.perf_counter() - played}
        return Round(trajectories, scores, metrics)

    @property
    def _group(self) -> range:
        return range(self._config.group_size)

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
            members = zip(trajectories[start : start + size], scores[start : start + size], strict=True)
            group = [(each, score.total) for each, score in members if score is not None]
            if len(group) < 2:
                continue
            rewards = torch.tensor([[total for _, total in group]])
            advantages = group_advantages(rewards, scale=self._config.scale_advantage)[0].tolist()
            for (each, _), advantage in zip(group, advantages, strict=True):
                found += rows(segments(each, advantage))
        return found

    def _learn(self, found: Sequence[Row]) -> Metrics:
        if not found:
            return {"loss": 0.0, "rows": 0}
        by_token = self._config.reduction == "token"
        total = sum(map(sum, (row.mask for row in found))) if by_token else len(found)
        # Without a KL penalty a row of advantage 0 has no gradient: it counts, but is not computed.
        moving = [row for row in found if row.advantage or self._config.kl_coef]
        parts = micro_batches(moving, self._config.micro_batch_size)
        sums = Counter[str]()
        for _ in range(self._config.updates_per_step):
            for part in parts:
                sums.update(self._backward(part, total))
            if parts:
                sums["grad_norm"] += self._updates.step()
        share = 1 / self._config.updates_per_step
        means = {name: value * share for name, value in sums.items()}
        return {**means, "rows": len(found), "rows_computed": len(moving), "lr": self._updates.lr}

    def _backward(self, part: Sequence[Row], total: int) -> dict[str, float]:
        batch, inputs = prepare(self.vlm, part)
        mask = batch.mask.to(self.vlm.device)
        old = batch.old_logprobs.to(self.vlm.device)
        logprobs = logprobs_of(self.vlm, batch, inputs, self._config.temperature)
        ref = self._ref_logprobs(part) if self._config.kl_coef else None
        loss = grpo_loss(
            logprobs,
            old,
            ref,
            batch.advantages.to(self.vlm.device),
            mask,
            clip_range=self._config.clip_range,
            kl_coef=self._config.kl_coef,
            reduction=self._config.reduction,
            total=total,
        )
        loss.backward()
        with torch.no_grad():
            ratio = (logprobs - old).exp()[mask]
            clipped = (ratio - 1).abs() > self._config.clip_range
            tokens = max(1, int(mask.sum()))
            numbers = {"loss": float(loss), "clipped": float(clipped.sum()) / total}
            if ref is not None:
                numbers["kl"] = float(kl_estimate(logprobs, ref)[mask].sum()) / total
            numbers["entropy_sampled"] = -float(logprobs[mask].sum()) / total
        del tokens
        return numbers

    @torch.no_grad()
    def _ref_logprobs(self, part: Sequence[Row]) -> Tensor:
        if self._reference is not None:
            batch, inputs = prepare(self._reference, part)
            return logprobs_of(self._reference, batch, inputs, self._config.temperature)
        with self.vlm.model.disable_adapter():
            batch, inputs = prepare(self.vlm, part)
            return logprobs_of(self.vlm, batch, inputs, self._config.temperature)

    def _save(self) -> None:
        state = {
            "updates": self._updates.state(),
            "generators": checkpoint.generator_states([self._policy.generator]),
        }
        checkpoint.save(self._folder, self.step, self.vlm.save, state)

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        state = found.state()
        self._updates.restore(state["updates"])
        checkpoint.restore_generators([self._policy.generator], state["generators"])
        self.step = found.step


def describe(trajectories: Sequence[Trajectory], scores: Sequence[Scores | None]) -> Metrics:
    """The numbers of a set of episodes: mean rewards, why they ended, turns, tool use and errors."""
    scored = [score for score in scores if score is not None]
    names = scored[0].rewards if scored else {}
    calls = [t.result for each in trajectories for t in each.turns if t.result is not None]
    stops = Counter(each.stop_reason for each in trajectories)
    return {
        "reward": _mean([score.total for score in scored]),
        **{f"reward_{name}": _mean([score.rewards[name] for score in scored]) for name in names},
        **{str(reason): stops[reason] / len(trajectories) for reason in StopReason},
        "turns": _mean([len(each.turns) for each in trajectories]),
        "tool_use": _mean([any(t.result for t in each.turns) for each in trajectories]),
        "tool_errors": _mean([result.error is not None for result in calls]),
        "reply_tokens": _mean(
            [len(t.completion.token_ids or ()) for each in trajectories for t in each.turns]
        ),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
