"""A run with everything a page can show, and with markup wherever a model or a tool can write."""

from __future__ import annotations

import io

import pytest
from PIL import Image as Pil

from visual_arft.store import Store
from visual_arft.types import (
    Action,
    Completion,
    Malformed,
    Message,
    Prompt,
    StopReason,
    Task,
    ToolResult,
    Trajectory,
    Turn,
)

EVIL = "<script>alert('{}')</script>\"'>"


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Pil.new("RGB", (12, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "run")


@pytest.fixture
def solved(store) -> Trajectory:
    sign, turned = store.images.add(png("red")), store.images.add(png("blue"))
    prompt = Prompt(messages=(Message(role="user", text=EVIL.format("prompt"), images=(sign,)),))
    code = Turn(
        prompt=prompt,
        completion=Completion(text=""),
        action=Action(kind="code", content=EVIL.format("code"), thought=EVIL.format("thought")),
        result=ToolResult(text=EVIL.format("result"), images=(turned,), error=EVIL.format("error")),
    )
    answer = Turn(
        prompt=prompt,
        completion=Completion(text=""),
        action=Action(kind="answer", content=EVIL.format("answer")),
    )
    task = Task(
        id=EVIL.format("id"),
        question=EVIL.format("question"),
        answers=(EVIL.format("answer"),),
        images=(sign,),
        kind="dark",
    )
    return Trajectory(task=task, turns=(code, answer), stop_reason=StopReason.ANSWERED)


@pytest.fixture
def failed(solved) -> Trajectory:
    [turn, _] = solved.turns
    torn = turn.model_copy(
        update={
            "completion": Completion(text=EVIL.format("reply")),
            "action": Malformed(reason=EVIL.format("reason")),
            "result": None,
        }
    )
    return Trajectory(task=solved.task, turns=(torn,), stop_reason=StopReason.MALFORMED)
