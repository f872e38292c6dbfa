from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.envs.search.backends.memory import (
    Bm25Searcher,
    OfflineSearcher,
    Passage,
    Result,
    Sampled,
    Searcher,
    Silent,
)
from visual_arft.envs.search.tool import SearchTool
from visual_arft.errors import ToolFailure, UserError
from visual_arft.types import ToolCall, ToolResult

CORPUS = [
    Passage(id="eiffel", contents='"Eiffel Tower"\nAn iron tower in Paris, 330 m high.'),
    Passage(id="big-ben", contents="Big Ben\nThe bell of a clock tower in London."),
    Passage(id="louvre", contents="Louvre\nA museum in Paris."),
    Passage(id="gugong", contents="故宫\n故宫在北京。"),
]
BM25 = Bm25Searcher(CORPUS)
TEN = OfflineSearcher({"ten": [str(number) for number in range(10)]})


def ask(searcher: Searcher, query: str, limit: int = 4) -> list[Result]:
    return asyncio.run(searcher.search(query, limit))


def ids(searcher: Searcher, query: str, limit: int = 4) -> list[str]:
    return [result.url for result in ask(searcher, query, limit)]


def test_bm25_finds_the_passage_that_shares_the_rarest_words():
    assert ids(BM25, "How high is the Eiffel Tower?")[0] == "eiffel"
    assert ids(BM25, "LONDON") == ["big-ben"]
    assert ids(BM25, "北京") == ["gugong"]


def test_a_result_carries_the_passage_and_its_title():
    [result] = ask(BM25, "eiffel")
    assert result.title == "Eiffel Tower"
    assert result.snippet == '"Eiffel Tower" An iron tower in Paris, 330 m high.'
    assert result.text == CORPUS[0].contents
    assert result.score is not None
    assert result.score > 0


@pytest.mark.parametrize("query", ["", "   ", "the of and", "?!", "zebra"])
def test_a_query_that_shares_no_word_finds_nothing(query: str):
    assert ask(BM25, query) == []


def test_equal_passages_come_in_corpus_order():
    twins = Bm25Searcher([Passage(id=str(i), contents="same words") for i in range(9)])
    assert ids(twins, "words", limit=9) == [str(i) for i in range(9)]


@given(
    texts=st.lists(st.text("ab ö中", max_size=12), max_size=6),
    query=st.text("ab ö中", max_size=8),
    limit=st.integers(1, 8),
)
def test_bm25_returns_the_passages_with_a_common_word_and_no_others(
    texts: list[str], query: str, limit: int
):
    words = [set(text.replace("中", " 中 ").split()) - {"a"} for text in texts]  # "a" says nothing
    asked = set(query.replace("中", " 中 ").split()) - {"a"}
    passages = [Passage(id=str(i), contents=text) for i, text in enumerate(texts)]
    if not any(words):
        with pytest.raises(UserError, match=f"a corpus of {len(texts)} passages holds no words"):
            Bm25Searcher(passages)
        return
    results = ask(Bm25Searcher(passages), query, limit)
    matching = {str(i) for i, there in enumerate(words) if there & asked}
    assert {result.url for result in results} <= matching
    assert len(results) == min(limit, len(matching))
    scores = [result.score or 0.0 for result in results]
    assert scores == sorted(scores, reverse=True)


def test_two_indexes_do_not_disturb_each_other():
    one, other = (Bm25Searcher([Passage(id=name, contents="word")]) for name in ("one", "other"))
    assert (ids(one, "word"), ids(other, "word")) == (["one"], ["other"])


@given(seed=st.integers(), most=st.integers(1, 6), limit=st.integers(1, 6))
def test_sampled_results_are_the_best_few_and_the_same_each_time(seed: int, most: int, limit: int):
    found = ask(Sampled(TEN, seed, most), "ten", limit)
    assert found == ask(Sampled(TEN, seed, most), "ten", limit)
    assert 1 <= len(found) <= min(most, limit)
    assert sorted(result.snippet for result in found) == [str(i) for i in range(len(found))]


def test_sampling_draws_every_number_of_results_and_puts_the_best_anywhere():
    draws = [[hit.snippet for hit in ask(Sampled(TEN, seed), "ten")] for seed in range(200)]
    assert {len(draw) for draw in draws} == {1, 2, 3, 4}
    assert {draw.index("0") for draw in draws} == {0, 1, 2, 3}


def test_sampling_nothing_gives_nothing():
    assert ask(Sampled(TEN, seed=0), "unknown") == []
    assert ask(Sampled(Silent(), seed=0), "ten") == []


def test_the_tool_numbers_what_it_found():
    tool = SearchTool(TEN, limit=2)
    result = asyncio.run(tool.run(ToolCall(tool="search", arguments={"query": "ten"})))
    assert result == ToolResult(text="1. Content:0 2. Content:1")


def test_finding_nothing_is_for_the_model_to_read():
    tool = SearchTool(Silent())
    result = asyncio.run(tool.run(ToolCall(tool="search", arguments={"query": "ten"})))
    assert result == ToolResult(error="no results")


def test_an_engine_that_cannot_be_reached_is_a_failure_and_not_an_answer():
    class Down:
        name = "down"

        async def search(self, query: str, limit: int) -> list[Result]:
            raise ConnectionRefusedError("port 8000 is closed")

    with pytest.raises(ToolFailure, match="search engine down: port 8000 is closed"):
        asyncio.run(SearchTool(Down()).run(ToolCall(tool="search", arguments={"query": "q"})))
