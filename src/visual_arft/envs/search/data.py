"""Tasks from files: MAT-Search, multi-hop questions, the paper's training steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from visual_arft.envs.pictures import row_image
from visual_arft.envs.search.env import SEARCH, SearchEnv
from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.rows import find_table, read_rows
from visual_arft.tags import ANSWER
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    Prompt,
    Task,
    ToolResult,
    Turn,
)

Text = Annotated[str, Field(min_length=1)]


class _MatRow(BaseModel):
    id: int | str
    question: Text
    answer: str
    """Empty in one row of the published file."""
    image_path: Text
    split: str | None = None


class _MultihopRow(BaseModel):
    id: int | str
    question: Text
    golden_answers: Annotated[list[str], Field(min_length=1)]


class _StepRow(BaseModel):
    image_path: Text
    problem: Text
    solution: Text


def load_mat_search(path: Path, images: Images) -> list[Task]:
    """The tasks of a MAT-Search file, or of a folder that holds one; its pictures go into `images`.

    The split is the row's own. Where no row has one, the first half is `simple` and the rest
    `hard`, as the benchmark's authors count.
    """
    path = find_table(path)
    rows = read_rows(path, _MatRow)
    positional = all(row.split is None for row in rows)
    return [
        Task(
            id=str(row.id),
            question=row.question,
            answers=(row.answer,),
            images=(row_image(path, number, "image_path", row.image_path, images),),
            split=(_half(number, len(rows)) if positional else row.split) or "",
        )
        for number, row in enumerate(rows, start=1)
    ]


def load_multihop(path: Path) -> list[Task]:
    """The text-only tasks of a FlashRAG file: 2Wiki, HotpotQA, MuSiQue, Bamboogle."""
    return [
        Task(id=str(row.id), question=row.question, answers=tuple(row.golden_answers))
        for row in read_rows(path, _MultihopRow)
    ]


def load_search_steps(path: Path, images: Images) -> list[Task]:
    """The step tasks of a training file of the paper: one decision each, after its gold chain.

    A row's `problem` is the question in `<query>` and then, for each earlier step, the reply and
    its `<information>`; its `solution` is the gold reply.
    """
    path = find_table(path)
    return [
        _step_task(f"{path}, row {number}", f"{path.stem}-{number}", row).model_copy(
            update={"images": (row_image(path, number, "image_path", row.image_path, images),)}
        )
        for number, row in enumerate(read_rows(path, _StepRow), start=1)
    ]


_PROBLEM = re.compile(r"\s*<query>(.*?)</query>(.*)", re.DOTALL)
_STEP = re.compile(r"(.*?)<information>(.*?)</information>\s*", re.DOTALL)
_SOLUTION = re.compile(r"\s*(?:<think>(.*?)</think>)?\s*<(search|answer)>(.*?)</\2>\s*", re.DOTALL)


def _step_task(where: str, task_id: str, row: _StepRow) -> Task:
    problem, solution = _PROBLEM.fullmatch(row.problem), _SOLUTION.fullmatch(row.solution)
    if problem is None:
        raise UserError(
            f"{where}, key 'problem': {row.problem[:40]!r}… does not begin with the question in "
            "<query>…</query>; put it there"
        )
    if solution is None:
        raise UserError(
            f"{where}, key 'solution': {row.solution[:40]!r}… is not <search>…</search> or "
            "<answer>…</answer>, with or without <think>…</think> before it; write one of them"
        )
    thought, kind, content = (part.strip() if part else "" for part in solution.groups())
    return Task(
        id=task_id,
        question=problem[1].strip(),
        answers=(content,) if kind == ANSWER else (),
        prefix=tuple(_chain(where, problem[2])),
        expected=Action(kind=kind, content=content, thought=thought),
        kind=kind,
    )


def _chain(where: str, text: str) -> Iterator[Turn]:
    env, end = SearchEnv(), 0
    for step in _STEP.finditer(text):
        end = step.end()
        reply = step[1].strip()
        action = env.parse(reply)
        if isinstance(action, Malformed) or action.kind != SEARCH:
            raise UserError(
                f"{where}, key 'problem': the earlier reply {reply[:40]!r}… is no search; "
                "write <think>…</think><search>…</search> before each <information>"
            )
        yield Turn(
            prompt=Prompt(messages=()),  # nobody reads a gold step's prompt: the env tells it anew
            completion=Completion(text=reply),
            action=action,
            result=ToolResult(text=step[2].strip()),
        )
    if rest := text[end:].strip():
        raise UserError(
            f"{where}, key 'problem': {rest[:40]!r}… comes after the last <information>; "
            "end the chain with what the last search brought"
        )


def _half(number: int, count: int) -> str:
    return "simple" if number <= (count + 1) // 2 else "hard"
