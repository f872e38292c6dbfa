"""A training run: cold start, GRPO, and measurements; each part is recorded and done once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from visual_arft.bench.run import Play, recorded, run_suite
from visual_arft.bench.score import score as report_on
from visual_arft.config import Recipe
from visual_arft.episode import Env
from visual_arft.errors import UserError
from visual_arft.experiment.games import Game, make_game, scorer
from visual_arft.experiment.models import COLD_START, TRAINED, Models
from visual_arft.experiment.talk import Talk
from visual_arft.images import Images, MemoryImages
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.provenance import write_run
from visual_arft.sandbox import Sandbox
from visual_arft.sandbox.settings import open_sandbox
from visual_arft.store import Store
from visual_arft.tools import Tools
from visual_arft.training import checkpoint
from visual_arft.training.cold_start import cold_start
from visual_arft.training.grpo import Game as Played
from visual_arft.training.grpo import Grpo, Round
from visual_arft.types import Image, Task, Trajectory

_PICTURES = 8
"""The most that a demonstration shows."""


def train(recipe: Recipe, out: Path, *, talk: Talk | None = None) -> None:
    """Trains as a recipe says; what a part of the run has done already is not done again.

    Leaves in `out`: `config.toml`, `provenance.json`, `metrics.jsonl`; of a cold start
    `cold_start/`; and of GRPO `model/`, `checkpoints/`, `scores.jsonl` and `trajectories.jsonl`
    with `images/`.
    """
    with open_sandbox(recipe.sandbox, workers=2) as sandbox:
        run = Run(recipe, out, sandbox, talk or Talk())
        run.cold_start()
        if recipe.grpo.steps:
            run.measure(COLD_START)
            run.grpo()
            run.measure(TRAINED)


class Run:
    """One run in its folder."""

    def __init__(self, recipe: Recipe, out: Path, sandbox: Sandbox, talk: Talk) -> None:
        """Reads the data before anything long begins."""
        self.recipe = recipe
        self.game: Game = make_game(recipe, sandbox)
        self.models = Models(recipe, out)
        self.store = Store(out)
        self.held_out = self.game.held_out(self.store.images)[: recipe.eval.n]
        self._checkpoints = out / "checkpoints"
        self._talk = talk
        write_run(out, recipe, sys.argv)

    def cold_start(self) -> None:
        """Supervised steps on demonstrations, unless the recipe has none or they are done."""
        config = self.recipe.cold_start
        if not config.steps or self.models.cold.exists():
            return
        if self.game.demonstrations is None:
            raise UserError(
                f"cold_start.steps = {config.steps}, but {self.recipe.data.source} brings no "
                "demonstrations; set cold_start.steps = 0"
            )
        self.store.rewind(COLD_START, 0)
        images = self._room(config.batch_size * _PICTURES)
        with self._timed("cold_start"):
            vlm = self.models.given(images)
            steps = cold_start(vlm, self.game.demonstrations(images), config)
            for row in self._talk.track(steps, config.steps, "cold start"):
                self.store.append_metrics({"phase": COLD_START, **row})
            self.models.keep(vlm, self.models.cold)

    def grpo(self) -> None:
        """Reinforcement learning, from the newest checkpoint if there is one."""
        if self.models.trained.exists():
            return
        config = self.recipe.grpo
        a_round = config.prompts_per_step * (1 + config.group_size * config.max_turns)
        images = self._room(a_round)
        with self._timed("grpo"):
            vlm = self.models.to_improve(images, checkpoint.latest(self._checkpoints))
            run = self._improve(vlm, images)
            self.store.rewind("grpo", run.step)
            rounds = self._recorded(run.rounds(), vlm)
            for _ in self._talk.track(rounds, config.steps, "GRPO", start=run.step):
                pass
            self.models.keep(vlm, self.models.trained)

    def measure(
        self,
        phase: str,
        *,
        env: Env | None = None,
        tools: Tools | None = None,
        tasks: Sequence[Task] | None = None,
        temperature: float | None = None,
    ) -> list[Trajectory]:
        """Plays the held-out tasks with the model of a phase, and records a report on them."""
        tasks = self.held_out if tasks is None else tasks
        known = recorded(tasks, self.store, phase)
        if len(known) == len(tasks):  # no model need be loaded
            played = [known[task.id] for task in tasks]
        else:
            with self._timed("measure"):
                vlm = self.models.of(phase, self.store.images)
                played = self._play(phase, vlm, tasks, env, tools, temperature)
        self._say(phase, played)
        return played

    def _improve(self, vlm: VisionLanguageModel, images: Images) -> Grpo:
        config = self.recipe.grpo
        reference = None
        if config.kl_coef and not self.recipe.model.lora_rank:
            reference = self.models.to_improve(images)
            reference.model.requires_grad_(False)
        game = Played(
            env=self.game.env,
            tools=self.game.tools(images),
            tasks=self.game.train(images),
            score=scorer(self.recipe, self.game),
            run_last_tool="executed" in self.recipe.rubric,
        )
        return Grpo(
            vlm, game, config, seed=self.recipe.seed, folder=self._checkpoints, reference=reference
        )

    def _play(
        self,
        phase: str,
        vlm: VisionLanguageModel,
        tasks: Sequence[Task],
        env: Env | None = None,
        tools: Tools | None = None,
        temperature: float | None = None,
    ) -> list[Trajectory]:
        sampling = Sampling(
            temperature=self.recipe.eval.temperature if temperature is None else temperature,
            max_new_tokens=self.recipe.grpo.max_new_tokens,
            seed=self.recipe.seed,
            keyed=True,
        )
        how = Play(
            env or self.game.env,
            self.game.held_out_tools(self.store.images) if tools is None else tools,
            max_turns=self.recipe.grpo.max_turns,
            batch_size=self.recipe.eval.batch_size,
        )
        policy = partial(TransformersPolicy, vlm, sampling)
        return asyncio.run(run_suite(tasks, how, policy, self.store, phase=phase))

    def _room(self, pictures: int) -> MemoryImages:
        """Memory for the pictures of one step; what the run keeps is read from its folder."""
        return MemoryImages(pictures, behind=self.store.images)

    def _recorded(
        self, rounds: Iterator[Round], vlm: VisionLanguageModel
    ) -> Iterator[dict[str, object]]:
        """The numbers of each round, once they and its first group are recorded."""
        every = self.recipe.eval.every
        for done in rounds:
            step = done.metrics["step"]
            group = slice(self.recipe.grpo.group_size)
            for each, earned in zip(done.trajectories[group], done.scores[group], strict=True):
                for image in _images_of(each):
                    self.store.images.add(vlm.images.read(image))
                reward = None if earned is None else earned.total
                self.store.append([each], {"phase": "grpo", "step": step, "reward": reward})
            self.store.append_metrics({"phase": "grpo", **done.metrics, **self._searches()})
            if every and step % every == 0 and step < self.recipe.grpo.steps:
                phase = f"step_{step}"
                self._say(phase, self._play(phase, vlm, self.held_out))
            yield done.metrics

    def _searches(self) -> dict[str, int]:
        """How the searches of a round were answered."""
        if self.game.search_counts is None:
            return {}
        counts = self.game.search_counts().model_dump()
        return {f"search_{name}": number for name, number in counts.items()}

    @contextmanager
    def _timed(self, part: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - began, 2)
            self.store.append_metrics({"phase": "seconds", "part": part, "seconds": seconds})

    def _say(self, phase: str, played: Sequence[Trajectory]) -> None:
        """Tells how a phase went, and records it unless it is on record."""
        report = report_on(played, cjk=self.game.cjk, name=phase)
        cell = report.overall["paper"]
        row = report.model_dump(mode="json")
        if row not in self.store.scores():
            self.store.append_scores(row)
        (em_low, em_high), (f1_low, f1_high) = cell.em_ci, cell.f1_ci
        self._talk.line(
            f"{phase}: n {cell.n}  EM {cell.em:.1f} [{em_low:.1f}, {em_high:.1f}]"
            f"  F1 {cell.f1:.1f} [{f1_low:.1f}, {f1_high:.1f}]"
        )


def _images_of(trajectory: Trajectory) -> list[Image]:
    seen = [image for turn in trajectory.turns for image in turn.prompt.images]
    made = [i for turn in trajectory.turns if turn.result for i in turn.result.images]
    return [*trajectory.task.images, *seen, *made]
