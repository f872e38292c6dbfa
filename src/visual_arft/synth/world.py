"""Worlds for the search task: two-syllable names, and one page for each fact.

All names of a world, those of its answers too, come from one split, so that nothing the held-out
world says was ever seen in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from visual_arft.envs.search.results import Passage
from visual_arft.synth.splits import split_of

SYLLABLES = tuple(consonant + vowel for consonant in "BDFGKLMNPRSTVZ" for vowel in "aeiou")
OF_PLACE = ("keeper", "founder", "builder", "owner")
"""What a place has: people."""
OF_PERSON = ("guild", "teacher", "horse", "song")
"""What a person has: things, of which there are no pages."""
HOPS = (OF_PLACE, OF_PERSON)
"""The relations that can be followed at each hop."""
RELATIONS = (*OF_PLACE, *OF_PERSON)


def names(split: str) -> list[str]:
    """All names of a split: two syllables, each with a capital, `ZoMa`."""
    every = (first + second for first in SYLLABLES for second in SYLLABLES)
    return [name for name in every if split_of(name) == split]


@dataclass(frozen=True)
class World:
    """What is true: each place has its people, and each person has things."""

    places: tuple[str, ...]
    facts: dict[tuple[str, str], str]

    def follow(self, place: str, relations: Sequence[str]) -> list[str]:
        """The names met on the way from a place along relations; the last one is the answer."""
        path: list[str] = []
        name = place
        for relation in relations:
            name = self.facts[name, relation]
            path.append(name)
        return path

    def passages(self) -> list[Passage]:
        """The corpus: one page for each fact."""
        return [
            Passage(id=f"{name}-{relation}", contents=sentence(name, relation, value))
            for (name, relation), value in self.facts.items()
        ]


def make_world(split: str, seed: int, size: int = 400) -> World:
    """A world of `size` places, people and things each; 400 make a corpus of 3,200 pages."""
    rng = random.Random(f"world:{split}:{seed}")
    drawn = rng.sample(names(split), 3 * size)
    places, people, things = drawn[:size], drawn[size : 2 * size], drawn[2 * size :]
    facts = {(name, r): rng.choice(people) for name in places for r in OF_PLACE}
    facts |= {(name, r): rng.choice(things) for name in people for r in OF_PERSON}
    return World(tuple(places), facts)


def sentence(name: str, relation: str, value: str) -> str:
    """A fact as its page states it."""
    return f"{name} {relation}: {value}."
