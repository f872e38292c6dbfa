"""Which generated answers are held out: decided by a hash, so that no pattern of theirs is."""

from __future__ import annotations

import hashlib
import random

TRAIN = "train"
TEST = "test"
_TEST_SHARE = 0.25


def split_of(answer: str) -> str:
    """`test` for a quarter of all strings, `train` for the rest; blanks and case do not matter."""
    digest = hashlib.sha256("".join(answer.lower().split()).encode()).digest()
    return TEST if int.from_bytes(digest[:8]) < _TEST_SHARE * 2**64 else TRAIN


def stream(*key: object) -> random.Random:
    """A random generator of its own for each key: the n-th task does not depend on the others."""
    return random.Random(":".join(map(str, key)))
