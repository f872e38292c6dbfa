"""Seconds, tokens, images and memory of a GRPO update: prefix tree beside padded rows and TRL.

The same recorded groups go through each way, forward and backward, on one thread of the CPU and in
one run; loss and gradient are compared on the way. The episodes are played by the package's own
environments, with replies of random words, on the embedded base with room for larger images.
Padded is the better of one batch and one batch for each group, every distinct picture of a batch
encoded once. TRL is `GRPOTrainer`'s own scoring and loss, one batch for each group; it is left out
where it is not installed, so run this with the python that `make .cache/venvs/trl/.ready` makes.
It takes half an hour and more, and up to 14 GB, most of both for padded rows in groups of 16.

    python benchmarks/train_step.py [--groups 2] [--sizes 4,8,16] [--repeats 2]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from reporting import Wanted, report
from rich.console import Console
from rich.progress import track
from torch.profiler import ProfilerActivity, profile

from visual_arft.envs.coding.env import PYTHON, CodingEnv
from visual_arft.envs.search.env import SearchEnv
from visual_arft.episode import Env, Episode
from visual_arft.images import MemoryImages, encode
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.rollout import play
from visual_arft.training.learner import Learner
from visual_arft.training.loss import grpo_loss
from visual_arft.training.segments import Row, rows, segments
from visual_arft.training.settings import GrpoConfig
from visual_arft.training.tree import trees
from visual_arft.training.updates import logprobs_of, prepare
from visual_arft.types import Completion, Image, Prompt, Task, ToolCall, ToolResult

WORDS = "the sign is dark so I turn it and look again at its left corner where red letters stand"

Group = Sequence[Row]
Way = Callable[[VisionLanguageModel, Sequence[Group]], float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--groups", type=int, default=2)
    options.add_argument("--sizes", default="4,8,16", help="rollouts in a group")
    options.add_argument("--repeats", type=int, default=2)
    given = options.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    torch.set_num_threads(1)
    vlm = roomy(load(ModelConfig(), MemoryImages()))
    folder = tempfile.TemporaryDirectory()
    if find_spec("trl"):
        WAYS[TRL] = trl_way(folder.name)
        vlm._banned = vlm._banned[:0]  # TRL takes no control token from the softmax
    else:
        print("TRL is not installed here and is left out", file=sys.stderr)
    WAYS[TREE] = tree
    cases = [(shape, size) for shape in SHAPES for size in sizes]
    found = [
        measured(vlm, shape, size, given.groups, given.repeats)
        for shape, size in track(cases, "updates", console=Console(stderr=True))
    ]
    rows = [row for case in found for row in case]
    title = "One update; seconds of CPU time, memory beyond weights"
    report("train_step", title, rows, list(wanted(rows)))


def roomy(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Images keep their size up to 560 x 560, as for a large model; the base scales all to 84."""
    vlm.image_processor.size = type(vlm.image_processor.size)(
        shortest_edge=56 * 56, longest_edge=560 * 560
    )
    return vlm


# The groups: episodes as the environments tell them, replies of random words.


class Babbler:
    """A policy whose replies do what is due at each turn, after thoughts of random words."""

    def __init__(self, vlm: VisionLanguageModel, acts: Sequence[str], seed: int) -> None:
        self.vlm = vlm
        self.acts = acts
        self.turn = 0
        self.random = random.Random(seed)

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        act = self.acts[self.turn]
        self.turn += 1
        return [self._one(prompt, act) for prompt in prompts]

    def _one(self, prompt: Prompt, act: str) -> Completion:
        words = self.random.choices(WORDS.split(), k=self.random.randint(8, 20))
        text = f"<think>{' '.join(words)}</think>{act}"
        ids = (*self.vlm.chat.tokenize(text), self.vlm.tokenizer.eos_token_id)
        return Completion(
            text=text,
            prompt_ids=self.vlm.chat.encode(prompt).ids,
            token_ids=ids,
            logprobs=(0.0,) * len(ids),
        )


class Cropper:
    """Each call gives another part of a picture of noise: every rollout sees images of its own."""

    def __init__(self, images: MemoryImages) -> None:
        self.images = images
        self.calls = 0

    async def run(self, call: ToolCall) -> ToolResult:
        self.calls += 1
        return ToolResult(images=(noise(self.images, -self.calls, 224),))


class Passages:
    """Three passages of random words."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    async def run(self, call: ToolCall) -> ToolResult:
        passages = [" ".join(self.random.choices(WORDS.split(), k=8)) for _ in range(3)]
        return ToolResult(text="\n".join(f"{n}. Content:{p}" for n, p in enumerate(passages, 1)))


def noise(images: MemoryImages, seed: int, side: int) -> Image:
    pixels = np.random.default_rng(abs(seed)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return images.add(encode(pixels))


CODE = "<code>\n```python\nimage = image[{y}:, {x}:]\n```\n</code>"
PROBLEM, ANSWER = "<problem>{'crop'}</problem>", "<answer> a red sign </answer>"
QUERY = "<search> who made the red sign </search>"


@dataclass(frozen=True)
class Shape:
    name: str
    env: Env
    acts: Sequence[str]
    prefix: int = 0
    """Turns of the task's own, which are told and not learned."""


