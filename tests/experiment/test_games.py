from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from visual_arft.config import load_recipe
from visual_arft.envs.coding.env import CodingEnv
from visual_arft.envs.direct import DirectEnv
from visual_arft.episode import Episode
from visual_arft.errors import ToolFailure, UserError
from visual_arft.experiment.games import Game, make_game, scorer
from visual_arft.images import MemoryImages
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.rollout import play
from visual_arft.sandbox import Sandbox
from visual_arft.tags import wrap
from visual_arft.types import Prompt, ToolCall

SANDBOX = Sandbox()
"""Never started: these tests run no code."""


def game(tmp_path: Path, env: str, source: str | Path, *settings: str) -> Game:
    path = tmp_path / "recipe.toml"
    path.write_text(f'env = "{env}"\n[data]\nsource = "{source}"\nheld_out = 2\n')
    return make_game(load_recipe(path, ["rubric.answer=1.0", *settings]), SANDBOX)


def opening(game: Game) -> str:
    """What the policy reads of a held-out task."""
    images = MemoryImages()
    [task, *_] = game.held_out(images)
    pending = Episode(task, game.env).pending
    assert isinstance(pending, Prompt)
    assert all(images.read(image) for image in pending.images)
    return pending.messages[0].text


@pytest.mark.parametrize("env", ["coding", "search"])
def test_the_generated_games_train_and_measure_on_different_worlds(tmp_path: Path, env: str):
    made = game(tmp_path, env, f"mini-mat-{env}")
    images = MemoryImages()
    train, test = made.train(images)(0, 20), made.held_out(images)
    assert len(test) == 2
    assert {task.split for task in train} == {"train"}
    assert {task.split for task in test} == {"test"}
    assert not {a for t in train for a in t.answers} & {a for t in test for a in t.answers}
    assert set(made.tools(images)) == set(made.held_out_tools(images))
    assert opening(made).startswith("<query>What ")


@pytest.mark.parametrize("env", ["coding", "search"])
def test_demonstrations_are_of_other_tasks_than_reinforcement_learning(tmp_path: Path, env: str):
    made = game(tmp_path, env, f"mini-mat-{env}")
    images = MemoryImages()
    assert made.demonstrations is not None
    shown = made.demonstrations(images)(0, 40)
    trained = {task.images for task in made.train(images)(0, 40)}
    assert not {each.task.images for each in shown if each.task.images} & trained
    practised = [each for each in shown if each.task.id.startswith("practice")]
    assert 0 < len(practised) < 20


def test_every_seed_is_measured_on_the_same_tasks_and_trained_on_its_own(tmp_path: Path):
    images = MemoryImages()
    one, other = (game(tmp_path, "coding", "mini-mat-coding", f"seed={seed}") for seed in (0, 1))
    assert one.held_out(images) == other.held_out(images)
    assert one.train(images)(0, 4) != other.train(images)(0, 4)


def test_the_direct_control_plays_the_same_tasks_without_tools(tmp_path: Path):
    images = MemoryImages()
    agent = game(tmp_path, "coding", "mini-mat-coding")
    direct = game(tmp_path, "coding", "mini-mat-coding", "direct=true")
    assert isinstance(agent.env, CodingEnv)
    assert isinstance(direct.env, DirectEnv)
    assert direct.held_out(images) == agent.held_out(images)
    assert direct.train(images)(0, 3) == agent.train(images)(0, 3)
    assert direct.demonstrations is None
    assert opening(direct).startswith("What does the sign")


def test_practice_is_for_a_cold_start_only(tmp_path: Path):
    made = game(tmp_path, "coding", "practice", "grpo.steps=0")
    assert made.demonstrations is not None
    assert len(made.demonstrations(MemoryImages())(0, 3)) == 3
    assert made.held_out(MemoryImages()) == ()


def test_whole_problems_of_a_file_are_played_with_the_paper_s_instructions(
    tmp_path: Path, mat_coding: Path
):
    made = game(tmp_path, "coding", mat_coding)
    images = MemoryImages()
    assert len(made.held_out(images)) == 2
    assert len({task.id for task in made.train(images)(0, 8)}) == 4
    assert made.cjk
    assert opening(made).endswith("<query>What does the sign say?</query>")


