"""The benchmark's own cases through the coding environment, with code that a good agent writes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from visual_arft import tags
from visual_arft.cli import main
from visual_arft.envs.coding.data import load_mat_coding
from visual_arft.envs.coding.grammar import fenced, problem_set
from visual_arft.envs.coding.repairs import program
from visual_arft.images import MemoryImages, Pixels, decode
from visual_arft.store import Store
from visual_arft.types import Task

REFERENCE = Path(
    os.environ.get("ARFT_REFERENCE", Path(__file__).parents[2] / ".." / "shared" / "reference")
)
CASES = REFERENCE / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the benchmark's published cases")


def replies(task: Task) -> list[str]:
    """What a good agent says to a case: the problem, code unless there is none, the answer."""
    problems = task.kind.split("+")
    code = program(*problems, box=box_of(task.question))
    steps = [("problem", problem_set(tuple(problems))), ("code", fenced(code))]
    if problems == ["none"]:
        steps.pop()
    return [tags.wrap("I look.", *step) for step in [*steps, ("answer", task.answers[0])]]


def box_of(question: str) -> tuple[int, int, int, int] | None:
    """The box in a question, in thousandths."""
    found = re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", question)
    return (int(found[1]), int(found[2]), int(found[3]), int(found[4])) if found else None


def script() -> dict[str, str]:
    """A file of replies for the engine `scripted`: what was said before, and what comes then."""
    said: dict[str, str] = {}
    for task in load_mat_coding(CASES, MemoryImages()):
        before = f"<query>{task.question}</query>"
        for reply in replies(task):
            said = {before: reply, **said}  # later steps first: the first that occurs is given
            before = reply if "<code>" in reply else f"{before}\n{reply}"
    return said


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Pixels, Pixels]]:
    """The image that each case starts from, and the one that its answer is read from."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "script.json").write_text(json.dumps(script()))
    line = f"bench mat-coding --data {CASES} --engine scripted --model {folder / 'script.json'}"
    result = CliRunner().invoke(main, [*line.split(), "--out", str(folder / "run"), "--json"])
    assert result.exit_code == 0, result.stderr
    overall = json.loads(result.stdout)["overall"]["paper"]
    assert (overall["n"], overall["em"], overall["f1"]) == (6, 100.0, 100.0)
    store = Store(folder / "run")
    seen = {}
    for entry in store:
        task, turns = entry.trajectory.task, entry.trajectory.turns
        [last] = turns[-1].prompt.images
        pixels = [decode(store.images.read(image)) for image in (task.images[0], last)]
        seen[f"{task.kind} {task.id}"] = (pixels[0], pixels[1])
    return seen


def test_all_six_cases_are_played_to_their_answer(processed: dict[str, tuple[Pixels, Pixels]]):
    assert sorted(processed) == [
        "crop 119",
        "crop 124",
        "dark 22",
        "none 63",
        "rotation180 12",
        "rotation90+dark 71",
    ]


def test_a_case_without_a_problem_keeps_its_image(processed: dict[str, tuple[Pixels, Pixels]]):
    start, end = processed["none 63"]
    np.testing.assert_array_equal(start, end)


def test_a_turn_is_undone(processed: dict[str, tuple[Pixels, Pixels]]):
    start, end = processed["rotation180 12"]
    assert np.abs(end[::-1, ::-1].astype(int) - start).mean() < 2  # JPEG


def test_a_dark_page_gets_light_again(processed: dict[str, tuple[Pixels, Pixels]]):
    start, end = processed["dark 22"]
    assert start.max() < 64
    assert np.median(end) > 150


def test_a_dark_page_on_its_side_is_turned_and_lightened(
    processed: dict[str, tuple[Pixels, Pixels]],
):
    start, end = processed["rotation90+dark 71"]
    assert end.shape == (start.shape[1], start.shape[0], 3)
    # Its top left corner lay at the bottom left: a quarter turn clockwise brings it up.
    expected = np.clip(np.rot90(start, -1).astype(int) * 4, 0, 255)
    assert np.abs(end - expected).mean() < 3


@pytest.mark.parametrize(
    ("case", "box"), [("crop 119", (366, 723, 506, 851)), ("crop 124", (489, 155, 595, 259))]
)
def test_a_crop_shows_the_box(
    processed: dict[str, tuple[Pixels, Pixels]], case: str, box: tuple[int, int, int, int]
):
    start, end = processed[case]
    height, width, _ = start.shape
    left, right = (x * width // 1000 for x in box[0::2])
    top, bottom = (y * height // 1000 for y in box[1::2])
    assert np.abs(end.astype(int) - start[top:bottom, left:right]).mean() < 8  # JPEG