APPEND = "append, 4 turns, 2 tool images"
SHAPES = [
    Shape("step task", CodingEnv("retell"), [PROBLEM, CODE], prefix=1),
    Shape(APPEND, CodingEnv("append"), [PROBLEM, CODE, CODE, ANSWER]),
    Shape("retell search, 4 turns", SearchEnv("retell"), [QUERY, QUERY, QUERY, ANSWER]),
]


def recorded(vlm: VisionLanguageModel, shape: Shape, size: int, groups: int) -> list[Group]:
    """Rows of each group, with the log-probabilities of a policy that has not moved."""
    tools = {PYTHON: Cropper(vlm.images), "search": Passages()}
    found = []
    for number in range(groups):
        question = " ".join(random.Random(number).choices(WORDS.split(), k=60))
        picture = noise(vlm.images, number, 560)
        task = Task(id=f"{number}", question=question, answers=(), images=(picture,))
        if shape.prefix:
            policy = Babbler(vlm, shape.acts[: shape.prefix], seed=number)
            start = Episode(task, shape.env, max_turns=shape.prefix)
            [shown] = asyncio.run(play([start], policy, tools))
            task = task.model_copy(update={"prefix": shown.turns})
        acts = shape.acts[shape.prefix :]
        episodes = [Episode(task, shape.env, max_turns=len(acts)) for _ in range(size)]
        policy = Babbler(vlm, acts, seed=groups + number)
        played = asyncio.run(play(episodes, policy, tools))
        found.append(
            [
                scored(vlm, row)
                for mate, each in enumerate(played)
                for row in rows(segments(each, advantage=(-1) ** mate * (1 + mate / size)))
            ]
        )
    return found


@torch.no_grad()
def scored(vlm: VisionLanguageModel, row: Row) -> Row:
    batch, inputs = prepare(vlm, [row])
    return replace(row, old_logprobs=tuple(logprobs_of(vlm, batch, inputs, 1.0)[0].tolist()))


# The ways to compute an update.


def padded(vlm: VisionLanguageModel, parts: Sequence[Group]) -> float:
    total = sum(sum(row.mask) for part in parts for row in part)
    sums = 0.0
    for part in parts:
        batch, inputs = prepare(vlm, part)
        loss = grpo_loss(
            logprobs_of(vlm, batch, inputs, 1.0), batch.old_logprobs, None, batch.advantages,
            batch.mask, clip_range=0.2, kl_coef=0.0, reduction="token", total=total,
        )  # fmt: skip
        loss.backward()
        sums += loss.item()
    return sums


def one_batch(vlm: VisionLanguageModel, groups: Sequence[Group]) -> float:
    return padded(vlm, [[row for group in groups for row in group]])


def by_group(vlm: VisionLanguageModel, groups: Sequence[Group]) -> float:
    return padded(vlm, groups)


def tree(vlm: VisionLanguageModel, groups: Sequence[Group]) -> float:
    """As in training, a pack for about each group."""
    token = vlm.chat.image_token_id
    budget = max(len(trees(group, token, 2**30)[0].ids) for group in groups)
    config = GrpoConfig.model_validate({"kl_coef": 0, "tree": {"pack_tokens": budget}})
    return Learner(vlm, config).add_gradients([row for group in groups for row in group])["loss"]


def trl_way(folder: str) -> Way:
    """TRL's trainer, standing before the loss of a round."""
    from datasets import Dataset
    from trl import GRPOConfig as TrlConfig
    from trl import GRPOTrainer

    @cache
    def trainer_of(vlm: VisionLanguageModel) -> GRPOTrainer:
        settings = TrlConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], beta=0.0, num_generations=2,
            per_device_train_batch_size=2, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            vlm.model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": "?"}] * 2),
            processing_class=vlm.tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    def by_trl(vlm: VisionLanguageModel, groups: Sequence[Group]) -> float:
        trainer = trainer_of(vlm)
        total = sum(sum(row.mask) for group in groups for row in group)
        sums = 0.0
        for group in groups:
            loss = trainer._compute_loss(vlm.model, trl_inputs(vlm, group, total))
            loss.backward()
            sums += loss.item()
        return sums

    return by_trl


