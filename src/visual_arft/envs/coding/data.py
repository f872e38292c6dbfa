"""Tasks from files: MAT-Coding, and the paper's training steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from visual_arft.envs.coding.grammar import CODE, PROBLEM, PROBLEMS, problem_names
from visual_arft.envs.pictures import row_image
from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.rows import find_table, read_rows
from visual_arft.tags import ANSWER
from visual_arft.types import Action, Completion, Image, Prompt, Task, ToolResult, Turn

Text = Annotated[str, Field(min_length=1)]
Name = Literal["rotation90", "rotation180", "dark", "overexposure", "blur", "noise", "crop", "none"]


class _MatRow(BaseModel):
    id: int | str
    question: Text
    answers: Annotated[list[Text], Field(min_length=1)]
    ori_image_path: Text
    processed_image_path: Text
    type: Annotated[list[Name], Field(min_length=1, max_length=2)]
    split: str = ""


class _StepRow(BaseModel):
    image_path: Text
    problem: Text
    solution: Text
    type: Literal["pre_problem", "pre_code", "pre_answer"]
    context: str | None = None
    gt: str | list[str] | None = None


def load_mat_coding(path: Path, images: Images) -> list[Task]:
    """The tasks of a MAT-Coding file, or of a folder that holds one; its pictures go into `images`.

    The picture is the degraded one; to crop, it is the original.
    """
    path = find_table(path)
    return [
        _task(path, number, row, images) for number, row in enumerate(read_rows(path, _MatRow), 1)
    ]


def load_coding_steps(path: Path, images: Images) -> list[Task]:
    """The step tasks of a training file of the paper: one decision each, after its gold chain.

    A row's `context` is that chain: the earlier replies, with or without their tips. Its picture is
    the one that is seen at this step, so code in the chain has already mended it.
    """
    path = find_table(path)
    return [
        _step_task(path, number, row, row_image(path, number, "image_path", row.image_path, images))
        for number, row in enumerate(read_rows(path, _StepRow), 1)
    ]


def _task(path: Path, number: int, row: _MatRow, images: Images) -> Task:
    key = "ori_image_path" if "crop" in row.type else "processed_image_path"
    return Task(
        id=str(row.id),
        question=row.question,
        answers=tuple(row.answers),
        images=(row_image(path, number, key, getattr(row, key), images),),
        split=row.split,
        kind="+".join(row.type),
    )


_QUERY = re.compile(r"\s*<query>(.*)</query>\s*", re.DOTALL)
_REPLY = re.compile(
    r"\s*(?:<think>(?P<thought>.*?)</think>)?"
    r"\s*<(?P<kind>problem|code|answer)>(?P<content>.*?)</(?P=kind)>\s*",
    re.DOTALL,
)
_TIPS = re.compile(r"\s*<tips>.*?</tips>\s*", re.DOTALL)


def _step_task(path: Path, number: int, row: _StepRow, image: Image) -> Task:
    where = f"{path}, row {number}"
    expected = _expected(where, row)
    prefix = tuple(_chain(where, row.context or "", image))
    golds = [row.gt] if isinstance(row.gt, str) else row.gt or [expected.content]
    named = problem_names(expected).union(*(problem_names(turn.action) for turn in prefix))
    query = _QUERY.fullmatch(row.problem)
    return Task(
        id=f"{path.stem}-{number}",
        question=(query[1] if query else row.problem).strip(),
        answers=tuple(golds) if expected.kind == ANSWER else (),
        images=(image,),
        prefix=prefix,
        expected=expected,
        kind="+".join(name for name in PROBLEMS if name in named),
    )


def _expected(where: str, row: _StepRow) -> Action:
    kind = row.type.removeprefix("pre_")
    solution = _REPLY.fullmatch(row.solution)
    if solution is None or solution["kind"] != kind:
        raise UserError(
            f"{where}, key 'solution': {row.solution[:40]!r}… is not <{kind}>…</{kind}>, with or "
            f"without <think>…</think> before it, as type {row.type!r} says; write that"
        )
    action = _action(solution)
    if kind == PROBLEM and not problem_names(action):
        raise UserError(
            f"{where}, key 'solution': {action.content[:40]!r} is not a set of one or two problem "
            "names; write it as {'dark', 'blur'}"
        )
    return action


def _chain(where: str, text: str, image: Image) -> Iterator[Turn]:
    end = 0
    while text[end:].strip():
        if tips := _TIPS.match(text, end):
            end = tips.end()
        elif (reply := _REPLY.match(text, end)) and reply["kind"] != ANSWER:
            end = reply.end()
            yield _turn(reply, image)
        else:
            raise UserError(
                f"{where}, key 'context': {text[end : end + 40]!r}… is no earlier reply; "
                "write <think>…</think> and then <problem>…</problem> or <code>…</code>"
            )


def _turn(reply: re.Match[str], image: Image) -> Turn:
    action = _action(reply)
    return Turn(
        prompt=Prompt(messages=()),  # nobody reads a gold step's prompt: the env tells it anew
        completion=Completion(text=reply[0].strip()),
        action=action,
        result=ToolResult(images=(image,)) if action.kind == CODE else None,
    )


def _action(reply: re.Match[str]) -> Action:
    thought = (reply["thought"] or "").strip()
    return Action(kind=reply["kind"], content=reply["content"].strip(), thought=thought)
