"""What a base model practises before any task: reading signs, recalling stated facts, copying.

It copies scraps of the text and code that agents write, in no order that means anything. Nothing
comes from the held-out split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from visual_arft.envs.coding.degradations import degrade
from visual_arft.envs.coding.grammar import MENDABLE
from visual_arft.images import Images, Pixels, encode
from visual_arft.synth import coding, search
from visual_arft.synth.coding import QUESTION, mended, noise, sign_text
from visual_arft.synth.search import sign_rows
from visual_arft.synth.signs import draw_sign
from visual_arft.synth.splits import TRAIN, stream
from visual_arft.synth.world import HOPS, names, sentence
from visual_arft.tags import ANSWER
from visual_arft.types import (
    Action,
    Completion,
    Message,
    Prompt,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

_SHARES = {"read": 0.35, "recall": 0.45, "copy": 0.2}
_NAME_SHARE = 0.35
_CLEAN_SHARE = 0.3
_ONE_NAME_SHARE = 0.9
_SCRAP = re.compile(r"(\n|\d|</?[a-z]+>|[A-Z][aeiou](?![a-z]))")


class Practice:
    """A stream of short conversations without tools; it begins with recall alone."""

    def __init__(self, seed: int, images: Images, *, recall_first: int = 0) -> None:
        """Conversations go on without end, each is the same for its number.

        Args:
            seed: of the stream.
            images: where the signs go.
            recall_first: how many conversations there are before reading and copying join in. Recall
                is the hardest to learn, and beside the others it is not learned at all.
        """
        self._seed = seed
        self._images = images
        self._recall_first = recall_first
        self._names = names(TRAIN)
        words = (*coding.phrases(), *search.phrases())
        scraps = {scrap for text in words for scrap in _SCRAP.split(text) if scrap}
        self._scraps = sorted(scrap for scrap in scraps if not {"[", "]"} & {*scrap})

    def __call__(self, start: int, count: int) -> list[Trajectory]:
        """The conversations from number `start` on."""
        return [self._one(number) for number in range(start, start + count)]

    def _one(self, number: int) -> Trajectory:
        rng = stream("practice", self._seed, number)
        [kind] = rng.choices(list(_SHARES), list(_SHARES.values()))
        turns = _PARTS["recall" if number < self._recall_first else kind](self, rng)
        task = Task(
            id=f"practice-{number}",
            question=turns[0].prompt.messages[0].text,
            answers=(turns[-1].completion.text,),
        )
        return Trajectory(task=task, turns=tuple(turns), stop_reason=StopReason.ANSWERED)

    def _read(self, rng: random.Random) -> list[Turn]:
        """One to three signs, each with the question that agents are asked."""
        messages: list[Message] = []
        turns: list[Turn] = []
        for _ in range(rng.randint(1, 3)):
            pixels, text = self._sign(rng)
            image = self._images.add(encode(pixels))
            messages.append(Message(role="user", text=QUESTION, images=(image,)))
            turns.append(_turn(messages, text))
            messages.append(Message(role="assistant", text=text))
        return turns

    def _sign(self, rng: random.Random) -> tuple[Pixels, str]:
        """A sign as it is, or spoilt and rightly mended, as an agent sees it in the end."""
        if rng.random() < _NAME_SHARE:
            name = rng.choice(self._names)
            return draw_sign(sign_rows(name), rng), name
        text = sign_text(TRAIN, rng)
        sign = draw_sign(text.split(), rng)
        if rng.random() < _CLEAN_SHARE:
            return sign, text
        problem = rng.choice(MENDABLE)
        return mended(degrade(sign, problem, noise(rng)), problem), text

    def _recall(self, rng: random.Random) -> list[Turn]:
        """Facts, then all of them again in another order; only the values are for the model to say.

        Which fact comes next is chance, and learning to guess it drowns what can be learned. So the
        reply is begun with the fact's name and relation, and goes on from there.
        """
        facts = self._facts(rng)
        told = " ".join(f"{n}. Content:{sentence(*fact)}" for n, fact in enumerate(facts, start=1))
        user = Message(role="user", text=told)
        begun = ""
        turns: list[Turn] = []
        for name, relation, value in rng.sample(facts, len(facts)):
            begun += f"{name} {relation}: "
            is_last = len(turns) + 1 == len(facts)
            messages = [user, Message(role="assistant", text=begun)]
            turns.append(_turn(messages, f"{value}." if is_last else value, is_cut=not is_last))
            begun += f"{value}. "
        return turns

    def _copy(self, rng: random.Random) -> list[Turn]:
        """Scraps of text, of which those in brackets are to be said again."""
        before, inner, after = (
            "".join(rng.choices(self._scraps, k=rng.randint(*length)))
            for length in ((0, 6), (3, 16), (0, 6))
        )
        user = Message(role="user", text=f"{before}[{inner}]{after}")
        return [_turn([user], inner)]

    def _facts(self, rng: random.Random) -> list[tuple[str, str, str]]:
        """Facts as a search brings them: mostly about one name, each with another relation."""
        count = rng.randint(1, 5)
        if rng.random() < _ONE_NAME_SHARE:
            name = rng.choice(self._names)
            keys = [(name, relation) for relation in rng.sample(rng.choice(HOPS), min(count, 4))]
        else:
            some = rng.sample(self._names, rng.randint(1, count))
            keys = list(dict.fromkeys((rng.choice(some), _relation(rng)) for _ in range(count)))
        return [(name, relation, rng.choice(self._names)) for name, relation in keys]


_PARTS = {"read": Practice._read, "recall": Practice._recall, "copy": Practice._copy}


def _relation(rng: random.Random) -> str:
    return rng.choice(rng.choice(HOPS))


def _turn(messages: Sequence[Message], reply: str, *, is_cut: bool = False) -> Turn:
    return Turn(
        prompt=Prompt(messages=tuple(messages)),
        completion=Completion(text=reply, finish_reason="length" if is_cut else "stop"),
        action=Action(kind=ANSWER, content=reply),
    )