def test_single_decisions_of_a_file_have_their_chain_before_them(
    tmp_path: Path, coding_steps: Path
):
    settings = ("grpo.mode=stepwise", "rubric.paper=1.0")
    made = game(tmp_path, "coding", coding_steps, *settings)
    assert all(task.expected for task in made.train(MemoryImages())(0, 16))
    assert "<problem>{'dark'}</problem>" in opening(made)


def test_a_file_of_questions_is_searched_in_its_corpus(
    tmp_path: Path, mat_search: Path, corpus: Path
):
    made = game(tmp_path, "search", mat_search, f"data.corpus={corpus}")
    images = MemoryImages()
    task = made.train(images)(0, 1)[0]
    number = task.question.removeprefix("Who owns ").rstrip("?")
    replies = [
        wrap("?", "search", f"owner of {number}"),
        wrap("!", "answer", task.answers[0]),
    ]
    policy = ScriptedPolicy(replies)
    [played] = asyncio.run(play([Episode(task, made.env)], policy, made.tools(images)))
    assert task.answers[0] in policy.prompts[1].messages[0].text
    recipe = load_recipe(tmp_path / "recipe.toml", ["rubric.answer=1.0", "rubric.format=0.5"])
    assert scorer(recipe, made)(played).total == 1.5


def test_searches_of_a_file_need_no_corpus_where_nothing_is_carried_out(
    tmp_path: Path, search_steps: Path
):
    made = game(tmp_path, "search", search_steps, "grpo.mode=stepwise")
    assert made.tools(MemoryImages()) == {}
    assert "<information>" in opening(made)


@pytest.mark.parametrize(
    ("env", "source", "settings", "words"),
    [
        ("coding", "practice", [], "'practice' has no tasks to play; set grpo.steps = 0"),
        ("coding", "mini-mat-coding", ["grpo.mode=stepwise"], "brings whole episodes; set grpo"),
        ("coding", "mini-mat-coding", ["rubric.paper=1.0"], "rubric.paper scores single decisions"),
        ("coding", "mini-mat-coding", ["rubric.code=1.0"], "rubric.code scores single decisions"),
        ("search", "questions.json", [], "data.corpus is not set; give a JSONL of passages"),
        ("search", "questions.json", ["data.corpus=no.jsonl"], "no.jsonl: No such file"),
        ("coding", "mini-mat-coding", ["data.prompt_file=no.txt"], "no.txt' cannot be read"),
    ],
)
def test_data_that_does_not_fit_is_said_before_anything_begins(
    tmp_path: Path, env: str, source: str, settings: list[str], words: str
):
    with pytest.raises(UserError, match=words):
        game(tmp_path, env, source, *settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "No such file"), ("[]", "has no rows"), ('[{"id": 1}]', "row 1, key 'question'")],
)
def test_a_file_that_cannot_be_read_names_its_row(tmp_path: Path, text: str | None, words: str):
    source = tmp_path / "rows.json"
    if text is not None:
        source.write_text(text)
    with pytest.raises(UserError, match=words):
        game(tmp_path, "coding", source).held_out(MemoryImages())


def test_searches_are_counted_and_held_to_the_recipes_limits(
    tmp_path: Path, mat_search: Path, corpus: Path
):
    made = game(tmp_path, "search", mat_search, f"data.corpus={corpus}", "data.limits.budget=1")
    search = made.tools(MemoryImages())["search"]
    assert made.search_counts is not None
    asyncio.run(search.run(ToolCall(tool="search", arguments={"query": "owner"})))
    counts = made.search_counts()
    assert (counts.asked, counts.requests, counts.failures) == (1, 1, 0)
    with pytest.raises(ToolFailure, match="budget"):
        asyncio.run(search.run(ToolCall(tool="search", arguments={"query": "keeper"})))
    assert made.search_counts().failures == 1
