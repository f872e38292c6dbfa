"""Items a second of a benchmark: ours beside one question at a time with `model.generate`.

mini-MAT-Coding as `arft bench` plays it: whole episodes, the model's code really run, greedily, on
one thread of the CPU. The plain way is the authors': one item after the other, the whole prompt
computed anew at each turn and every image processed and encoded again; rules, weights, token ids
and sandbox are the same. Without `--model` it is what the demo has trained in runs/demo, or else
the tiny base after some minutes of the demo's cold start, which is kept beside the results.

    python benchmarks/bench_throughput.py [--items 200] [--model runs/demo] [--steps 240]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from reporting import report

from visual_arft.bench.run import Play as Rules
from visual_arft.bench.run import run_suite
from visual_arft.config import RECIPES, load_recipe
from visual_arft.episode import Episode
from visual_arft.experiment.models import COLD_START
from visual_arft.experiment.player import Player, find_player
from visual_arft.experiment.rules import python_tools
from visual_arft.experiment.talk import Talk
from visual_arft.experiment.training import Run
from visual_arft.images import MemoryImages, decode
from visual_arft.model.load import load
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.rollout import play, play_freely
from visual_arft.sandbox import Sandbox
from visual_arft.store import Store
from visual_arft.synth.coding import MiniMatCoding
from visual_arft.synth.splits import TEST
from visual_arft.types import Completion, Prompt, Task, Trajectory

OUT = Path(__file__).parent / "out" / "bench_throughput.json"
DEMO = Path("runs/demo")
TARGET = 6

Play = Callable[[Sequence[Task]], list[Trajectory]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--items", type=int, default=200)
    options.add_argument("--model", type=Path, help="a run, or a model inside one")
    options.add_argument("--steps", type=int, default=240, help="of a cold start, where it is due")
    given = options.parse_args()
    torch.set_num_threads(1)  # for both; the sandbox has the other core
    with Sandbox(workers=2) as sandbox:
        model = given.model or demo_model() or cold_started(given.steps, sandbox)
        player = find_player(str(model), "coding")
        images = MemoryImages()
        vlm = load(player.model, images)
        tasks = MiniMatCoding(TEST, 0, images)(0, given.items)
        rows, played = [], {}
        for way, make in WAYS.items():
            play_tasks = make(vlm, player, sandbox)
            play_tasks(MiniMatCoding(TEST, 1, images)(0, 2))  # what is set up once
            rows.append(measured(way, play_tasks, tasks, played))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    conclude(rows, played, len(tasks))


def demo_model() -> Path | None:
    return DEMO if (DEMO / "coding" / "model").is_dir() else None


def cold_started(steps: int, sandbox: Sandbox) -> Path:
    """The tiny base after some of the demo's cold start, which knows how to play."""
    run = OUT.parent / f"throughput-cold-start-{steps}"
    wanted = (f"cold_start.steps={steps}", "cold_start.autocast=false", "grpo.steps=0")
    recipe = load_recipe(RECIPES / "demo-coding.toml", wanted)
    Run(recipe, run, sandbox, Talk()).cold_start()
    return run / COLD_START


# The ways to play.


def ours(vlm: VisionLanguageModel, player: Player, sandbox: Sandbox) -> Play:
    def play_tasks(tasks: Sequence[Task]) -> list[Trajectory]:
        how = Rules(
            player.rules("agent"),
            python_tools(sandbox, player.context, vlm.images),
            max_turns=player.max_turns,
            batch_size=player.batch_size,
        )
        policy = partial(TransformersPolicy, vlm, greedy(player))
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(run_suite(tasks, how, policy, Store(Path(folder))))

    return play_tasks


def free(vlm: VisionLanguageModel, player: Player, sandbox: Sandbox) -> Play:
    """Each episode runs ahead as it can, as many at a time as a batch of `arft bench` has."""

    def play_tasks(tasks: Sequence[Task]) -> list[Trajectory]:
        policy = TransformersPolicy(vlm, greedy(player))
        tools = python_tools(sandbox, player.context, vlm.images)
        return asyncio.run(
            play_freely(
                [episode_of(task, player) for task in tasks],
                policy,
                tools,
                concurrency=player.batch_size,
            )
        )

    return play_tasks


