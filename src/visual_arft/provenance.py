"""What a run's folder says about itself: its recipe, and where its numbers come from."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import tomli_w

from visual_arft.bench.settings import BenchConfig, load_bench
from visual_arft.config import Recipe, load_recipe
from visual_arft.errors import UserError

PACKAGES = (
    "visual-arft", "numpy", "opencv-python-headless", "pillow", "pydantic", "bm25s",
    "torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors",
)  # fmt: skip
"""Packages on which a number may depend."""


Settings = Recipe | BenchConfig
"""What decides what a run does."""


def write_run(folder: Path, settings: Settings, command: Sequence[str]) -> None:
    """Puts `config.toml` and `provenance.json` into a run's folder.

    In the folder of a run that goes on, the settings must be the same; the provenance grows.

    Raises:
        UserError: the folder cannot be written, or holds a run with other settings.
    """
    config, origin = folder / "config.toml", folder / "provenance.json"
    facts = provenance(command, settings.seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if config.exists():
            _check_same(config, settings)
            start = json.loads(origin.read_text())
            facts = {**start, "resumed": [*start.get("resumed", []), facts]}
        origin.write_text(json.dumps(facts, indent=2) + "\n")
        config.write_text(_toml(settings))
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; free space there or choose another --out"
        ) from None


def provenance(command: Sequence[str], seed: int) -> dict[str, Any]:
    """What to know to make a number again; JSON-able."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": shlex.join(command),
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """The version of each package; None for one that is not installed."""
    return {name: _version(name) for name in packages}


def _check_same(config: Path, settings: Settings) -> None:
    read = load_recipe if isinstance(settings, Recipe) else load_bench
    before, now = _flat(read(config)), _flat(settings)
    if changed := [key for key in now if now[key] != before.get(key)]:
        key = changed[0]
        raise UserError(
            f"{config}: this run has {key} = {before.get(key)!r}, not {now[key]!r}; "
            "go on as it began, or choose another --out"
        )


def _flat(settings: Settings) -> dict[str, Any]:
    """Values by dotted key; the rubric is one value."""
    flat: dict[str, Any] = {}
    for key, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict) and key != "rubric":
            inner = cast(dict[str, Any], value)
            flat |= {f"{key}.{name}": each for name, each in inner.items()}
        else:
            flat[key] = value
    return flat


def _toml(settings: Settings) -> str:
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says about the checkout this file is tracked in; None outside of one."""
    here = Path(__file__)
    # An installed copy may lie inside a checkout of something else, whose commit would mislead.
    if _run("ls-files", "--error-unmatch", here.name, cwd=here.parent) is None:
        return None
    return _run(*arguments, cwd=here.parent)


def _run(*arguments: str, cwd: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
