"""Whole GRPO steps: ours beside TRL's `GRPOTrainer`, with the same tiny Qwen3-VL and image tools.

Both begin with the same random weights and take turns, a step each, in one process on one thread.
Prompts, pictures, group size, sampled lengths and tool calls are the same. Random weights call no
tools, so both follow a script: a reply's tokens are sampled as ever, control tokens left out, until
what is left of its length just holds the tool call, or the end; those last tokens are put in the
sampled ones' place. Each of them is still computed. Each picture that a tool returns is a new one.
TRL runs with one batch of all rows and with one for each group, and its faster way counts; gradient
checkpointing, which is its default and costs time, is off.

It needs an environment with TRL, which `make .cache/venvs/trl/.ready` sets up:

    .cache/venvs/trl/bin/python benchmarks/vs_trl.py [--steps 5] [--prompts 4] [--text 600]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from itertools import count, cycle
from pathlib import Path
from typing import Any

try:
    import datasets
    import trl
except ModuleNotFoundError:
    sys.exit("TRL is not here: make .cache/venvs/trl/.ready, and use that environment's python")
import numpy as np
import torch
import transformers
from PIL import Image as Pil
from reporting import report
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    TrainerCallback,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_arft.images import MemoryImages, encode
from visual_arft.model.tiny import build_tokenizer
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rewards import Scores
from visual_arft.training.grpo import Game, Grpo
from visual_arft.training.settings import GrpoConfig, OptimizerConfig
from visual_arft.types import Action, Malformed, Message, Prompt, Task, ToolCall, ToolResult, Turn

TEMPLATE = Path(trl.__file__).parent / "chat_templates" / "qwen3_vl.jinja"
CALL = '<tool_call>\n{"name": "zoom", "arguments": {"region": "left"}}\n</tool_call>'
RESULT = "The region, enlarged."
QUESTION = (
    "Look at the picture, zoom where it is hard to read, and say what is written on the sign. "
)
SYSTEM = "You are a careful assistant who looks at pictures."
LR = 1e-6

LONG, SINGLE, TOOL = "3 turns", "1 turn", "a tool of 0.25 s"
OURS = "ours"


@dataclass(frozen=True)
class Shape:
    """What is played in a step."""

    name: str
    turns: int
    """All but the last end with a tool call."""
    prompts: int
    text: int
    """Text tokens of the first prompt; its picture comes on top."""
    side: int
    """Of the prompt's picture in pixels, which is (side / 28) squared tokens."""
    tool_side: int
    """Of the pictures that the tool returns."""
    reply: int
    """Tokens of every reply, its end included."""
    group: int = 8
    tool_wait_s: float = 0.0

    @property
    def rows(self) -> int:
        return self.prompts * self.group


@dataclass(frozen=True)
class Step:
    """What one side did in one step."""

    seconds: float
    cpu_s: float
    sampled: int
    pictures: int
    """That went through the vision tower."""
    tool_s: float
    """From the first tool call's beginning to the last one's end."""


class Meter:
    """Looks at one side from outside."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.prompt = self.episode = 0
        """Tokens of a first prompt, and of a whole episode with its tools' results."""
        self.begin()

    def begin(self) -> None:
        self.sampled = self.pictures = 0
        self.calls: list[tuple[float, float]] = []
        self._since = time.perf_counter(), time.process_time()

    def end(self) -> None:
        wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        starts, ends = zip(*self.calls, strict=True) if self.calls else ([0.0], [0.0])
        tool_s = max(ends) - min(starts)
        self.steps.append(Step(wall, cpu, self.sampled, self.pictures, tool_s))

    def watch(self, model: Any) -> Any:
        """Counts the pictures that go through the model's vision tower."""

        def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self.pictures += len(grid)

        model.model.visual.register_forward_pre_hook(look, with_kwargs=True)
        return model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument(
        "--steps",
        type=int,
        default=5,
        help="measured, after one to warm up; ours has twice as many",
    )
    options.add_argument("--prompts", type=int, default=4, help="of a step, 8 rollouts each")
    options.add_argument("--text", type=int, default=600, help="text tokens of a prompt")
    options.add_argument("--side", type=int, default=728, help="of a prompt's picture, in pixels")
    options.add_argument("--tool-side", type=int, default=168, help="of a tool's picture")
    options.add_argument("--reply", type=int, default=64, help="tokens of a reply")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    full = Shape(LONG, 3, given.prompts, given.text, given.side, given.tool_side, given.reply)
    shapes = [
        full,
        replace(full, name=SINGLE, turns=1),
        replace(full, name=f"{LONG}, small", side=84, tool_side=84),
        replace(full, name=f"{SINGLE}, small", side=84, turns=1),
    ]
    parts = Parts()
    rows = [row for shape in shapes for row in compared(shape, parts, given.steps)]
    waiting = replace(shapes[2], name=TOOL, turns=2, prompts=1, tool_wait_s=0.25)
    rows += compared(waiting, parts, 1)
    conclude(rows)