def plain(vlm: VisionLanguageModel, player: Player, sandbox: Sandbox) -> Play:
    policy = OneByOne(vlm, greedy(player))
    tools = python_tools(sandbox, player.context, vlm.images)

    def play_tasks(tasks: Sequence[Task]) -> list[Trajectory]:
        played = []
        for task in tasks:
            played += asyncio.run(play([episode_of(task, player)], policy, tools))
        return played

    return play_tasks


class OneByOne:
    """The authors' way: each prompt by itself, from its first token and its images' pixels on."""

    def __init__(self, vlm: VisionLanguageModel, sampling: Sampling) -> None:
        self.vlm = vlm
        self.sampling = sampling

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return [self._one(prompt) for prompt in prompts]

    @torch.no_grad()
    def _one(self, prompt: Prompt) -> Completion:
        encoded = self.vlm.chat.encode(prompt)
        ids = torch.tensor([encoded.ids], device=self.vlm.device)
        pictures = self.vlm.image_processor(
            images=[decode(self.vlm.images.read(image)) for image in encoded.images],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        output = self.vlm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self.vlm.chat.image_token_id).int(),
            **pictures.to(self.vlm.device),
            do_sample=False,
            max_new_tokens=self.sampling.max_new_tokens,
            suppress_tokens=self.vlm.chat.banned_ids,
        )
        reply = output[0, len(encoded.ids) :].tolist()
        return Completion(
            text=self.vlm.chat.decode(reply),
            prompt_ids=encoded.ids,
            token_ids=tuple(reply),
            finish_reason="stop" if reply[-1] in self.vlm.chat.end_ids else "length",
        )


def episode_of(task: Task, player: Player) -> Episode:
    return Episode(task, player.rules("agent"), max_turns=player.max_turns)


def greedy(player: Player) -> Sampling:
    return Sampling(temperature=0, max_new_tokens=player.max_new_tokens)


OURS, FREE, PLAIN = "ours, as arft bench", "ours, free-running", "model.generate, one by one"
WAYS = {OURS: ours, FREE: free, PLAIN: plain}


# The measurement.


def measured(
    way: str, play_tasks: Play, tasks: Sequence[Task], played: dict[str, list[Trajectory]]
) -> dict[str, object]:
    cpu, start = time.process_time(), time.perf_counter()
    played[way] = play_tasks(tasks)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    turns = [turn for each in played[way] for turn in each.turns]
    first = [len(each.turns[0].completion.prompt_ids or ()) for each in played[way]]
    prompts = [len(turn.completion.prompt_ids or ()) for turn in turns]
    sampled = sum(len(turn.completion.token_ids or ()) for turn in turns)
    answers = zip(tasks, played[way], strict=True)
    return {
        "way": way,
        "items": len(tasks),
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "items_per_s": round(len(tasks) / seconds, 2),
        "tokens_per_s": round(sampled / seconds, 1),
        "first_prompt": round(statistics.mean(first), 1),
        "longest_prompt": max(prompts),
        "turns": round(len(turns) / len(tasks), 2),
        "tool_calls": sum(turn.result is not None for turn in turns),
        "em": round(100 * sum(p.answer in t.answers for t, p in answers) / len(tasks), 1),
    }


def conclude(rows: list[dict], played: dict[str, list[Trajectory]], items: int) -> None:
    seconds = {row["way"]: row["seconds"] for row in rows}
    wanted = [
        (
            f"items a second, {OURS}, over one by one",
            seconds[PLAIN] / seconds[OURS],
            ">=",
            TARGET,
        ),
        *(
            (
                f"items with the same replies and answer, {way}",
                same(played[way], played[PLAIN]),
                ">=",
                items,
            )
            for way in (OURS, FREE)
        ),
    ]
    report("bench_throughput", "mini-MAT-Coding, greedy; prompts in tokens", rows, wanted)


def same(some: Sequence[Trajectory], others: Sequence[Trajectory]) -> int:
    """How many items were played with the very same sampled tokens, to the same end."""
    pairs = zip(some, others, strict=True)
    return sum(outcome(one) == outcome(other) for one, other in pairs)


def outcome(trajectory: Trajectory) -> tuple[object, ...]:
    ids = tuple(turn.completion.token_ids for turn in trajectory.turns)
    return trajectory.stop_reason, trajectory.answer, ids


if __name__ == "__main__":
    main()
