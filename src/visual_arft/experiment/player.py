"""A model with its way of playing: that of the run it was trained in, where it comes from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visual_arft.bench.settings import Mode
from visual_arft.config import Context, Recipe, load_recipe
from visual_arft.envs.coding.shortcuts import Shortcut
from visual_arft.envs.search.actions import SEARCH, SearchAction
from visual_arft.episode import Env
from visual_arft.errors import UserError
from visual_arft.experiment.rules import (
    coding_env,
    cot_env,
    direct_env,
    is_tiny,
    rag_env,
    search_env,
    template_of,
)
from visual_arft.model.settings import TINY, ModelConfig

EnvName = Literal["coding", "search"]


@dataclass(frozen=True)
class Player:
    """What plays a game, and how it has learned to."""

    env: EnvName
    """The game."""
    model: ModelConfig
    context: Context = "retell"
    template: str | None = None
    """The instructions it was trained with; None for our own."""
    prompt: str | None = None
    """The instructions it is given now, whatever it was trained with."""
    has_images: bool = True
    """Whether what it is asked is about an image."""
    shortcuts: tuple[Shortcut, ...] = ()
    """What is done for it."""
    is_direct: bool = False
    """Whether it was trained to answer at once."""
    is_tiny: bool = False
    """Whether it knows the wording of the tiny model."""
    actions: tuple[SearchAction, ...] = (SEARCH,)
    """What a search agent may do beside answering."""
    run: Path | None = None
    """The run it was trained in."""
    max_turns: int = 5
    max_new_tokens: int = 1024
    batch_size: int = 32

    def rules(self, mode: Mode) -> Env:
        """The rules it plays by."""
        images = self.has_images
        if mode == "rag":
            return rag_env(self.prompt, images=images)
        if mode == "cot":
            return cot_env(self.prompt, images=images)
        if mode == "direct" or (mode == "agent" and self.is_direct):
            template = self.prompt or (self.template if self.is_direct else None)
            return direct_env(template, tiny=self.is_tiny, images=images)
        context, template = self.context_in(mode), self.prompt or self.template
        if self.env == "coding":
            return coding_env(context, template, tiny=self.is_tiny, shortcuts=self.shortcuts)
        return search_env(context, template, tiny=self.is_tiny, actions=self.actions, images=images)

    def context_in(self, mode: Mode) -> Context:
        """How its prompts follow from each other."""
        return "append" if mode == "agent-append" else self.context


def find_player(path: str, env: EnvName) -> Player:
    """The player at a path: a model, one inside a run, a run, or a folder with a run for each game.

    Raises:
        UserError: the run has no model yet, or its recipe cannot be read.
    """
    place = Path(path)
    for run in (place, place / env):
        if _is_run(run):
            return _trained(run, run / "model", env)
    for run in place.parents[:2] if place.is_dir() else ():
        if _is_run(run):
            return _trained(run, place, env)
    if path == TINY:
        return Player(env, ModelConfig(), context="append", is_tiny=True)
    return Player(env, ModelConfig(path=path))


def _is_run(folder: Path) -> bool:
    return (folder / "config.toml").is_file()


def _trained(run: Path, folder: Path, env: EnvName) -> Player:
    if not folder.is_dir():
        raise UserError(
            f"{run}: the run has no model yet; let it go on, or give one of its checkpoints"
        )
    recipe = load_recipe(run / "config.toml")
    return Player(
        env,
        # What was saved is whole: LoRA weights have become part of it.
        recipe.model.model_copy(update={"path": str(folder), "lora_rank": 0}),
        context=recipe.context,
        template=_template(recipe, env),
        is_direct=recipe.direct,
        actions=recipe.data.actions,
        is_tiny=is_tiny(recipe),
        run=run,
        max_turns=recipe.grpo.max_turns,
        max_new_tokens=recipe.grpo.max_new_tokens,
        batch_size=recipe.eval.batch_size,
    )


def _template(recipe: Recipe, env: EnvName) -> str | None:
    """The recipe's own instructions, unless they are for the other game."""
    return template_of(recipe) if recipe.env == env else None
