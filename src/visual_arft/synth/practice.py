"""What a base model practises before it sees any task: reading signs, and recalling stated facts.

Nothing here names a tool or an action, and nothing comes from the held-out split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from visual_arft.envs.coding.degradations import degrade
from visual_arft.envs.coding.grammar import MENDABLE
from visual_arft.images import Images, Pixels, encode
from visual_arft.synth.coding import QUESTION, mended, noise, sign_text
from visual_arft.synth.search import sign_rows
from visual_arft.synth.signs import draw_sign
from visual_arft.synth.splits import TRAIN, stream
from visual_arft.synth.world import HOPS, names, sentence
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

RECALL_SHARE = 0.6


class Practice:
    """A stream of short conversations without tools."""

    def __init__(self, seed: int, images: Images, *, recall_share: float = RECALL_SHARE) -> None:
        self._seed = seed
        self._images = images
        self._recall_share = recall_share
        self._names = names(TRAIN)

    def __call__(self, start: int, count: int) -> list[Trajectory]:
        """The conversations from number `start` on."""
        return [self._one(number) for number in range(start, start + count)]

    def _one(self, number: int) -> Trajectory:
        rng = stream("practice", self._seed, number)
        if rng.random() < self._recall_share:
            return _conversation(number, [self._recall(rng)])
        return _conversation(number, [self._reading(rng) for _ in range(rng.randint(1, 3))])

    def _reading(self, rng: random.Random) -> tuple[Message, str]:
        if rng.random() < 0.35:
            name = rng.choice(self._names)
            pixels, text = draw_sign(sign_rows(name), rng), name
        else:
            text = sign_text(TRAIN, rng)
            pixels = self._as_seen(draw_sign(text.split(), rng), rng)
        image = self._images.add(encode(pixels))
        return Message(role="user", text=QUESTION, images=(image,)), text

    def _as_seen(self, sign: Pixels, rng: random.Random) -> Pixels:
        """A sign as it is, or spoilt and rightly mended, as an agent sees it in the end."""
        if rng.random() < 0.3:
            return sign
        problem = rng.choice(MENDABLE)
        return mended(degrade(sign, problem, noise(rng)), problem)

    def _recall(self, rng: random.Random) -> tuple[Message, str]:
        facts = self._facts(rng)
        told = " ".join(f"{n}. Content:{sentence(*fact)}" for n, fact in enumerate(facts, start=1))
        asked = rng.sample(facts, len(facts))
        return Message(role="user", text=told), " ".join(sentence(*fact) for fact in asked)

    def _facts(self, rng: random.Random) -> list[tuple[str, str, str]]:
        """Facts as a search brings them: mostly about one name, each with another relation."""
        count = rng.randint(1, 5)
        if rng.random() < 0.6:
            name = rng.choice(self._names)
            keys = [(name, relation) for relation in rng.sample(rng.choice(HOPS), min(count, 4))]
        else:
            some = rng.sample(self._names, rng.randint(1, count))
            keys = list(dict.fromkeys((rng.choice(some), _relation(rng)) for _ in range(count)))
        return [(name, relation, rng.choice(self._names)) for name, relation in keys]


def _relation(rng: random.Random) -> str:
    return rng.choice(rng.choice(HOPS))


def _conversation(number: int, exchanges: Sequence[tuple[Message, str]]) -> Trajectory:
    turns: list[Turn] = []
    messages: list[Message] = []
    for asked, reply in exchanges:
        messages.append(asked)
        turns.append(
            Turn(
                prompt=Prompt(messages=tuple(messages)),
                completion=Completion(text=reply),
                action=Action(kind="answer", content=reply),
            )
        )
        messages.append(Message(role="assistant", text=reply))
    task = Task(id=f"practice-{number}", question=exchanges[0][0].text, answers=(exchanges[-1][1],))
    return Trajectory(task=task, turns=tuple(turns), stop_reason=StopReason.ANSWERED)
