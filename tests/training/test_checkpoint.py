from __future__ import annotations

import random
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from visual_arft.errors import UserError
from visual_arft.training.checkpoint import (
    checkpoints,
    generator_states,
    latest,
    restore_generators,
    save,
)


class Trainee:
    """A run in small: a model, an optimizer, a scheduler and three generators."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.model.weight, 0.5)
        torch.nn.init.constant_(self.model.bias, 0.0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 / (step + 1)
        )
        self.generators = (
            random.Random(1),
            np.random.default_rng(2),
            torch.Generator().manual_seed(3),
        )

    def step(self) -> None:
        python, numpy, torch_generator = self.generators
        x = torch.randn(4, 3, generator=torch_generator) * python.random() + numpy.normal()
        self.optimizer.zero_grad()
        self.model(x).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()

    def save(self, folder: Path, step: int) -> None:
        def save_model(path: Path) -> None:
            torch.save(self.model.state_dict(), path / "model.pt")

        state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generators": generator_states(self.generators),
        }
        save(folder, step, save_model, state)

    def restore(self, folder: Path) -> int:
        checkpoint = latest(folder)
        assert checkpoint is not None
        self.model.load_state_dict(torch.load(checkpoint.path / "model.pt"))
        state = checkpoint.state()
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        restore_generators(self.generators, state["generators"])
        return checkpoint.step


def nothing(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"weights")


def test_a_run_that_resumes_goes_where_it_would_have_gone(tmp_path: Path):
    straight, first, second = Trainee(), Trainee(), Trainee()
    for _ in range(6):
        straight.step()
    for _ in range(3):
        first.step()
    first.save(tmp_path, 3)
    for _ in range(3 - second.restore(tmp_path) + 3):
        second.step()
    assert second.model.weight.equal(straight.model.weight)
    assert second.scheduler.get_last_lr() == straight.scheduler.get_last_lr()


def test_the_newest_two_stay_and_the_folder_is_a_model_folder(tmp_path: Path):
    for step in (5, 10, 15):
        saved = save(tmp_path, step, nothing, {"step": step})
    assert [each.step for each in checkpoints(tmp_path)] == [10, 15]
    assert latest(tmp_path) == saved
    assert saved.state() == {"step": 15}
    assert (saved.path / "model.safetensors").read_bytes() == b"weights"


def test_steps_are_compared_as_numbers(tmp_path: Path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step, nothing, {})
    assert [each.step for each in checkpoints(tmp_path)] == [999_999, 1_000_000]


def test_a_save_that_was_cut_short_is_never_taken_and_is_swept_up(tmp_path: Path):
    save(tmp_path, 1, nothing, {})

    def interrupted(path: Path) -> None:
        nothing(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, interrupted, {})
    last = latest(tmp_path)
    assert last is not None
    assert last.step == 1
    save(tmp_path, 3, nothing, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_a_step_may_be_saved_again(tmp_path: Path):
    for attempt in (1, 2):
        saved = save(tmp_path, 7, nothing, {"attempt": attempt})
    assert saved.state() == {"attempt": 2}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_said_in_a_line_with_a_remedy(tmp_path: Path):
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    with pytest.raises(UserError, match=r"step-000002: .*No space left on device.*free some space"):
        save(tmp_path, 2, full, {})
    assert latest(tmp_path) is None


def test_a_disk_that_is_really_full_is_said_in_a_line_too(tmp_path: Path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"step-000002: cannot be written .*; free some space"):
            save(tmp_path, 2, nothing, {"moments": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert latest(tmp_path) is None


def test_without_checkpoints_there_is_no_latest(tmp_path: Path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "never_made") is None


def test_a_checkpoint_never_runs_code_when_it_is_read(tmp_path: Path):
    saved = save(tmp_path, 1, nothing, {"path": tmp_path})  # a Path would have to be called
    with pytest.raises(Exception, match=r"Unsupported global|weights_only"):
        saved.state()
