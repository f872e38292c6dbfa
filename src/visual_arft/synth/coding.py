"""mini-MAT-Coding: a sign that was spoilt in one of the paper's eight ways, and what it says."""

from __future__ import annotations

import random
import re
from typing import Any

import cv2
import numpy as np

from visual_arft.envs.coding.degradations import degrade
from visual_arft.envs.coding.env import CodingEnv, Wording
from visual_arft.envs.coding.grammar import CODE, MENDABLE, PROBLEM, PROBLEMS
from visual_arft.envs.coding.repairs import Box, program, repair
from visual_arft.episode import ANSWER, Episode
from visual_arft.images import Images, Pixels, decode, encode
from visual_arft.synth.signs import draw_scene, draw_sign
from visual_arft.synth.splits import split_of, stream
from visual_arft.tags import wrap
from visual_arft.types import (
    Completion,
    Prompt,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
)

TEMPLATE = "<query>{question}</query>"
"""The instructions of the tiny model: it knows its grammar by heart."""

WORDING = Wording(
    mend="Mend {problems}.",
    crop="Crop to the box.",
    none="Answer.",
    processed="Look.",
    no_image="No image.",
)

QUESTION = "What does the sign say?"
CROP_QUESTION = "What does the sign in the box [{}, {}, {}, {}] say?"

FAMILIES = (("rotation90", "rotation180"), ("dark", "overexposure"), ("blur", "noise"))
"""Problems that a blind agent cannot tell apart. `crop`, which the question gives away, and `none`
stand alone."""

SCENE_SCALE = 3
"""A crop's scene is this many times as wide as its sign."""


class MiniMatCoding:
    """The tasks of one split, made as they are asked for."""

    def __init__(self, split: str, seed: int, images: Images) -> None:
        """Tasks go on without end, each is the same for its number."""
        self.split = split
        self._seed = seed
        self._images = images

    def __call__(self, start: int, count: int) -> list[Task]:
        """The tasks from number `start` on."""
        return [self._task(number) for number in range(start, start + count)]

    def _task(self, number: int) -> Task:
        rng = stream("coding", self.split, self._seed, number)
        problem = rng.choice(PROBLEMS)
        answer = sign_text(self.split, rng)
        sign = draw_sign(answer.split(), rng)
        question = QUESTION
        if problem == "crop":
            sign, box = draw_scene(sign, rng, SCENE_SCALE)
            question = CROP_QUESTION.format(*box)
        elif problem != "none":
            sign = degrade(sign, problem, noise(rng))
        return Task(
            id=f"mini-mat-coding-{self.split}-{self._seed}-{number}",
            question=question,
            answers=(answer,),
            images=(self._images.add(encode(sign)),),
            split=self.split,
            kind=problem,
        )


def noise(rng: random.Random) -> np.random.Generator:
    """A numpy generator drawn from a plain one."""
    return np.random.default_rng(rng.getrandbits(64))


def sign_text(split: str, rng: random.Random) -> str:
    """What a sign says: two rows of three digits, from one split."""
    while True:
        text = f"{rng.randrange(1000):03} {rng.randrange(1000):03}"
        if split_of(text) == split:
            return text


class CodingDemonstrations:
    """Episodes that know the grammar and every repair; `blind` ones do not know which to choose.

    A blind demonstration sees what family the problem is of and picks a member at random. Where
    that was the wrong one it ends before the answer: what cannot be read teaches nobody to read.
    """

    def __init__(
        self, tasks: MiniMatCoding, env: CodingEnv, images: Images, *, blind: bool
    ) -> None:
        self._tasks = tasks
        self._env = env
        self._images = images
        self._blind = blind

    def __call__(self, start: int, count: int) -> list[Trajectory]:
        """The demonstrations from number `start` on."""
        return [self._one(task) for task in self._tasks(start, count)]

    def _one(self, task: Task) -> Trajectory:
        problem = task.kind
        if self._blind:
            [family] = [f for f in (*FAMILIES, ("crop",), ("none",)) if problem in f]
            problem = stream("coding demonstration", task.id).choice(family)
        box = box_in(task.question)
        replies = iter(_replies(problem, task.answers[0], box))
        episode = Episode(task, self._env)
        while (pending := episode.pending) is not None:
            match pending:
                case Prompt():
                    episode.act(Completion(text=next(replies)))
                case ToolCall():
                    episode.observe(self._run(pending, problem, box))
        whole = episode.trajectory
        if problem == task.kind:
            return whole
        return whole.model_copy(
            update={"turns": whole.turns[:-1], "stop_reason": StopReason.MAX_TURNS}
        )

    def _run(self, call: ToolCall, problem: str, box: Box | None) -> ToolResult:
        """What the sandbox would send back: our own repair needs no sandbox, and there are many."""
        pixels = decode(self._images.read(call.images[0]))
        return ToolResult(images=(self._images.add(encode(mended(pixels, problem, box))),))


def mended(pixels: Pixels, problem: str, box: Box | None = None) -> Pixels:
    """What `program(problem)` makes of an image, written as JPEG and read again as it does."""
    scope: dict[str, Any] = {"cv2": cv2, "img": np.ascontiguousarray(pixels[:, :, ::-1])}
    exec(repair(problem, box), scope)  # our own lines, not a model's
    _, data = cv2.imencode(".jpg", scope["img"])
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(read, np.uint8)[:, :, ::-1]


def box_in(question: str) -> Box | None:
    """The box a question names, None where it names none."""
    match = re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", question)
    if match is None:
        return None
    x_min, y_min, x_max, y_max = map(int, match.groups())
    return x_min, y_min, x_max, y_max


def _replies(problem: str, answer: str, box: Box | None) -> list[str]:
    fenced = f"\n```python\n{program(problem, box=box)}\n```\n"
    code = [] if problem == "none" else [wrap("Mend it.", CODE, fenced)]
    named = wrap("Look at it.", PROBLEM, f"{{'{problem}'}}")
    return [named, *code, wrap("Read it.", ANSWER, answer)]


def phrases() -> list[str]:
    """The wording of this task, for a tokenizer to learn from."""
    mend = [WORDING.mend.replace("{problems}", problem) for problem in MENDABLE]
    return [
        TEMPLATE.format(question=QUESTION),
        TEMPLATE.format(question=CROP_QUESTION),
        *(f"<tips>{tip}</tips>" for tip in (*mend, WORDING.crop, WORDING.none)),
        WORDING.processed,
        WORDING.no_image,
        *(
            reply
            for problem in PROBLEMS
            for reply in _replies(problem, "123 456", (0, 123, 333, 456))
        ),
    ]
