"""Whole runs, as small as they can be; those that must learn something answer at once."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from visual_arft.config import Recipe, load_recipe
from visual_arft.errors import UserError
from visual_arft.experiment.models import Models
from visual_arft.experiment.talk import Talk
from visual_arft.experiment.training import train
from visual_arft.images import MemoryImages
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.store import Store

T = TypeVar("T")

MICRO = [
    "rubric.answer=1.0",
    "context=append",
    "data.held_out=4",
    "eval.n=4",
    "cold_start.batch_size=4",
    "grpo.steps=2",
    "grpo.prompts_per_step=2",
    "grpo.group_size=2",
    "grpo.max_turns=2",
    "grpo.max_new_tokens=12",
    "grpo.kl_coef=0",
]
"""Two rounds of two tasks and two rollouts."""

LEARNING = ["direct=true", "grpo.steps=5", "grpo.temperature=1.5", "grpo.optimizer.lr=1e-3"]
"""The embedded base reads some signs and misreads others, so its weights really move."""


def recipe(folder: Path, *settings: str, env: str = "coding", source: object = None) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(f'env = "{env}"\ndata.source = "{source or f"mini-mat-{env}"}"\n')
    return load_recipe(path, [*MICRO, *settings])


def rows(out: Path, phase: str) -> list[dict[str, object]]:
    """The numbers of a phase, without the clock."""
    found = [row for row in Store(out).metrics() if row["phase"] == phase]
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in found]


def steps(out: Path, phase: str) -> list[object]:
    return [row["step"] for row in rows(out, phase)]


def weights(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load(ModelConfig(path=str(out / name)), MemoryImages()).model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Interrupted(Talk):
    """Ctrl-C as soon as a step is recorded, before it is a checkpoint."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__()
        self._at = (what, step)

    def track(self, rows: Iterable[T], total: int, what: str, start: int = 0) -> Iterator[T]:
        for number, row in enumerate(rows, start=start + 1):
            yield row
            if (what, number) == self._at:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from a model that was built from nothing, to its end."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe(folder, "model.path=new", "cold_start.steps=2"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("learned")
    train(recipe(folder, *LEARNING, "grpo.kl_coef=0.1"), folder / "run")
    return folder / "run"


def test_a_run_leaves_what_it_promises(whole: Path):
    assert {path.name for path in whole.iterdir()} == {
        "config.toml",
        "provenance.json",
        "metrics.jsonl",
        "scores.jsonl",
        "trajectories.jsonl",
        "images",
        "cold_start",
        "checkpoints",
        "model",
    }
    assert load_recipe(whole / "config.toml") == recipe(
        whole.parent, "model.path=new", "cold_start.steps=2"
    )
    store = Store(whole)
    assert steps(whole, "cold_start") == steps(whole, "grpo") == [1, 2]
    assert [score["name"] for score in store.scores()] == ["cold_start", "trained"]
    parts = [row["part"] for row in store.metrics() if row["phase"] == "seconds"]
    assert parts == ["cold_start", "measure", "grpo", "measure"]
    phases = [entry.phase for entry in store]
    assert phases == ["cold_start"] * 4 + ["grpo"] * 4 + ["trained"] * 4
    for entry in store:
        seen = [image for turn in entry.trajectory.turns for image in turn.prompt.images]
        assert all(store.images.read(image) for image in seen)


def test_a_run_that_is_complete_does_nothing_again(whole: Path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    train(recipe(whole.parent, "model.path=new", "cold_start.steps=2"), whole)
    after = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert [path.name for path in after if after[path] != before.get(path)] == ["provenance.json"]
    assert after.keys() == before.keys()
    assert len(json.loads((whole / "provenance.json").read_text())["resumed"]) == 1


def test_a_run_is_not_gone_on_with_under_another_recipe(whole: Path):
    with pytest.raises(UserError, match=r"this run has grpo.steps = 2, not 3"):
        train(recipe(whole.parent, "model.path=new", "cold_start.steps=2", "grpo.steps=3"), whole)


def test_the_same_seed_gives_the_same_numbers_and_weights(learned: Path, tmp_path: Path):
    settings = (*LEARNING, "grpo.kl_coef=0.1")
    train(recipe(tmp_path, *settings), tmp_path / "again")
    assert rows(tmp_path / "again", "grpo") == rows(learned, "grpo")
    assert same(weights(tmp_path / "again"), weights(learned))
    train(recipe(tmp_path, *settings, "seed=1"), tmp_path / "other")
    assert rows(tmp_path / "other", "grpo") != rows(learned, "grpo")


@pytest.mark.parametrize(("every", "killed_at"), [(2, 1), (2, 2), (2, 5), (9, 3)])
def test_a_run_killed_in_grpo_ends_as_if_it_had_not_been(
    learned: Path, tmp_path: Path, every: int, killed_at: int
):
    settings = (*LEARNING, "grpo.kl_coef=0.1", f"grpo.checkpoint_every={every}")
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe(tmp_path, *settings), out, talk=Interrupted("GRPO", killed_at))
    assert steps(out, "grpo") == list(range(1, killed_at + 1))
    train(recipe(tmp_path, *settings), out)
    assert rows(out, "grpo") == rows(learned, "grpo")
    assert any(row["grad_norm"] for row in rows(out, "grpo"))
    assert same(weights(out), weights(learned))
    episodes = [[e for e in Store(each) if e.phase == "grpo"] for each in (out, learned)]
    assert episodes[0] == episodes[1]
    assert [score["name"] for score in Store(out).scores()] == ["cold_start", "trained"]