def trl_inputs(vlm: VisionLanguageModel, group: Group, total: int) -> dict[str, object]:
    """Rows as TRL lays them out: prompts end, and completions begin, at the same column."""
    starts = [row.mask.index(True) for row in group]
    before = max(starts)
    after = max(len(row.ids) - start for row, start in zip(group, starts, strict=True))
    ids, mask, tools = torch.zeros(3, len(group), before + after, dtype=torch.long)
    old = torch.zeros(len(group), before + after)
    for number, (row, start) in enumerate(zip(group, starts, strict=True)):
        place = slice(before - start, before - start + len(row.ids))
        ids[number, place], mask[number, place] = torch.tensor(row.ids), 1
        tools[number, place] = torch.tensor(row.mask).long()
        old[number, place] = torch.tensor(row.old_logprobs)
    pixels = [vlm.pixels(image) for row in group for image in row.images]
    return {
        "prompt_ids": ids[:, :before],
        "prompt_mask": mask[:, :before],
        "completion_ids": ids[:, before:],
        "completion_mask": mask[:, before:],
        "tool_mask": tools[:, before:],
        "mm_token_type_ids": (ids == vlm.chat.image_token_id).long(),
        "pixel_values": torch.cat([patches for patches, _ in pixels]),
        "image_grid_thw": torch.stack([grid for _, grid in pixels]),
        "num_images": [len(row.images) for row in group],
        "advantages": torch.tensor([row.advantage for row in group]),
        "old_per_token_logps": old[:, before:],
        "num_items_in_batch": torch.tensor(total),
    }


ONE_BATCH, BY_GROUP, TRL, TREE = "padded, one batch", "padded, by group", "TRL", "tree"
WAYS: dict[str, Way] = {ONE_BATCH: one_batch, BY_GROUP: by_group}
PADDED = (ONE_BATCH, BY_GROUP)


# The measurement.


@dataclass
class Counts:
    tokens: int = 0
    """Filling included."""
    images: int = 0


@contextmanager
def counting(vlm: VisionLanguageModel) -> Iterator[Counts]:
    counts = Counts()

    def language(module: object, args: tuple, kwargs: dict) -> None:
        counts.tokens += kwargs["inputs_embeds"].shape[:2].numel()

    def vision(module: object, args: tuple, kwargs: dict) -> None:
        counts.images += len(kwargs["grid_thw"])

    model = vlm.core.model
    hooks = [
        model.language_model.register_forward_pre_hook(language, with_kwargs=True),
        model.visual.register_forward_pre_hook(vision, with_kwargs=True),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that torch held at once beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def gradient(vlm: VisionLanguageModel) -> torch.Tensor:
    """Of all weights; they stay allocated, so that they do not count as an update's memory."""
    found = torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])
    vlm.model.zero_grad(set_to_none=False)
    return found


def measured(
    vlm: VisionLanguageModel, shape: Shape, size: int, groups: int, repeats: int
) -> list[dict]:
    given = recorded(vlm, shape, size, groups)
    seconds: dict[str, list[float]] = defaultdict(list)
    counts, losses, gradients, peaks = {}, {}, {}, {}

    def run(name: str) -> None:
        with counting(vlm) as counts[name]:
            start = time.process_time()
            losses[name] = WAYS[name](vlm, given)
            seconds[name].append(time.process_time() - start)
        gradients[name] = gradient(vlm)

    for name in WAYS:
        run(name)  # to warm up, and to see which padding is better
    better = min(PADDED, key=lambda name: seconds[name][0])
    timed = [name for name in WAYS if name not in PADDED or name == better]
    for name in timed:
        seconds[name].clear()
    for _ in range(repeats):
        for name in timed:
            run(name)
    for name in timed:
        peaks[name] = peak_bytes(lambda name=name: WAYS[name](vlm, given))
        vlm.model.zero_grad(set_to_none=False)
    truth = gradients[better]
    return [
        {
            "shape": shape.name,
            "G": size,
            "prompt": min(row.mask.index(True) for group in given for row in group),
            "way": name,
            "tokens": counts[name].tokens,
            "images": counts[name].images,
            "seconds": round(statistics.median(seconds[name]), 3),
            "peak_mb": round(peaks[name] / 2**20, 1) if name in peaks else None,
            "loss": round(losses[name], 6),
            "gradient_off": float(f"{(gradients[name] - truth).norm() / truth.norm():.1e}"),
            "is_better_padding": name == better,
        }
        for name in WAYS
    ]


def wanted(found: Sequence[dict]) -> Iterator[Wanted]:
    cases = {(row["shape"], row["G"]): {} for row in found}
    for row in found:
        cases[row["shape"], row["G"]]["padded" if row["is_better_padding"] else row["way"]] = row
    for (shape, size), ways in cases.items():
        padded, tree = ways["padded"], ways[TREE]
        faster = padded["seconds"] / tree["seconds"]
        is_main = shape == APPEND and size == 8
        case = f"{shape}, G = {size}"
        yield f"{case}: times faster than padded", faster, ">=", 2.3 if is_main else 1.0
        if TRL in ways:
            over = ways[TRL]["seconds"] / tree["seconds"]
            yield f"{case}: times faster than TRL", over, ">=", 1.0
        if is_main:
            share = faster * tree["tokens"] / padded["tokens"]
            yield f"{case}: share of the ratio of tokens", share, ">=", 0.85
        memory = tree["peak_mb"] / padded["peak_mb"]
        yield f"{case}: memory of padded", memory, "<=", 0.5 if size >= 8 else 1.0


if __name__ == "__main__":
    main()
