"""MAT-Coding as lmms-eval plays it: after each reply it asks what the model sees next."""

from __future__ import annotations

import asyncio
import atexit
import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from visual_arft.bench.run import by_id
from visual_arft.bench.settings import BenchConfig
from visual_arft.envs.search.recording import Desk
from visual_arft.episode import Episode
from visual_arft.experiment.benchmark import play_of, player_of, suite_tasks, suite_tools
from visual_arft.images import MemoryImages
from visual_arft.metrics import em, f1
from visual_arft.types import Completion, Prompt, ToolCall, Trajectory

CONFIG = BenchConfig(suite="mat-coding", model="what lmms-eval asks", data=Path("MAT-Coding.json"))

images, opened = MemoryImages(), ExitStack()
atexit.register(opened.close)
tasks = by_id(suite_tasks(CONFIG.suite, CONFIG.data, images))
player = player_of(CONFIG)
play = play_of(CONFIG, player, suite_tools(CONFIG, player, Desk(), images, opened))


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The pictures of the first prompt."""
    return _pictures(play.episode(tasks[str(doc["id"])]))


def doc_to_text(
    doc: dict[str, Any],
    previous_output: list[str] | None = None,
    round_idx: int = 0,
    previous_round_info: Episode | None = None,
    **_: Any,
) -> Any:
    """The first prompt or, after a reply, what comes next; at the end, the whole episode."""
    episode = previous_round_info or play.episode(tasks[str(doc["id"])])
    if previous_output is None:
        return _text(episode)
    episode.act(Completion(text=previous_output[-1]))
    while isinstance(call := episode.pending, ToolCall):
        episode.observe(asyncio.run(play.tools[call.tool].run(call)))
    if episode.pending is None:
        return None, None, True, [episode.trajectory.model_dump_json()], None
    return _pictures(episode), _text(episode), False, None, episode


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The paper's scores."""
    answer = Trajectory.model_validate_json(results[0]).answer
    return {"em": em(answer, doc["answers"], cjk=True), "f1": f1(answer, doc["answers"], cjk=True)}


def _text(episode: Episode) -> str:
    assert isinstance(episode.pending, Prompt)
    return episode.pending.messages[-1].text


def _pictures(episode: Episode) -> list[Image.Image]:
    assert isinstance(episode.pending, Prompt)
    return [Image.open(io.BytesIO(images.read(image))) for image in episode.pending.images]