def test_a_cold_start_that_was_killed_begins_again(tmp_path: Path):
    chosen = recipe(tmp_path, "model.path=new", "cold_start.steps=3", "grpo.steps=0")
    train(chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "run", talk=Interrupted("cold start", 2))
    assert not (tmp_path / "run" / "cold_start").exists()
    train(chosen, tmp_path / "run")
    assert rows(tmp_path / "run", "cold_start") == rows(tmp_path / "whole", "cold_start")
    assert same(weights(tmp_path / "run", "cold_start"), weights(tmp_path / "whole", "cold_start"))


@pytest.mark.parametrize("kl_coef", [0, 0.1])
def test_lora_weights_are_trained_resumed_and_become_part_of_the_model(
    tmp_path: Path, kl_coef: float
):
    lora = (*LEARNING, "model.lora_rank=2", f"grpo.kl_coef={kl_coef}", "grpo.checkpoint_every=2")
    out = tmp_path / "run"
    train(recipe(tmp_path, *lora), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe(tmp_path, *lora), out, talk=Interrupted("GRPO", 3))
    assert (out / "checkpoints" / "step-000002" / "adapter_config.json").is_file()
    train(recipe(tmp_path, *lora), out)
    assert rows(out, "grpo") == rows(tmp_path / "whole", "grpo")
    base, trained = load(ModelConfig(), MemoryImages()).model.state_dict(), weights(out)
    assert same(trained, weights(tmp_path / "whole"))
    moved = {name for name in base if not torch.equal(base[name], trained[name])}
    assert moved
    assert all("language_model" in name and "_proj" in name for name in moved)


def test_a_cold_start_with_lora_is_what_grpo_goes_on_from(tmp_path: Path):
    lora = ("model.lora_rank=2", "cold_start.steps=1", "grpo.steps=1")
    train(recipe(tmp_path, *lora), tmp_path / "run")
    base = load(ModelConfig(), MemoryImages()).model.state_dict()
    cold = weights(tmp_path / "run", "cold_start")
    assert not same(base, cold)
    assert same(cold, weights(tmp_path / "run"))  # replies are cut, nothing was earned


@pytest.mark.parametrize("name", ["coding_steps", "search_steps"])
def test_single_decisions_are_trained_as_in_the_paper(
    tmp_path: Path, request: pytest.FixtureRequest, name: str
):
    settings = ("grpo.mode=stepwise", "rubric.format=1.0", "context=retell", "grpo.max_turns=5")
    env = name.removesuffix("_steps")
    out = tmp_path / "run"
    source = request.getfixturevalue(name)
    train(recipe(tmp_path, *settings, env=env, source=source), out)
    assert steps(out, "grpo") == [1, 2]
    played = [entry.trajectory for entry in Store(out)]
    assert all(each.task.expected and len(each.turns) == 1 for each in played)
    assert all(e.trajectory.task.answers for e in Store(out) if e.phase != "grpo")


def test_pictures_of_a_file_outlast_the_memory_for_those_of_a_round(
    tmp_path: Path, mat_coding: Path
):
    # A round has room for one picture a task and one a turn; the file has more than one round's.
    settings = ("grpo.prompts_per_step=1", "grpo.max_turns=1", "grpo.steps=6", "data.held_out=2")
    train(recipe(tmp_path, *settings, source=mat_coding), tmp_path / "run")
    assert steps(tmp_path / "run", "grpo") == [1, 2, 3, 4, 5, 6]


def test_a_run_is_measured_on_the_way_as_often_as_it_says(tmp_path: Path):
    train(recipe(tmp_path, *LEARNING, "eval.every=2"), tmp_path / "run")
    names = [score["name"] for score in Store(tmp_path / "run").scores()]
    assert names == ["cold_start", "step_2", "step_4", "trained"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.path=new"], "'new' has learned nothing, and cold_start.steps = 0; set"),
        (["direct=true", "cold_start.steps=2"], "brings no demonstrations; set cold_start.steps"),
        (["model.path=."], ".: not a vision-language model that transformers can load"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_said_in_a_line(
    tmp_path: Path, settings: list[str], words: str
):
    with pytest.raises(UserError, match=words):
        train(recipe(tmp_path, *settings), tmp_path / "run")


def test_a_disk_with_no_room_for_the_model_is_said_in_a_line(tmp_path: Path):
    models = Models(recipe(tmp_path), tmp_path / "run")
    vlm = models.given(MemoryImages())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"run/model: cannot be written .*; free some space"):
            models.keep(vlm, models.trained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not models.trained.exists()
    models.keep(vlm, models.trained)
    assert same(weights(tmp_path / "run"), vlm.model.state_dict())
