from __future__ import annotations

import asyncio

from tiny_vlm import ask, picture
from visual_arft.experiment.controls import Swapped, Unchanged, swapped_pictures
from visual_arft.images import MemoryImages
from visual_arft.types import (
    Action,
    Completion,
    Image,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)

IMAGES = MemoryImages()
TASKS = [Task(id=str(n), question="?", answers=(), images=(picture(IMAGES, n),)) for n in range(5)]
MADE = [picture(IMAGES, 10 + n) for n in range(5)]


def played(task: Task, *made: Image, stop: StopReason = StopReason.ANSWERED) -> Trajectory:
    turns = [
        Turn(
            prompt=ask("?"),
            completion=Completion(text=""),
            action=Action(kind="code", content=""),
            result=ToolResult(images=(image,)),
        )
        for image in made
    ]
    return Trajectory(task=task, turns=tuple(turns), stop_reason=stop)


def call(*images: Image) -> ToolCall:
    return ToolCall(tool="python", arguments={"code": "…"}, images=images)


class Working:
    """A tool that makes the same image of everything."""

    image = picture(IMAGES, 99)

    async def run(self, call: ToolCall) -> ToolResult:
        return ToolResult(images=(self.image,))


def shown(tool: Swapped, image: Image) -> Image:
    [made] = asyncio.run(tool.run(call(image))).images
    return made


def test_a_tool_that_is_switched_off_gives_back_what_it_got():
    result = asyncio.run(Unchanged().run(call(MADE[0])))
    assert result == ToolResult(images=(MADE[0],))


def test_every_task_is_shown_what_was_made_for_another():
    tool = Swapped(Working(), [played(*each) for each in zip(TASKS, MADE, strict=True)])
    given = [shown(tool, task.images[0]) for task in TASKS]
    assert all(given[n] != MADE[n] for n in range(5))
    assert sorted(each.sha256 for each in given) == sorted(each.sha256 for each in MADE)


def test_a_task_of_which_nothing_was_made_is_shown_another_s_too():
    episodes = [
        played(TASKS[0]),
        played(TASKS[1], MADE[4], MADE[1]),
        played(TASKS[2], MADE[2], stop=StopReason.TOOL_FAILED),
        played(TASKS[3], MADE[3]),
    ]
    tool = Swapped(Working(), episodes)
    assert [shown(tool, task.images[0]) for task in TASKS[:4]] == [
        MADE[3], MADE[3], MADE[1], MADE[1],
    ]  # fmt: skip


def test_the_same_image_made_twice_is_no_other_image():
    tool = Swapped(Working(), [played(task, MADE[0]) for task in TASKS[:2]])
    assert shown(tool, TASKS[0].images[0]) == Working.image


def test_code_that_works_on_a_shuffled_image_is_run():
    tool = Swapped(Working(), [played(*each) for each in zip(TASKS, MADE, strict=True)])
    assert shown(tool, MADE[3]) == Working.image
    assert asyncio.run(tool.run(call())).images == (Working.image,)


def test_pictures_are_shuffled_between_tasks_and_nothing_else_is():
    swapped = swapped_pictures(TASKS)
    assert [each.images for each in swapped] == [TASKS[n - 1].images for n in range(5)]
    assert [each.model_copy(update={"images": ()}) for each in swapped] == [
        task.model_copy(update={"images": ()}) for task in TASKS
    ]
