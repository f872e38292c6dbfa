from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from visual_arft.config import RECIPES, dump_recipe, find_recipe, load_recipe
from visual_arft.errors import UserError
from visual_arft.provenance import provenance, write_run

MINIMAL = """
env = "coding"
data.source = "mini-mat-coding"
rubric.answer = 1.0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL)
    return path


def complaint(recipe: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, overrides)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_ours_loads_and_survives_a_round_trip(path: Path, tmp_path: Path):
    loaded = load_recipe(path)
    again = tmp_path / "again.toml"
    again.write_text(dump_recipe(loaded))
    assert load_recipe(again) == loaded


@pytest.mark.parametrize("size", ["3b", "7b"])
@pytest.mark.parametrize(("env", "steps"), [("search", 200), ("coding", 1400)])
def test_the_paper_s_recipes_have_the_paper_s_settings(env: str, size: str, steps: int):
    loaded = load_recipe(find_recipe(Path(f"paper-{env}-{size}")))
    assert (loaded.env, loaded.context) == (env, "retell")
    assert (loaded.grpo.mode, loaded.grpo.steps, loaded.grpo.group_size) == ("stepwise", steps, 8)
    assert loaded.model.max_pixels == 401_408
    assert loaded.grpo.kl_coef > 0


def test_an_override_wins_over_the_file_and_reads_as_toml_or_else_as_text(recipe: Path):
    loaded = load_recipe(
        recipe,
        [
            "seed=3",
            "grpo.optimizer.betas=[0.8, 0.9]",
            "model.path=some/folder",
            "rubric.format=0.5",
        ],
    )
    assert loaded.seed == 3
    assert loaded.grpo.optimizer.betas == (0.8, 0.9)
    assert loaded.model.path == "some/folder"
    assert loaded.rubric == {"answer": 1.0, "format": 0.5}


def test_setting_one_key_of_a_table_keeps_the_defaults_of_the_others(recipe: Path):
    before = load_recipe(recipe).cold_start.optimizer
    after = load_recipe(recipe, ["cold_start.optimizer.weight_decay=0.1"]).cold_start.optimizer
    assert after == before.model_copy(update={"weight_decay": 0.1})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", "unknown key sed = 1; did you mean seed?"),
        ("grpo.group_sise=4", "unknown key grpo.group_sise = 4; did you mean group_size?"),
        ("grpo.optimizer.rate=4", "allowed are lr, "),
        ("seed=one", "seed = 'one'; it should be a valid integer"),
        ('seed="1"', "seed = '1'; it should be a valid integer"),
        ("grpo.scale_advantage=1", "grpo.scale_advantage = 1; it should be a valid boolean"),
        ("grpo.group_size=1", "grpo.group_size = 1; it should be greater than or equal to 2"),
        ("env=charts", "env = 'charts'; it should be 'coding' or 'search'"),
        ("grpo=3", "grpo = 3; it should be a table"),
        ("rubric.anser=1", "allowed are answer, exact, format, executed, problem, code, paper"),
        ("rubric.answer=-1", "rubric.answer = -1; it should be greater than or equal to 0"),
        ("rubric.answer=nan", "rubric.answer = "),
        ("rubric={}", "weigh a reward"),
        ("data.source=mini-mat-search", "use 'mini-mat-coding'"),
        ("seed", "override 'seed' is not key.sub=value"),
        ("env.kind=1", "override 'env.kind=1': env = 'coding' has no keys below it"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(recipe: Path, override: str, expected: str):
    message = complaint(recipe, override)
    assert expected in message
    assert "\n" not in message


def test_a_search_reward_on_queries_asks_for_the_model_that_compares_them(recipe: Path):
    recipe.write_text('env = "search"\ndata.source = "mini-mat-search"\nrubric.query = 1.0\n')
    assert "data.minilm is not set" in complaint(recipe)
    assert load_recipe(recipe, ["data.minilm=models/minilm"]).data.minilm == Path("models/minilm")


def test_a_recipe_that_is_not_toml_is_told_where(recipe: Path):
    recipe.write_text("seed = \n")
    assert str(recipe) in complaint(recipe)
    assert "line 1" in complaint(recipe)


def test_many_mistakes_are_told_three_at_a_time_and_unknown_keys_first(recipe: Path):
    lines = complaint(recipe, "seed=a", "env=b", "context=c", "colour=d").splitlines()
    assert len(lines) == 3
    assert "unknown key colour = 'd'" in lines[0]


def test_a_run_s_folder_tells_its_recipe_and_where_its_numbers_come_from(
    recipe: Path, tmp_path: Path
):
    loaded, folder = load_recipe(recipe, ["seed=7"]), tmp_path / "run"
    write_run(folder, loaded, ["arft", "train", "a recipe.toml"])
    facts = json.loads((folder / "provenance.json").read_text())
    assert load_recipe(folder / "config.toml") == loaded
    assert facts["command"] == "arft train 'a recipe.toml'"
    assert facts["seed"] == 7
    assert {"commit", "dirty", "date", "python", "platform", "versions"} <= facts.keys()


def test_going_on_adds_to_the_provenance_and_another_recipe_is_refused(
    recipe: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    write_run(folder, load_recipe(recipe), ["first"])
    write_run(folder, load_recipe(recipe), ["second"])
    facts = json.loads((folder / "provenance.json").read_text())
    assert (facts["command"], facts["resumed"][0]["command"]) == ("first", "second")
    with pytest.raises(UserError, match=r"grpo.steps = 200, not 9; go on as it began"):
        write_run(folder, load_recipe(recipe, ["grpo.steps=9"]), ["third"])


def test_a_file_in_the_way_of_a_run_s_folder_is_named(recipe: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: .*; free space there or choose another --out"):
        write_run(tmp_path / "file" / "run", load_recipe(recipe), [])


def test_a_dumped_recipe_is_plain_toml(recipe: Path):
    assert tomllib.loads(dump_recipe(load_recipe(recipe)))["grpo"]["group_size"] == 8


def test_an_installed_copy_inside_another_checkout_claims_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("visual_arft.provenance.__file__", str(tmp_path / "provenance.py"))
    assert provenance(["arft"], seed=0)["commit"] is None
