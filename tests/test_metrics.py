from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_arft.metrics import METRICS, em, f1, interval, squad_f1

REFERENCE = Path(
    os.environ.get("ARFT_REFERENCE", Path(__file__).parents[1] / "../shared/reference")
)
texts = st.text("ab the.,-é1发票，（ \n", max_size=12)
few = settings(max_examples=60, derandomize=True, deadline=None)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@few
@given(answer=texts, golds=st.lists(texts, max_size=3), cjk=st.booleans())
def test_scores_lie_between_0_and_1_and_an_exact_match_has_f1_1(metric, answer, golds, cjk):
    exact, overlap = metric.em(answer, golds, cjk=cjk), metric.f1(answer, golds, cjk=cjk)
    assert 0 <= exact <= overlap <= 1


@few
@given(answer=texts, golds=st.lists(texts, min_size=1, max_size=3), cjk=st.booleans())
def test_another_gold_never_lowers_a_score(answer, golds, cjk):
    for score in (em, f1, squad_f1):
        assert score(answer, golds, cjk=cjk) >= score(answer, golds[:1], cjk=cjk)


@few
@given(answer=texts, gold=texts, cjk=st.booleans())
def test_the_paper_never_counts_more_shared_words_than_squad(answer, gold, cjk):
    assert f1(answer, [gold], cjk=cjk) <= squad_f1(answer, [gold], cjk=cjk)


def test_no_answer_scores_0_even_against_an_empty_gold():
    assert em(None, [""]) == f1(None, [""]) == squad_f1(None, [""]) == 0.0


def test_case_punctuation_articles_and_blanks_do_not_count():
    assert em(" The  U.S. a  dollar! ", ["us Dollar"]) == 1.0


def test_chinese_is_compared_by_character_in_cjk_mode_alone():
    # 3 shared of 4 and of 4 characters; as words, the two texts share nothing.
    assert f1("发票 号码。", ["发票代码"], cjk=True) == 0.75
    assert f1("发票 号码。", ["发票代码"]) == 0.0


def test_one_chinese_text_makes_both_be_read_by_character():
    # "7" and "第7页": one shared of 1 and of 3; the article went with the English text's words.
    assert f1("A 7", ["第7页"], cjk=True) == pytest.approx(2 / 4)
    # "b 7": its blank is a character of its own, and one of 3 and of 3 is shared.
    assert f1("B 7.", ["第 7 页"], cjk=True) == pytest.approx(2 / 6)


def test_an_interval_is_that_of_resampled_rows():
    values = np.random.default_rng(1).integers(0, 5, size=300) / 4
    rows = np.random.default_rng(2).choice(values, size=(4000, 300)).mean(axis=1)
    expected = np.percentile(rows, [2.5, 97.5])
    assert interval(values.tolist(), resamples=4000) == pytest.approx(expected, abs=0.004)


def test_an_interval_is_quick_for_the_largest_benchmark():
    values = (np.random.default_rng(0).integers(0, 200, size=12_576) / 200).tolist()
    start = time.perf_counter()
    low, high = interval(values)
    assert time.perf_counter() - start < 0.3
    assert low < sum(values) / len(values) < high


@pytest.mark.skipif(not (REFERENCE / "predictions").exists(), reason="no reference files")
@pytest.mark.parametrize(
    ("file", "rows", "cjk", "expected"),
    [
        ("mat_coding_7b_v2", slice(None), True, (50.87, 35.00)),
        ("mat_coding_7b_v2", slice(70), True, (61.52, 52.86)),
        ("mat_coding_7b_v2", slice(70, None), True, (45.13, 25.38)),
        ("mat_search_7b", slice(None), False, (63.77, 55.33)),
        ("mat_search_7b", slice(75), False, (71.78, 66.67)),
        ("mat_search_7b", slice(75, None), False, (55.77, 44.00)),
        ("bamboogle_7b", slice(None), False, (60.15, 48.80)),
    ],
)
def test_published_predictions_get_their_published_scores(file, rows, cjk, expected):
    path = REFERENCE / "predictions" / f"{file}.json"
    chosen = json.loads(path.read_text(encoding="utf-8"))[rows]
    pairs = [
        (row["pred_answer"], row["gt"] if isinstance(row["gt"], list) else [row["gt"]])
        for row in chosen
    ]
    means = [100 * np.mean([score(*pair, cjk=cjk) for pair in pairs]) for score in (f1, em)]
    assert tuple(round(float(mean), 2) for mean in means) == expected
