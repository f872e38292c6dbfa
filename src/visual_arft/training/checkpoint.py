"""A run's place, on disk: weights, optimizer, random generators and the step, all or nothing.

A checkpoint is written under another name and renamed when whole, so one that was cut short (a
crash, a full disk, Ctrl-C) is never taken for one. Its folder is also a model folder as
`save_pretrained` leaves it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from visual_arft.errors import UserError

Generator = random.Random | np.random.Generator | torch.Generator
"""A source of randomness that belongs to a run."""

_STATE = "trainer.pt"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk; `path` is a model folder too."""

    path: Path
    step: int

    def state(self) -> dict[str, Any]:
        """What was given to `save`, on the CPU; only plain values and tensors, never code."""
        try:
            return torch.load(self.path / _STATE, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(
                f"{self.path}: no {_STATE}; remove the folder and resume again"
            ) from None


def save(
    folder: Path,
    step: int,
    save_model: Callable[[Path], object],
    state: dict[str, Any],
    *,
    keep: int = 2,
) -> Checkpoint:
    """The checkpoint of `step` in `folder`, written whole; all but the newest `keep` are removed.

    Args:
        folder: holds the checkpoints of one run.
        step: optimizer updates done.
        save_model: writes the weights into the folder it is given, as `model.save_pretrained` does.
        state: tensors and plain values, nested: state dicts, `generator_states`, counters.
        keep: how many checkpoints stay.
    """
    path = folder / f"step-{step:06d}"

    def write(partial: Path) -> None:
        save_model(partial)
        torch.save(state, partial / _STATE)

    _sweep(folder)
    write_whole(path, write)
    for old in checkpoints(folder)[:-keep]:
        _remove(old.path)
    return Checkpoint(path, step)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """A folder that `write` fills under another name: it has its own once it is whole."""
    partial = path.with_suffix(".part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        _flush(partial)
        _remove(path)
        partial.rename(path)
    # On a full disk safetensors and torch raise errors of their own.
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{path}: cannot be written ({error}); free some space or choose another folder, "
            "then resume"
        ) from error


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, None where there is none."""
    return max(checkpoints(folder), key=lambda each: each.step, default=None)


def checkpoints(folder: Path) -> list[Checkpoint]:
    """All whole checkpoints in `folder`, oldest first."""
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("step-*")]
    whole = [Checkpoint(path, int(name[1])) for path, name in found if name is not None]
    return sorted(whole, key=lambda each: each.step)


def generator_states(generators: Sequence[Generator]) -> list[Any]:
    """Where each generator stands, as tensors and plain values."""
    return [_generator_state(each) for each in generators]


def restore_generators(generators: Sequence[Generator], states: Sequence[Any]) -> None:
    """Puts each generator where `generator_states` found it."""
    for generator, state in zip(generators, states, strict=True):
        match generator:
            case random.Random():
                generator.setstate(state)
            case np.random.Generator():
                generator.bit_generator.state = state
            case torch.Generator():
                generator.set_state(state)


def _generator_state(generator: Generator) -> Any:
    match generator:
        case random.Random():
            return generator.getstate()
        case np.random.Generator():
            return generator.bit_generator.state
        case torch.Generator():
            return generator.get_state()


def _remove(path: Path) -> None:
    if path.exists():
        # Renamed first: a removal that is cut short must not leave half of it under its name.
        shutil.rmtree(path.rename(path.with_suffix(".old")))


def _sweep(folder: Path) -> None:
    for leftover in [*folder.glob("step-*.part"), *folder.glob("step-*.old")]:
        shutil.rmtree(leftover)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
