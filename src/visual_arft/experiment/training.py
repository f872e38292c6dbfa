"""A training run: cold start, measurement, GRPO, measurement; each part is done once and recorded."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from visual_arft.bench.run import run_suite
from visual_arft.bench.score import Report
from visual_arft.bench.score import score as report_on
from visual_arft.config import Recipe, dump_recipe
from visual_arft.episode import Env
from visual_arft.errors import UserError
from visual_arft.experiment.games import Game, make_game, scorer
from visual_arft.experiment.talk import Talk
from visual_arft.images import Images, MemoryImages
from visual_arft.model import tiny
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.provenance import write_run
from visual_arft.sandbox import Sandbox
from visual_arft.store import Store
from visual_arft.synth import coding, search
from visual_arft.tools import Tools
from visual_arft.training import checkpoint
from visual_arft.training.cold_start import cold_start
from visual_arft.training.grpo import Game as Played
from visual_arft.training.grpo import Grpo, Round
from visual_arft.types import Image, Task, Trajectory

NEW = "new"
"""The model path of a recipe that builds the tiny base from nothing."""

DIRECT, COLD_START, TRAINED = "direct", "cold_start", "trained"
"""What is measured: the model as it was given, after the cold start, and in the end."""

_VOCABULARY = 800
_IMAGES_IN_MEMORY = 6000
_RECORDED_GROUPS = 1


def train(recipe: Recipe, out: Path, *, resume: bool = False, talk: Talk | None = None) -> None:
    """Trains as a recipe says; what a part of the run has done already is not done again.

    Leaves in `out`: `config.toml`, `provenance.json`, `metrics.jsonl`, `scores.jsonl`,
    `trajectories.jsonl` with `images/`, `cold_start/`, `checkpoints/` and `model/`.
    """
    with Sandbox(workers=2) as sandbox:
        run = Run(recipe, out, sandbox, talk or Talk())
        run.cold_start()
        if recipe.grpo.steps:
            run.measure(COLD_START)
            run.grpo()
            run.measure(TRAINED)


def describe(recipe: Recipe) -> str:
    """The resolved recipe, and in words what a run of it does."""
    grpo, cold = recipe.grpo, recipe.cold_start
    parts: list[str] = []
    if cold.steps:
        parts.append(f"cold start: {cold.steps} updates of {cold.batch_size} demonstrations")
    if grpo.steps:
        parts.append(
            f"GRPO, {grpo.mode}: {grpo.steps} rounds of {grpo.prompts_per_step} tasks x "
            f"{grpo.group_size} rollouts, up to {grpo.max_turns} turns of {grpo.max_new_tokens} tokens"
        )
        parts.append(f"measured before and after on {recipe.eval.n} held-out tasks")
    return dump_recipe(recipe) + "\n" + "\n".join(f"# {part}" for part in parts)


class Run:
    """One run in its folder."""

    def __init__(self, recipe: Recipe, out: Path, sandbox: Sandbox, talk: Talk) -> None:
        """Reads the data before anything long begins."""
        self.recipe = recipe
        self.out = out
        self.game: Game = make_game(recipe, sandbox)
        self.store = Store(out)
        self.held_out = self.game.held_out(self.store.images)[: recipe.eval.n]
        self._talk = talk
        self._kept: tuple[ModelConfig, VisionLanguageModel] | None = None
        write_run(out, recipe, sys.argv)

    @property
    def model_folder(self) -> Path:
        """The trained model, as `from_pretrained` loads it."""
        return self.out / "model"

    def cold_start(self) -> None:
        """Supervised steps on demonstrations, unless the recipe has none or they are done."""
        config, folder = self.recipe.cold_start, self._cold_folder
        if not config.steps or folder.exists():
            return
        if self.game.demonstrations is None:
            raise UserError(
                f"cold_start.steps = {config.steps}, but {self.recipe.data.source} brings no "
                "demonstrations; set cold_start.steps = 0"
            )
        images = MemoryImages(_IMAGES_IN_MEMORY)
        vlm = self._start(images)
        steps = cold_start(vlm, self.game.demonstrations(images), config)
        with self._timed("cold_start"):
            for row in self._talk.track(steps, config.steps, "cold start"):
                self.store.append_metrics({"phase": "cold_start", **row})
        if self.recipe.model.lora_rank:
            vlm.model = vlm.model.merge_and_unload()
        _save_whole(vlm, folder)

    def grpo(self) -> None:
        """Reinforcement learning, from the newest checkpoint if there is one."""
        if self.model_folder.exists():
            return
        folder = self.out / "checkpoints"
        found = checkpoint.latest(folder)
        images = MemoryImages(_IMAGES_IN_MEMORY)
        vlm = self._load(images, found.path if found else None)
        config = self.recipe.grpo
        reference = None
        if config.kl_coef and not self.recipe.model.lora_rank:
            reference = self._load(images)
            reference.model.requires_grad_(False)
        played = Played(
            env=self.game.env,
            tools=self.game.tools(images),
            tasks=self.game.train(images),
            score=scorer(self.recipe, self.game),
            run_last_tool="executed" in self.recipe.rubric,
        )
        run = Grpo(vlm, played, config, seed=self.recipe.seed, folder=folder, reference=reference)
        with self._timed("grpo"):
            rounds = self._recorded(run.rounds(), images)
            for _ in self._talk.track(rounds, config.steps, "GRPO", start=run.step):
                pass
        if self.recipe.model.lora_rank:
            vlm.model = vlm.model.merge_and_unload()
        _save_whole(vlm, self.model_folder)

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
        temperature = self.recipe.eval.temperature if temperature is None else temperature
        policy = TransformersPolicy(
            self._measured(phase),
            Sampling(
                temperature=temperature,
                max_new_tokens=self.recipe.grpo.max_new_tokens,
                seed=self.recipe.seed,
            ),
        )
        with self._timed("measure"):
            played = asyncio.run(
                run_suite(
                    self.held_out if tasks is None else tasks,
                    env or self.game.env,
                    policy,
                    self.game.held_out_tools(self.store.images) if tools is None else tools,
                    self.store,
                    max_turns=self.recipe.grpo.max_turns,
                    batch_size=self.recipe.eval.batch_size,
                    phase=phase,
                )
            )
        report = report_on(played, cjk=self.game.cjk, name=phase)
        self._say(report)
        return played

    @property
    def _cold_folder(self) -> Path:
        return self.out / "cold_start"

    def _measured(self, phase: str) -> VisionLanguageModel:
        """The model that a phase is about, kept for the next phase about the same."""
        folders = {DIRECT: None, COLD_START: self._cold_folder}
        name = next((name for name in folders if phase.startswith(name)), TRAINED)
        folder = folders.get(name, self.model_folder)
        config = self.recipe.model.model_copy(update={"lora_rank": 0})
        if folder is not None and folder.exists():
            config = config.model_copy(update={"path": str(folder)})
        if self._kept is None or self._kept[0] != config:
            self._kept = (config, load(config, self.store.images))
        return self._kept[1]

    def _start(self, images: Images) -> VisionLanguageModel:
        if self.recipe.model.path != NEW:
            return load(self.recipe.model, images, seed=self.recipe.seed)
        words = [phrase for part in (coding, search) for phrase in part.phrases()]
        tokenizer = tiny.build_tokenizer(words * 20, _VOCABULARY)
        model = tiny.build_model(tokenizer, seed=self.recipe.seed)
        return VisionLanguageModel(model, tokenizer, tiny.build_image_processor(), images)

    def _load(self, images: Images, found: Path | None = None) -> VisionLanguageModel:
        """The model that GRPO starts from: after the cold start, if there was one."""
        config = self.recipe.model
        if self._cold_folder.exists():
            config = config.model_copy(update={"path": str(self._cold_folder)})
        return load(config, images, seed=self.recipe.seed, checkpoint=found)

    def _recorded(self, rounds: Iterator[Round], images: Images) -> Iterator[dict[str, object]]:
        size = self.recipe.grpo.group_size * _RECORDED_GROUPS
        for done in rounds:
            self.store.append_metrics({"phase": "grpo", **done.metrics})
            for each, earned in zip(done.trajectories[:size], done.scores[:size], strict=True):
                for image in _images_of(each):
                    self.store.images.add(images.read(image))
                reward = None if earned is None else earned.total
                meta = {"phase": "grpo", "step": done.metrics["step"], "reward": reward}
                self.store.append([each], meta)
            yield done.metrics

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - began, 2)
            self.store.append_metrics({"phase": "seconds", "part": part, "seconds": seconds})

    def _say(self, report: Report) -> None:
        cell = report.overall["paper"]
        self.store.append_scores(report.model_dump(mode="json"))
        self._talk.line(
            f"{report.name}: n {cell.n}  EM {cell.em:.1f} [{cell.em_ci[0]:.1f}, {cell.em_ci[1]:.1f}]"
            f"  F1 {cell.f1:.1f} [{cell.f1_ci[0]:.1f}, {cell.f1_ci[1]:.1f}]"
        )


def _images_of(trajectory: Trajectory) -> list[Image]:
    seen = [image for turn in trajectory.turns for image in turn.prompt.images]
    made = [i for turn in trajectory.turns if turn.result for i in turn.result.images]
    return [*trajectory.task.images, *seen, *made]


def _save_whole(vlm: VisionLanguageModel, folder: Path) -> None:
    """Saves a model under its name once it is whole, so that a torn one is never taken for it."""
    partial = folder.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        vlm.save(partial)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: the model cannot be written ({error}); free some space") from None
