"""A run, as data: a recipe out of component settings, read from TOML, with overrides.

Every mistake in a recipe is a line that names the file, the key and the value, and says what is
allowed. Paths in a recipe are taken from the folder in which the command runs.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tomli_w
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from visual_arft.envs.search.actions import SearchAction
from visual_arft.envs.search.recording.limits import Limits
from visual_arft.envs.search.recording.mode import Mode as RecordingMode
from visual_arft.errors import UserError
from visual_arft.model.settings import ModelConfig
from visual_arft.sandbox.settings import SandboxConfig
from visual_arft.training.settings import ColdStartConfig, Count, GrpoConfig
from visual_arft.types import Record

REWARDS = {
    "coding": ("answer", "exact", "format", "executed", "problem", "code", "paper"),
    "search": ("answer", "exact", "format", "query", "paper"),
}
"""Names that a rubric may weigh, by environment."""

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the package."""

_MOST_ERRORS = 3
"""More at once does not help; the rest shows when these are mended."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Table = dict[str, Any]
Context = Literal["retell", "append"]


class DataConfig(Record):
    """What is trained and measured on."""

    source: str
    """`mini-mat-coding`, `mini-mat-search`, `practice` (for a base model), or a file or folder."""
    held_out: Count = 400
    """Tasks kept for measuring, never trained on."""
    corpus: str | None = None
    """What is searched, such as an index, JSONL or `http://HOST:PORT`; mini-MAT brings its own."""
    recording: Path | None = None
    """The file that the search's answers go into, or come from."""
    recording_mode: RecordingMode = "replay-or-live"
    """What is done with the recording: `live`, `record`, `replay` or `replay-or-live`."""
    limits: Limits = Limits()
    """How hard the world behind the search may be asked."""
    actions: tuple[SearchAction, ...] = ("search",)
    """What the search agent may do; `read` and `look` open pages of the web."""
    prompt_file: Path | None = None
    """Text of the instructions, with `{question}` in it; without one, our own are used."""
    minilm: Path | None = None
    """Folder of all-MiniLM-L6-v2, for the rewards `query` and `paper` of the search environment."""


class EvalConfig(Record):
    """How the policy is measured on the held-out tasks."""

    n: Count = 400
    """Tasks measured at the start and at the end."""
    every: Annotated[int, Field(ge=0)] = 0
    """Updates between measurements on the way; 0 measures at the start and at the end only."""
    batch_size: Count = 64
    """Episodes played side by side."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of sampling; 0 is greedy."""


class Recipe(Record):
    """Everything that decides what a run does."""

    seed: int = 0
    """Of tasks, of sampling and of the initial weights."""
    env: Literal["coding", "search"]
    """The rules of the game."""
    context: Context = "retell"
    """`retell` rebuilds the prompt each turn, as the paper; `append` lets the conversation grow."""
    direct: bool = False
    """Answer at once, without tools: the control that an agent is compared with."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    cold_start: ColdStartConfig = ColdStartConfig()
    grpo: GrpoConfig = GrpoConfig()
    rubric: dict[str, Weight]
    """Weight of each reward. A heavy `format` teaches the shortest reply and tool use dies."""
    eval: EvalConfig = EvalConfig()
    sandbox: SandboxConfig = SandboxConfig()


def find_recipe(name: Path) -> Path:
    """A recipe's file: the path itself or, for a bare name, the one that comes with the package."""
    ours = RECIPES / f"{name}.toml"
    return ours if len(name.parts) == 1 and not name.exists() and ours.is_file() else name


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, after `key.sub=value` overrides; raises `UserError`."""
    table = _read(path)
    for override in overrides:
        _apply(override, table)
    try:
        # JSON's strict mode is TOML's: an array may become a tuple, but "1" is no number.
        text = json.dumps(_merge(_defaults(), table), default=str)
        recipe = Recipe.model_validate_json(text, strict=True)
    except ValidationError as error:
        # An unknown key first: the key it was meant for is often what the others lack.
        errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        lines = [_explain(path, each) for each in errors[:_MOST_ERRORS]]
        raise UserError("\n".join(lines)) from None
    _check_source(path, recipe)
    _check_rubric(path, recipe)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """TOML that `load_recipe` reads back as the same recipe."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give the path of a recipe, or one of ours: {_ours()}"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; give a recipe in TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}; see {RECIPES} for examples") from None


def _ours() -> str:
    return ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))


def _apply(override: str, table: Table) -> None:
    key, equals, text = override.partition("=")
    *parents, last = (part.strip() for part in key.split("."))
    if not equals or not last or not all(parents):
        raise UserError(f"override {override!r} is not key.sub=value; write grpo.steps=100, say")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UserError(f"override {override!r}: {parent} = {inner!r} has no keys below it")
        table = cast(Table, inner)
    table[last] = _value(text.strip())


def _value(text: str) -> Any:
    """A TOML value, or the text itself: `model.path=tiny` needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _defaults() -> Table:
    fields = Recipe.model_fields.items()
    records = {name: field.default for name, field in fields if isinstance(field.default, Record)}
    return {name: record.model_dump(mode="json") for name, record in records.items()}


def _merge(base: Table, over: Table) -> Table:
    """`over` on top of `base`: a table that sets one key keeps the others of the default."""
    inner = {
        key: _merge(base[key], over[key])
        for key in base.keys() & over.keys()
        if isinstance(base[key], dict) and isinstance(over[key], dict)
    }
    return base | over | inner


def _explain(path: Path, error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key {key} = {error['input']!r}; {_suggest(error['loc'])}"
        case "missing":
            return f"{path}: {key} is missing; set it"
        case _:
            wanted = error["msg"].removeprefix("Input should be ").replace("an object", "a table")
            return f"{path}: {key} = {error['input']!r}; it should be {wanted}"


def _suggest(loc: tuple[int | str, ...]) -> str:
    record: Any = Recipe
    for part in loc[:-1]:
        record = record.model_fields[part].annotation
    names = list(cast(type[Record], record).model_fields)
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}"


def _check_source(path: Path, recipe: Recipe) -> None:
    source, own = recipe.data.source, f"mini-mat-{recipe.env}"
    if source.startswith("mini-mat-") and source != own:
        raise UserError(
            f"{path}: data.source = {source!r} is not for env {recipe.env!r}; use {own!r}, or the "
            "path of a file or folder"
        )


def _check_rubric(path: Path, recipe: Recipe) -> None:
    allowed = REWARDS[recipe.env]
    for name, weight in recipe.rubric.items():
        if name not in allowed:
            raise UserError(
                f"{path}: rubric.{name} = {weight}: no reward of env {recipe.env!r}; allowed are "
                + ", ".join(allowed)
            )
    if not any(recipe.rubric.values()):
        raise UserError(f"{path}: rubric = {recipe.rubric}: all weights are 0; weigh a reward")
    needs_minilm = recipe.env == "search" and {"query", "paper"} & recipe.rubric.keys()
    if needs_minilm and recipe.data.minilm is None:
        [name, *_] = sorted(needs_minilm)
        raise UserError(
            f"{path}: rubric.{name} compares queries by all-MiniLM-L6-v2 and data.minilm is not "
            "set; give its folder"
        )