# What both have in common.


class Parts:
    """Tokenizer, image processor and weights."""

    def __init__(self) -> None:
        template = TEMPLATE.read_text(encoding="utf-8")
        corpus = [CALL, RESULT, QUESTION, SYSTEM, json.dumps(trl_tool_schema()), template]
        self.tokenizer = build_tokenizer(corpus * 20, 480)
        self.tokenizer.chat_template = template
        self.image_processor = Qwen2VLImageProcessorPil(
            size={"shortest_edge": 56 * 56, "longest_edge": 1024 * 1024}, patch_size=14
        )
        self.end: int = self.tokenizer.eos_token_id
        ids = range(len(self.tokenizer))
        self.unsaid = [number for number in ids if "<" in self.tokenizer.decode([number])]
        """Control tokens and pieces of tags, which are not sampled: no reply calls twice."""
        self.call = [*self.tokenizer(CALL, add_special_tokens=False)["input_ids"], self.end]

    def model(self) -> Any:
        """The same random weights each time: 4 layers of 128, a vision tower of 2."""
        special = self.tokenizer.convert_tokens_to_ids
        config = Qwen3VLConfig(
            text_config={
                "vocab_size": len(self.tokenizer),
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 32,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [4, 6, 6],
                },
                "max_position_embeddings": 8192,
                "bos_token_id": None,
                "eos_token_id": self.end,
                "pad_token_id": self.tokenizer.pad_token_id,
                "initializer_range": 0.06,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_heads": 4,
                "out_hidden_size": 128,
                "patch_size": 14,
                "num_position_embeddings": 400,
                "deepstack_visual_indexes": [0, 1],
                "initializer_range": 0.06,
            },
            tie_word_embeddings=True,
            image_token_id=special("<|image_pad|>"),
            video_token_id=special("<|video_pad|>"),
            vision_start_token_id=special("<|vision_start|>"),
            vision_end_token_id=special("<|vision_end|>"),
        )
        torch.manual_seed(0)
        return Qwen3VLForConditionalGeneration(config)

    def system(self, shape: Shape) -> str:
        """The system message, with what TRL's template adds to it for the tool."""
        tools = [trl_tool_schema()] if shape.turns > 1 else None
        messages = [{"role": "system", "content": SYSTEM}]
        text = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        return text.removeprefix("<|im_start|>system\n").removesuffix("<|im_end|>\n")

    def question(self, shape: Shape) -> str:
        """As long as the prompt has to be."""

        def length(text: str) -> int:
            return len(self.tokenizer(f"{self.system(shape)}{text}")["input_ids"]) + 11

        text = QUESTION
        while length(text) < shape.text:
            text += QUESTION
        while length(text) > max(shape.text, length(QUESTION)):
            text = text[:-1]
        return text

    def script(self, shape: Shape, turn: int, place: int) -> int | None:
        """The token that is put at a place of a reply; None where it is sampled."""
        tail = self.call if turn < shape.turns - 1 else [self.end]
        left = place - (shape.reply - len(tail))
        return None if left < 0 else tail[left]


