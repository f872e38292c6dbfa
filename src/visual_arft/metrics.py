"""Scoring of answers: the paper's metric, SQuAD's beside it, and bootstrap intervals.

A score is between 0 and 1, the best over the golds; an absent answer scores 0 and still counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_HAN = re.compile("[\u4e00-\u9fff]")
_FULL_WIDTH = "".join(chr(ord(mark) + 0xFEE0) for mark in string.punctuation)
_DROP = str.maketrans("", "", string.punctuation)
# The marks that the published figures were counted without: `…`, `—` and `￥` are not among them.
_DROP_CJK = str.maketrans("", "", string.punctuation + _FULL_WIDTH + "｡、。《》【】“”‘’")


class Score(Protocol):
    """How well an answer meets any of the golds."""

    def __call__(self, answer: str | None, golds: Iterable[str], *, cjk: bool = False) -> float:
        """A score from 0 to 1."""
        ...


def em(answer: str | None, golds: Iterable[str], *, cjk: bool = False) -> float:
    """1.0 when the answer equals a gold after normalisation, else 0.0.

    >>> em("The Eiffel-Tower.", ["eiffeltower"]), em(None, ["eiffeltower"])
    (1.0, 0.0)

    Args:
        answer: what was said; None when nothing was.
        golds: the accepted answers.
        cjk: MAT-Coding's rule: Chinese punctuation is dropped too, a text that holds a Chinese
            character loses its spaces, and beside such a text characters take the place of words.
    """
    if answer is None:
        return 0.0
    pairs = (_tokens(answer, gold, cjk) for gold in golds)
    return float(any(left == right for left, right in pairs))


def f1(answer: str | None, golds: Iterable[str], *, cjk: bool = False) -> float:
    """The paper's F1: the set of shared words over the lengths of the two lists.

    A repeated word counts once above and each time below, unless the texts are equal: EM 1 is F1 1.

    >>> f1("paris in the spring", ["Paris"])  # 1 shared of 3 and of 1: 2 * 1 / (3 + 1)
    0.5
    >>> f1("bora bora", ["Bora Bora"]), f1("oh bora bora", ["Bora Bora"])
    (1.0, 0.4)
    """
    return _best(answer, golds, cjk, _shared_set)


def squad_f1(answer: str | None, golds: Iterable[str], *, cjk: bool = False) -> float:
    """F1 as SQuAD and HotpotQA count it: a word is shared as often as both texts have it.

    >>> squad_f1("oh bora bora", ["Bora Bora"])  # 2 shared of 3 and of 2
    0.8
    """
    return _best(answer, golds, cjk, _shared_count)


squad_em = em
"""SQuAD's exact match, which is the paper's too."""


class Metric(NamedTuple):
    """A pair of scores that are reported together."""

    em: Score
    f1: Score


METRICS = {"paper": Metric(em, f1), "squad": Metric(squad_em, squad_f1)}
"""Every metric by its name; the first is the default."""


def interval(values: Sequence[float], seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean.

    >>> interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    if not len(values):
        raise ValueError("an interval needs at least one value")
    # Scores take few distinct values, so drawing how often each occurs is the same as drawing rows.
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    n = len(values)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    low, high = np.percentile(drawn @ distinct / n, [2.5, 97.5])
    return float(low), float(high)


class _SharedTokens(Protocol):
    def __call__(self, left: Sequence[str], right: Sequence[str]) -> int: ...


def _best(answer: str | None, golds: Iterable[str], cjk: bool, shared: _SharedTokens) -> float:
    if answer is None:
        return 0.0
    return max((_f1(*_tokens(answer, gold, cjk), shared) for gold in golds), default=0.0)


def _f1(answer: Sequence[str], gold: Sequence[str], shared: _SharedTokens) -> float:
    if answer == gold:
        return 1.0
    return 2 * shared(answer, gold) / (len(answer) + len(gold))


def _shared_set(left: Sequence[str], right: Sequence[str]) -> int:
    return len(set(left) & set(right))


def _shared_count(left: Sequence[str], right: Sequence[str]) -> int:
    return (Counter(left) & Counter(right)).total()


def _tokens(answer: str, gold: str, cjk: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Words of both texts, or characters where `cjk` and either text is Chinese."""
    left, right = _normal(answer, cjk), _normal(gold, cjk)
    if cjk and (_HAN.search(left) or _HAN.search(right)):
        return left, right
    return left.split(), right.split()


@lru_cache(maxsize=4096)  # each text is asked for once per score and once per gold
def _normal(text: str, cjk: bool) -> str:
    """A text without what does not count; each by itself, whatever it is compared with."""
    kept = text.lower().translate(_DROP_CJK if cjk else _DROP)
    if cjk and _HAN.search(kept):
        return kept.replace(" ", "")  # line breaks and articles stay, as in the published figures
    return " ".join(_ARTICLES.sub(" ", kept).split())
