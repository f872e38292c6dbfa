"""What a base model practises before any task: reading signs, recalling stated facts, copying.

It copies scraps of the text and code that agents write, in no order that means anything. Nothing
that is read or recalled is held out; among the scraps, held-out names turn up by chance.
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

_SHARES = {"read": 0.3, "recall": 0.55, "copy": 0.15}
_NAME_SHARE = 0.35
_CLEAN_SHARE = 0.3
_ONE_NAME_SHARE = 0.8
_SCRAP = re.compile(r"(\n|\d|</?[a-z]+>|[A-Z][aeiou](?![a-z]))")


class Practice:
    """A stream of short conversations without tools."""

    def __init__(self, seed: int, images: Images) -> None:
        """Conversations go on without end, each is the same for its number."""
        self._seed = seed
        self._images = images
        self._names = names(TRAIN)
        words = (*coding.phrases(), *search.phrases())
        self._scraps = sorted({scrap for text in words for scrap in _SCRAP.split(text) if scrap})

    def __call__(self, start: int, count: int) -> list[Trajectory]:
        """The conversations from number `start` on."""
        return [self._one(number) for number in range(start, start + count)]

    def _one(self, number: int) -> Trajectory:
        rng = stream("practice", self._seed, number)
        [kind] = rng.choices(list(_SHARES), list(_SHARES.values()))
        make = {"read": self._read, "recall": self._recall, "copy": self._copy}
        turns = make[kind](rng)
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
        """Facts, then all of them again in another order."""
        facts = self._facts(rng)
        told = " ".join(f"{n}. Content:{sentence(*fact)}" for n, fact in enumerate(facts, start=1))
        asked = rng.sample(facts, len(facts))
        return [_said(told, " ".join(sentence(*fact) for fact in asked))]

    def _copy(self, rng: random.Random) -> list[Turn]:
        """Scraps of text and code, then the same again."""
        text = "".join(rng.choices(self._scraps, k=rng.randint(4, 20))).strip()
        return [_said(text, text)]

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


def _relation(rng: random.Random) -> str:
    return rng.choice(rng.choice(HOPS))


def _said(text: str, reply: str) -> Turn:
    return _turn([Message(role="user", text=text)], reply)


def _turn(messages: Sequence[Message], reply: str) -> Turn:
    return Turn(
        prompt=Prompt(messages=tuple(messages)),
        completion=Completion(text=reply),
        action=Action(kind=ANSWER, content=reply),
    )