def picture(number: int, side: int) -> np.ndarray:
    """A square of squares, another for each number."""
    colours = np.random.default_rng(number).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((side // 7, side // 7, 1), np.uint8))


def trl_tool_schema() -> dict[str, Any]:
    return transformers.utils.get_json_schema(zoom)


async def zoom(region: str) -> list:
    """
    Enlarge a region of the picture.

    Args:
        region: Which part of the picture to enlarge: left, right, top or bottom.

    Returns:
        The enlarged region as a picture.
    """
    raise NotImplementedError(region)


# Ours.


class ZoomEnv:
    """The rules: every reply that calls the tool gets a picture, any other is the answer."""

    def __init__(self, system: str) -> None:
        self._system = system

    def prompt(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        messages = [
            Message(role="system", text=self._system),
            Message(role="user", text=task.question, images=task.images),
        ]
        for turn in turns:
            reply, result = turn.completion, turn.result
            messages.append(Message(role="assistant", text=reply.text, token_ids=reply.token_ids))
            if result is not None:
                text = f"<tool_response>\n{result.text}\n</tool_response>"
                messages.append(Message(role="user", text=text, images=result.images))
        return Prompt(messages=tuple(messages))

    def parse(self, text: str) -> Action | Malformed:
        return Action(kind="zoom" if CALL in text else "answer", content="left")

    def tool_call(self, task: Task, turns: Sequence[Turn], action: Action) -> ToolCall | None:
        return ToolCall(tool="zoom", arguments={"region": action.content})


class Zoom:
    """The tool."""

    def __init__(self, shape: Shape, meter: Meter, images: MemoryImages) -> None:
        self._shape, self._meter, self._images = shape, meter, images
        self._numbers = count(10**6)

    async def run(self, call: ToolCall) -> ToolResult:
        start = time.perf_counter()
        await asyncio.sleep(self._shape.tool_wait_s)
        image = self._images.add(encode(picture(next(self._numbers), self._shape.tool_side)))
        self._meter.calls.append((start, time.perf_counter()))
        return ToolResult(text=RESULT, images=(image,))


class ScriptedPolicy(TransformersPolicy):
    """Samples as its parent does, and puts the script's tokens where they stand."""

    def __init__(self, vlm: Any, sampling: Sampling, parts: Parts, shape: Shape, meter: Meter):
        super().__init__(vlm, sampling)
        self._script = partial(parts.script, shape)
        self._unsaid = parts.unsaid
        self._meter = meter

    def _draw(self) -> tuple[Tensor, Tensor]:
        scores = self._decoder.log_probabilities(self.sampling.temperature)
        free = scores.exp()
        free[:, self._unsaid] = 0.0
        tokens = torch.multinomial(free, 1, generator=self.generator).squeeze(-1)
        for row, reply in enumerate(self._running):
            forced = self._script(len(reply.encoded.images) - 1, len(reply.ids))
            if forced is not None:
                tokens[row] = forced
        self._meter.sampled += len(tokens)
        return tokens, scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def our_steps(shape: Shape, parts: Parts, meter: Meter, folder: Path) -> Iterator[None]:
    """One step each time it is asked."""
    images = MemoryImages(limit=4096)
    model = meter.watch(parts.model())
    vlm = VisionLanguageModel(model, parts.tokenizer, parts.image_processor, images)
    question, worth = parts.question(shape), cycle(range(shape.group))

    def tasks(start: int, size: int) -> list[Task]:
        return [
            Task(
                id=str(number),
                question=question,
                answers=(),
                images=(images.add(encode(picture(number, shape.side))),),
            )
            for number in range(start, start + size)
        ]

    def score(_: object) -> Scores:
        reward = float(next(worth))
        return Scores(rewards={"worth": reward}, total=reward)

    config = GrpoConfig(
        steps=10**6,
        prompts_per_step=shape.prompts,
        group_size=shape.group,
        kl_coef=0.0,
        max_turns=shape.turns,
        max_new_tokens=shape.reply + 1,
        optimizer=OptimizerConfig(lr=LR),
        checkpoint_every=10**6,
    )
    game = Game(ZoomEnv(parts.system(shape)), {"zoom": Zoom(shape, meter, images)}, tasks, score)
    run = Grpo(vlm, game, config, seed=0, folder=folder)
    sampling = Sampling(temperature=1.0, max_new_tokens=shape.reply + 1, seed=0)
    # Random weights have to be led; a run has no other use for a policy that is not its own.
    run._policy = ScriptedPolicy(vlm, sampling, parts, shape, meter)
    rounds = run.rounds()
    while True:
        meter.begin()
        done = next(rounds)
        meter.end()
        first, last = (done.trajectories[0].turns[turn].completion for turn in (0, -1))
        meter.prompt = len(first.prompt_ids or ())
        meter.episode = len(last.prompt_ids or ()) + len(last.token_ids or ())
        yield


# TRL.


class Processor(Qwen3VLProcessor):
    """Without videos, whose processor needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class Scripted(LogitsProcessor):
    """Leaves the script's token alone where there is one, and else all but control tokens."""

    def __init__(self, parts: Parts, shape: Shape, turn: int, meter: Meter) -> None:
        self._script = partial(parts.script, shape, turn)
        self._unsaid, self._meter = parts.unsaid, meter
        self._places = count()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._meter.sampled += len(scores)
        forced = self._script(next(self._places))
        if forced is None:
            scores[:, self._unsaid] = float("-inf")
            return scores
        return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([forced]), 0.0)


class Between(TrainerCallback):
    """Measures a step, and lets the other side take one before the next."""

    def __init__(self, meter: Meter, other: Callable[[], object]) -> None:
        self._meter, self._other = meter, other

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._meter.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._meter.end()
        self._other()
        self._meter.begin()


def trl_trainer(
    shape: Shape, parts: Parts, meter: Meter, steps: int, batch: int, folder: Path
) -> Any:
    """A trainer that takes `steps` updates, with batches of `batch` rows."""
    model = meter.watch(parts.model())
    turns = cycle(range(shape.turns))
    generate, numbers = model.generate, count(2 * 10**6)

    def scripted(**inputs: Any) -> Any:
        script = Scripted(parts, shape, turn := next(turns), meter)
        if turn == 0:
            meter.prompt = inputs["input_ids"].shape[1]
        return generate(**inputs, logits_processor=LogitsProcessorList([script]))

    model.generate = scripted

    @wraps(zoom)
    async def zoomed(region: str) -> list:
        start = time.perf_counter()
        await asyncio.sleep(shape.tool_wait_s)
        image = Pil.fromarray(picture(next(numbers), shape.tool_side))
        meter.calls.append((start, time.perf_counter()))
        return [{"type": "image", "image": image}, {"type": "text", "text": RESULT}]

    def worth(completions: list, completion_ids: list, **_: Any) -> list[float]:
        meter.episode = meter.prompt + len(completion_ids[0])
        return [float(number % shape.group) for number in range(len(completions))]

    question, total = parts.question(shape), (steps + 1) * shape.prompts
    prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    pictures = [Pil.fromarray(picture(number, shape.side)) for number in range(total)]
    settings = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        shuffle_dataset=False,
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=shape.rows // batch,
        num_generations=shape.group,
        max_completion_length=2048,
        learning_rate=LR,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta2=0.99,
        beta=0.0,
        loss_type="dapo",
        temperature=1.0,
    )
    processor = Processor(parts.image_processor, parts.tokenizer, parts.tokenizer.chat_template)
    return trl.GRPOTrainer(
        model,
        reward_funcs=worth,
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": [prompt] * total, "image": pictures}),
        processing_class=processor,
        tools=[zoomed] if shape.turns > 1 else None,
    )


# The measurement.


def compared(shape: Shape, parts: Parts, steps: int) -> list[dict[str, Any]]:
    """Rows of the table: ours, and TRL's with either batch, which took turns with ours."""
    ours = Meter()
    theirs: dict[str, Meter] = {}
    with tempfile.TemporaryDirectory() as folder:
        our_step = our_steps(shape, parts, ours, Path(folder))
        for batch in sorted({shape.rows, shape.group}):
            meter = theirs[f"TRL, {batch} rows a batch"] = Meter()
            trainer = trl_trainer(shape, parts, meter, 1 + steps, batch, Path(folder))
            trainer.add_callback(Between(meter, partial(next, our_step)))
            with contextlib.redirect_stdout(io.StringIO()):  # where it prints its last numbers
                trainer.train()
            print(shape.name, batch, [round(step.seconds, 1) for step in meter.steps], flush=True)
    print(shape.name, OURS, [round(step.seconds, 1) for step in ours.steps], flush=True)
    rows = [row(shape, OURS, ours), *(row(shape, *each) for each in theirs.items())]
    for each in rows:
        each["ours_faster"] = round(each["s_per_step"] / rows[0]["s_per_step"], 2)
        each["by_cpu"] = round(each["cpu_s"] / rows[0]["cpu_s"], 2)
    return rows


def row(shape: Shape, side: str, meter: Meter) -> dict[str, Any]:
    steps = meter.steps[1:]
    seconds = statistics.median(step.seconds for step in steps)
    return {
        "shape": shape.name,
        "side": side,
        "rollouts": shape.rows,
        "prompt": meter.prompt,
        "episode": meter.episode,
        "steps": len(steps),
        "s_per_step": round(seconds, 2),
        "cpu_s": round(statistics.median(step.cpu_s for step in steps), 2),
        "sampled": steps[-1].sampled,
        "sampled_per_s": round(steps[-1].sampled / seconds, 1),
        "pictures": steps[-1].pictures,
        "tool_s": round(steps[-1].tool_s, 2) if shape.tool_wait_s else None,
    }


def conclude(rows: list[dict[str, Any]]) -> None:
    def all_of(shape: str, value: str) -> list[float]:
        return [each[value] for each in rows if each["shape"] == shape]

    wanted = [
        (
            f"{LONG}: TRL's seconds per step over ours",
            min(all_of(LONG, "ours_faster")[1:]),
            ">=",
            4.0,
        ),
        (f"{SINGLE}: TRL's over ours", min(all_of(SINGLE, "ours_faster")[1:]), ">=", 2.5),
        (f"{TOOL}, 8 rollouts: ours, seconds", all_of(TOOL, "tool_s")[0], "<", 0.5),
        *(
            (f"{shape}: tokens sampled by TRL for each of ours", sampled[1] / sampled[0], "=", 1.0)
            for shape in (LONG, SINGLE)
            if (sampled := all_of(shape, "sampled"))
        ),
    ]
    versions = {each.__name__: each.__version__ for each in (torch, transformers, trl)}
    title = "GRPO steps of a tiny Qwen3-VL; prompts, episodes in tokens"
    report("vs_trl", title, rows, wanted, versions=versions)


if __name__ == "__main__":
    main()
