"""The models of one run: the one it is given, after the cold start, and in the end."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from visual_arft.config import Recipe
from visual_arft.errors import UserError
from visual_arft.images import Images, MemoryImages
from visual_arft.model import tiny
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.synth import coding, practice, search
from visual_arft.synth.world import RELATIONS
from visual_arft.training.checkpoint import Checkpoint, write_whole

NEW = "new"
"""The model path of a recipe that builds the tiny base from nothing."""

DIRECT, COLD_START, TRAINED = "direct", "cold_start", "trained"
"""Phases: they are about the model as it was given, after the cold start, and in the end."""

_VOCABULARY = 640


class Models:
    """The models of one run, found in its folder as far as they have been trained."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        """Checks that there is something to start from."""
        self._config = recipe.model
        self._seed = recipe.seed
        self.cold = out / "cold_start"
        """The folder of the model after the cold start."""
        self.trained = out / "model"
        """The folder of the model in the end."""
        self._measured: tuple[str, VisionLanguageModel] | None = None
        if self._config.path == NEW and not recipe.cold_start.steps:
            raise UserError(
                f"model.path = {NEW!r} has learned nothing, and cold_start.steps = 0; set "
                "cold_start.steps, or give a model"
            )

    def given(self, images: Images) -> VisionLanguageModel:
        """The model that the recipe names, ready to train."""
        if self._config.path != NEW:
            return load(self._config, images, seed=self._seed)
        with TemporaryDirectory() as folder:
            _save_new(Path(folder), self._seed)
            return load(self._at(Path(folder)), images, seed=self._seed)

    def to_improve(self, images: Images, found: Checkpoint | None = None) -> VisionLanguageModel:
        """The model that GRPO starts from, or goes on from a checkpoint with."""
        config = self._at(self.cold) if self.cold.exists() else self._config
        return load(config, images, seed=self._seed, checkpoint=found.path if found else None)

    def of(self, phase: str, images: Images) -> VisionLanguageModel:
        """The model that a phase is about, kept for the next phase about the same."""
        path = self._path_of(phase)
        if self._measured is None or self._measured[0] != path:
            config = self._config.model_copy(update={"path": path, "lora_rank": 0})
            self._measured = (path, load(config, images))
        return self._measured[1]

    def keep(self, vlm: VisionLanguageModel, folder: Path) -> None:
        """Saves a trained model as plain transformers loads it; LoRA weights become part of it."""
        if vlm.model is not vlm.core:
            vlm.model = vlm.model.merge_and_unload()
        write_whole(folder, vlm.save)

    def _path_of(self, phase: str) -> str:
        if phase.startswith(DIRECT):
            return self._config.path
        folder = self.cold if phase.startswith(COLD_START) else self.trained
        return str(folder) if folder.exists() else self._config.path

    def _at(self, folder: Path) -> ModelConfig:
        return self._config.model_copy(update={"path": str(folder)})


def _save_new(folder: Path, seed: int) -> None:
    """Leaves the tiny model with random weights, and a tokenizer that knows the tasks' words."""
    phrases = [phrase for part in (coding, search, practice) for phrase in part.phrases()]
    tokenizer = tiny.build_tokenizer(phrases * 20, _VOCABULARY, RELATIONS)
    model = tiny.build_model(tokenizer, seed=seed)
    processor = tiny.build_image_processor()
    VisionLanguageModel(model, tokenizer, processor, MemoryImages()).save(folder)
