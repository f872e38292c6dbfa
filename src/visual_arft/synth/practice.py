"""What a base model practises before any task: reading, describing, recalling facts, copying.

It reads signs, and says how a spoilt one looks, in words that name no repair. It restates facts
that it was told. It copies scraps of the text and code that agents write, in no order that means
anything, and lists of numbers out of such scraps. Nothing that is held out is ever said.
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
from visual_arft.synth.splits import TEST, TRAIN, split_of, stream
from visual_arft.synth.world import HOPS, RELATIONS, names, sentence
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

LOOK_QUESTION = "How does the sign look?"
LOOKS = {
    "rotation90": "On its side.",
    "rotation180": "Upside down.",
    "dark": "Dim.",
    "overexposure": "Pale.",
    "blur": "Soft.",
    "noise": "Grainy.",
    "none": "Fine.",
}
"""What the base says of a sign with a problem; which repair that asks for, it does not learn."""

_SHARES = {"read": 0.25, "look": 0.05, "recall": 0.5, "copy": 0.1, "pick": 0.1}
_NAME_SHARE = 0.35
_CLEAN_SHARE = 0.3
_ONE_NAME_SHARE = 0.8
_HOLDABLE = (re.compile(r"(?=((?:[A-Z][aeiou]){2}))"), re.compile(r"(?=(\d{6}))"))
"""What held-out answers look like, blanks left out; each match may overlap the next."""
_SCRAP = re.compile(r"(\n|\d|</?[a-z]+>|[A-Z][aeiou](?![a-z]))")


class Practice:
    """A stream of short conversations without tools."""

    def __init__(self, seed: int, images: Images) -> None:
        """Conversations go on without end, each is the same for its number."""
        self._seed = seed
        self._images = images
        self._names = names(TRAIN)
        words = (*coding.phrases(), *search.phrases())
        self._scraps = sorted(
            {scrap for text in words for scrap in _SCRAP.split(text) if scrap} - {"[", "]"}
        )

    def __call__(self, start: int, count: int) -> list[Trajectory]:
        """The conversations from number `start` on."""
        return [self._one(number) for number in range(start, start + count)]

    def _one(self, number: int) -> Trajectory:
        rng = stream("practice", self._seed, number)
        [kind] = rng.choices(list(_SHARES), list(_SHARES.values()))
        make = {
            "read": self._read,
            "look": self._look,
            "recall": self._recall,
            "copy": self._copy,
            "pick": self._pick,
        }
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

    def _look(self, rng: random.Random) -> list[Turn]:
        """A sign in some state, and what state that is."""
        problem = rng.choice(list(LOOKS))
        sign = degrade(draw_sign(sign_text(TRAIN, rng).split(), rng), problem, noise(rng))
        image = self._images.add(encode(sign))
        message = Message(role="user", text=LOOK_QUESTION, images=(image,))
        return [_turn([message], LOOKS[problem])]

    def _recall(self, rng: random.Random) -> list[Turn]:
        """Facts in random order, then all of them again, ordered by relation.

        An order that can be foreseen leaves nothing to learn but where a fact stands: restated in a
        random order, the same facts were not found again by their content.
        """
        facts = self._facts(rng)
        told = " ".join(f"{n}. Content:{sentence(*fact)}" for n, fact in enumerate(facts, start=1))
        ordered = sorted(facts, key=lambda fact: RELATIONS.index(fact[1]))
        return [_said(told, " ".join(sentence(*fact) for fact in ordered))]

    def _copy(self, rng: random.Random) -> list[Turn]:
        """Scraps of text and code, then the same again."""
        text = self._scrawl(rng, 20)
        return [_said(text, text)]

    def _pick(self, rng: random.Random) -> list[Turn]:
        """Four numbers in brackets among scraps, then the same list."""
        numbers = str([rng.randint(0, 1000) for _ in range(4)])
        return [_said(f"{self._scrawl(rng, 8)} {numbers} {self._scrawl(rng, 8)}", numbers)]

    def _scrawl(self, rng: random.Random, most: int) -> str:
        """Up to `most` scraps, joined without a held-out name or number coming about."""
        while True:
            text = "".join(rng.choices(self._scraps, k=rng.randint(4, most))).strip()
            if not says_held_out(text):
                return text

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


def says_held_out(text: str) -> bool:
    """Whether a name or a sign's number of the held-out split stands anywhere in a text.

    >>> says_held_out("BaBaBi"), says_held_out("Ba Be")
    (False, True)
    """
    joined = "".join(text.split())
    return any(split_of(name) == TEST for pattern in _HOLDABLE for name in pattern.findall(joined))


def _relation(rng: random.Random) -> str:
    return rng.choice(RELATIONS)


def _said(text: str, reply: str) -> Turn:
    return _turn([Message(role="user", text=text)], reply)


def _turn(messages: Sequence[Message], reply: str) -> Turn:
    return Turn(
        prompt=Prompt(messages=tuple(messages)),
        completion=Completion(text=reply),
        action=Action(kind=ANSWER, content=reply),
    )


def phrases() -> list[str]:
    """The wording of this practice, for a tokenizer to learn from."""
    return [LOOK_QUESTION, *LOOKS.values()]
