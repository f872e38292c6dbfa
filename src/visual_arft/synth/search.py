"""mini-MAT-Search: a sign names a place, a corpus knows it, one or two hops lead to the answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from visual_arft.envs.search.backends.memory import Bm25Searcher, Sampled
from visual_arft.envs.search.env import SEARCH, SearchEnv
from visual_arft.envs.search.tool import SearchTool
from visual_arft.episode import ANSWER, Episode
from visual_arft.images import Images, encode
from visual_arft.synth.signs import draw_sign
from visual_arft.synth.splits import stream
from visual_arft.synth.world import HOPS, SYLLABLES, World, make_world
from visual_arft.tags import wrap
from visual_arft.types import Completion, Prompt, Task, ToolCall, Trajectory

TEMPLATE = "<query>{question}</query>"
"""The instructions of the tiny model: it knows its grammar by heart."""

TWO_HOP_SHARE = 0.7
"""Of the questions; with fewer, always searching once is a policy that is hard to leave."""


@dataclass(frozen=True)
class Problem:
    """A task and what solves it."""

    task: Task
    place: str
    relations: tuple[str, ...]


class MiniMatSearch:
    """The tasks of one split, made as they are asked for."""

    def __init__(self, split: str, seed: int, images: Images) -> None:
        """Makes the split's world; tasks go on without end, each is the same for its number."""
        self.split = split
        self.world: World = make_world(split, seed)
        self._seed = seed
        self._images = images

    def __call__(self, start: int, count: int) -> list[Task]:
        """The tasks from number `start` on."""
        return [self.problem(number).task for number in range(start, start + count)]

    def problem(self, number: int) -> Problem:
        """One task with its solution."""
        rng = stream("search", self.split, self._seed, number)
        hops = 2 if rng.random() < TWO_HOP_SHARE else 1
        relations = tuple(rng.choice(each) for each in HOPS[:hops])
        place = rng.choice(self.world.places)
        image = self._images.add(encode(draw_sign(sign_rows(place), rng)))
        task = Task(
            id=f"mini-mat-search-{self.split}-{self._seed}-{number}",
            question=question(relations),
            answers=(self.world.follow(place, relations)[-1],),
            images=(image,),
            split=self.split,
            kind=f"{hops} hop{'s' if hops > 1 else ''}",
        )
        return Problem(task, place, relations)

    def tool(self, *, seed: int | None = None) -> SearchTool:
        """Search over the split's corpus: 1 to 4 passages, their order drawn by the seed."""
        return SearchTool(self.sampled(self._seed if seed is None else seed))

    def sampled(self, seed: int) -> Sampled:
        """The engine behind `tool`."""
        return Sampled(Bm25Searcher(self.world.passages()), seed, most=4)


def question(relations: Sequence[str]) -> str:
    """The question that these relations answer.

    >>> question(["keeper", "guild"])
    'What is the guild of the keeper of this place?'
    """
    return f"What is the {' of the '.join(reversed(relations))} of this place?"


def sign_rows(name: str) -> list[str]:
    """A name as its sign shows it: a syllable in a row, in capitals."""
    return [name[:2].upper(), name[2:].upper()]


class SearchDemonstrations:
    """Episodes that know how to search, read and answer; `blind` ones do not know what to ask.

    A blind demonstration searches once or twice whatever the question, and half of the time asks
    for a random relation. What it then says it found is what it did find.
    """

    def __init__(self, tasks: MiniMatSearch, env: SearchEnv, *, blind: bool) -> None:
        self._tasks = tasks
        self._env = env
        self._blind = blind
        self._tool = tasks.tool()

    def __call__(self, start: int, count: int) -> list[Trajectory]:
        """The demonstrations from number `start` on."""
        return asyncio.run(self._play(range(start, start + count)))

    async def _play(self, numbers: range) -> list[Trajectory]:
        return [await self._one(number) for number in numbers]

    async def _one(self, number: int) -> Trajectory:
        problem = self._tasks.problem(number)
        rng = stream("search demonstration", problem.task.id, self._blind)
        relations = _blindly(problem.relations, rng) if self._blind else problem.relations
        replies = iter(self._replies(problem.place, relations))
        episode = Episode(problem.task, self._env)
        while (pending := episode.pending) is not None:
            match pending:
                case Prompt():
                    episode.act(Completion(text=next(replies)))
                case ToolCall():
                    episode.observe(await self._tool.run(pending))
        return episode.trajectory

    def _replies(self, place: str, relations: Sequence[str]) -> list[str]:
        thoughts, name = [place], place
        replies: list[str] = []
        values = self._tasks.world.follow(place, relations)
        for relation, value in zip(relations, values, strict=True):
            replies.append(wrap(thoughts[-1], SEARCH, f"{name} {relation}"))
            thoughts.append(f"{name} {relation}: {value}")
            name = value
        return [*replies, wrap(thoughts[-1], ANSWER, name)]


def _blindly(relations: Sequence[str], rng: random.Random) -> list[str]:
    asked = [
        relations[hop] if hop < len(relations) and rng.random() < 0.5 else rng.choice(every)
        for hop, every in enumerate(HOPS)
    ]
    return asked[: rng.randint(1, len(asked))]


def phrases() -> list[str]:
    """The wording of this task, for a tokenizer to learn from."""
    worded = [question(path) for path in _paths()]
    replies = [f" {r}: " for hop in HOPS for r in hop] + [f" {r}</search>" for h in HOPS for r in h]
    found = "<information> 1. Content: 2. Content: 3. Content: 4. Content: </information>"
    return [
        *(TEMPLATE.format(question=each) for each in worded),
        *replies,
        *SYLLABLES,
        found,
        wrap("", SEARCH, ""),
        wrap("", ANSWER, ""),
        "<information> no results </information>",
    ]


def _paths() -> list[list[str]]:
    return [[first] for first in HOPS[0]] + [[a, b] for a in HOPS[0] for b in HOPS[1]]
