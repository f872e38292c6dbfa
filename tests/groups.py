"""Random groups of rollouts as training rows: what the tests of the prefix tree draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from tiny_vlm import picture
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.training.segments import Row, Segment, rows
from visual_arft.types import Image

START, STOP = 3, 4
"""The ids around an image's placeholders in the tiny models' vocabulary."""
SIZES = [(40, 40), (40, 90), (84, 56)]


@dataclass(frozen=True)
class Piece:
    """Some ids of a prompt with an image before them, or without."""

    ids: tuple[int, ...]
    picture: int | None = None


@dataclass(frozen=True)
class DrawnTurn:
    """What a turn's prompt adds, and the reply; a retold one begins after so many pieces anew."""

    news: tuple[Piece, ...]
    reply: tuple[int, ...]
    is_retold: bool = False


Rollout = tuple[tuple[DrawnTurn, ...], float]
"""Turns and the advantage."""
Group = tuple[tuple[Piece, ...], tuple[Rollout, ...]]
"""The first prompt and the rollouts."""

# Few different ids: mates often begin alike, and part in the middle of a reply.
_text = st.lists(st.sampled_from([20, 21, 22]), min_size=1, max_size=6).map(tuple)
_picture = st.integers(0, 4)
_word = st.builds(Piece, _text)
_seen = st.builds(Piece, _text, st.one_of(st.none(), _picture))
_prompt = st.lists(_seen, min_size=1, max_size=3).map(tuple)


@st.composite
def _rollouts(draw: st.DrawFn) -> Rollout:
    turns: list[DrawnTurn] = []
    images = 0
    for number in range(draw(st.integers(1, 5))):
        news = draw(_seen if images < 3 and number else _word)
        images += news.picture is not None
        turns.append(DrawnTurn((news,) if number else (), draw(_text), draw(st.booleans())))
    return tuple(turns), draw(st.sampled_from([1.0, -0.5, 0.25, -1.5]))


groups = st.lists(
    st.tuples(_prompt, st.lists(_rollouts(), min_size=1, max_size=3).map(tuple)),
    min_size=1,
    max_size=3,
)


def segments_of(drawn: Sequence[Group], vlm: VisionLanguageModel) -> list[Segment]:
    """All segments, rollout by rollout; a retold turn sees the first prompt and its own news."""
    found: list[Segment] = []
    for number, (first, rollouts) in enumerate(drawn):
        for mate, (turns, advantage) in enumerate(rollouts):
            ids, images = _written(first, vlm)
            start_ids, start_images = ids, images
            for place, turn in enumerate(turns):
                if turn.is_retold:
                    ids, images = start_ids, start_images
                more, seen = _written(turn.news, vlm)
                ids, images = ids + more, images + seen
                logprobs = tuple(-6.0 + 0.2 * ((n + mate) % 3 - 1) for n in range(len(turn.reply)))
                name = f"group {number}, mate {mate}"
                found.append(Segment(name, place, ids, turn.reply, logprobs, images, advantage))
                ids = ids + turn.reply
    return found


def one_row_each(segments: Sequence[Segment]) -> list[Row]:
    """A row for each segment, as other trainers have it."""
    return [row for segment in segments for row in rows([segment])]


def _written(
    pieces: Sequence[Piece], vlm: VisionLanguageModel
) -> tuple[tuple[int, ...], tuple[Image, ...]]:
    ids: tuple[int, ...] = ()
    images: tuple[Image, ...] = ()
    for piece in pieces:
        if piece.picture is not None:
            width, height = SIZES[piece.picture % len(SIZES)]
            image = picture(vlm.images, piece.picture, width, height)
            places = (vlm.chat.image_token_id,) * vlm.image_tokens(image)
            ids, images = (*ids, START, *places, STOP), (*images, image)
        ids = ids + piece.ids
    return ids, images
