from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

import pytest

from visual_arft.envs.search.backends.memory import Bm25Searcher
from visual_arft.envs.search.env import SearchEnv
from visual_arft.episode import replay
from visual_arft.images import MemoryImages
from visual_arft.synth.search import TEMPLATE, MiniMatSearch, SearchDemonstrations, question
from visual_arft.synth.splits import split_of
from visual_arft.synth.world import HOPS, make_world
from visual_arft.types import Action, StopReason, Trajectory

IMAGES = MemoryImages()


@pytest.fixture(scope="module")
def game() -> MiniMatSearch:
    return MiniMatSearch("train", 7, IMAGES)


@pytest.fixture(scope="module")
def blind(game: MiniMatSearch) -> list[Trajectory]:
    return SearchDemonstrations(game, SearchEnv("append", TEMPLATE), blind=True)(0, 300)


def actions(demonstration: Trajectory) -> list[Action]:
    return [turn.action for turn in demonstration.turns if isinstance(turn.action, Action)]


def searches(demonstration: Trajectory) -> list[str]:
    return [each.content for each in actions(demonstration) if each.kind == "search"]


def found(searcher: Bm25Searcher, query: str) -> list[str]:
    return [result.url for result in asyncio.run(searcher.search(query, 4))]


def test_the_held_out_world_shares_no_name_with_a_training_world():
    worlds = [make_world("train", seed) for seed in (0, 1_000_000)]
    held_out = make_world("test", 0)
    said = {name for (name, _), value in held_out.facts.items() for name in (name, value)}
    assert {split_of(name) for name in said} == {"test"}
    for world in worlds:
        known = {name for (name, _), value in world.facts.items() for name in (name, value)}
        assert not known & said
    assert len(held_out.passages()) == 3200


def test_every_fact_is_what_its_own_query_brings_first():
    world = make_world("test", 0)
    searcher = Bm25Searcher(world.passages())
    missed = [
        (name, relation)
        for name, relation in list(world.facts)[::3]
        if found(searcher, f"{name} {relation}")[0] != f"{name}-{relation}"
    ]
    assert missed == []


def test_one_to_four_passages_come_in_an_order_that_does_not_tell_the_best(game: MiniMatSearch):
    searcher, sampled = Bm25Searcher(game.world.passages()), game.sampled(0)
    places: Counter[tuple[int, int]] = Counter()
    for name, relation in list(game.world.facts)[::16]:
        best = found(searcher, f"{name} {relation}")
        results = asyncio.run(sampled.search(f"{name} {relation}", 4))
        urls = [result.url for result in results]
        assert sorted(urls) == sorted(best[: len(urls)])
        places[len(urls), urls.index(best[0])] += 1
    # 200 draws: each of four lengths 50 times, and the best at each of its places equally often.
    assert set(places) == {(n, at) for n in range(1, 5) for at in range(n)}
    for length in range(1, 5):
        assert 30 < sum(n for (count, _), n in places.items() if count == length) < 72


def test_the_seed_of_the_tool_changes_number_and_order_only(game: MiniMatSearch):
    engines = [game.sampled(seed) for seed in (0, 1)]
    differing = 0
    for name, relation in list(game.world.facts)[:40]:
        one, other = (
            [r.url for r in asyncio.run(engine.search(f"{name} {relation}", 4))]
            for engine in engines
        )
        fewer, more = sorted((set(one), set(other)), key=len)
        assert fewer <= more
        differing += one != other
    assert differing > 20


def test_a_task_asks_for_what_its_world_says(game: MiniMatSearch):
    hops = Counter()
    for number in range(200):
        problem = game.problem(number)
        answer = game.world.follow(problem.place, problem.relations)[-1]
        assert problem.task.question == question(problem.relations)
        assert problem.task.answers == (answer,)
        assert problem.task.kind == ("1 hop" if len(problem.relations) == 1 else "2 hops")
        assert split_of(answer) == "train"
        hops[problem.task.kind] += 1
    assert 0.6 < hops["2 hops"] / 200 < 0.8


def test_a_task_is_the_same_for_its_number_whatever_else_is_drawn(game: MiniMatSearch):
    again = MiniMatSearch("train", 7, MemoryImages())
    assert again(5, 1) == game(0, 6)[5:]


@pytest.mark.parametrize("context", ["retell", "append"])
def test_a_demonstration_that_sees_is_an_episode_to_the_gold_answer(
    game: MiniMatSearch, context: Literal["retell", "append"]
):
    env = SearchEnv(context, TEMPLATE)
    for number, each in enumerate(SearchDemonstrations(game, env, blind=False)(0, 40)):
        relations = game.problem(number).relations
        assert each.stop_reason is StopReason.ANSWERED
        assert each.answer == each.task.answers[0]
        assert [query.split()[1] for query in searches(each)] == list(relations)
        assert replay(each, env) == each


def test_a_blind_demonstration_searches_once_or_twice_whatever_the_question(
    blind: list[Trajectory],
):
    counts = Counter((each.task.kind, len(searches(each))) for each in blind)
    assert set(counts) == {(kind, n) for kind in ("1 hop", "2 hops") for n in (1, 2)}
    assert 0.4 < (counts["1 hop", 1] + counts["2 hops", 1]) / len(blind) < 0.6


def test_half_of_what_a_blind_demonstration_asks_is_random(
    game: MiniMatSearch, blind: list[Trajectory]
):
    right = [
        query.split()[1] == relation
        for number, each in enumerate(blind)
        for query, relation in zip(searches(each), game.problem(number).relations, strict=False)
    ]
    # Half is the relation that is asked for, and of the other half a quarter is by chance: 62.5%.
    assert 0.54 < sum(right) / len(right) < 0.71
    asked = {query.split()[1] for each in blind for query in searches(each)}
    assert asked == {*HOPS[0], *HOPS[1]}


def test_a_blind_demonstration_says_what_it_found(blind: list[Trajectory]):
    for each in blind:
        assert each.stop_reason is StopReason.ANSWERED
        for turn, following in zip(each.turns, actions(each)[1:], strict=False):
            assert turn.result is not None
            assert f"{following.thought}." in turn.result.text
            assert following.thought.startswith(f"{turn.action.content}: ")
        assert each.answer == actions(each)[-1].thought.split(": ")[1]


def test_a_blind_demonstration_replays(blind: list[Trajectory]):
    env = SearchEnv("append", TEMPLATE)
    assert [replay(each, env) for each in blind[:20]] == blind[:20]
