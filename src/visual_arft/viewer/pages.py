"""A run as static pages: a list of its episodes with a filter, and a page for each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from visual_arft.errors import UserError
from visual_arft.store import Entry, Store, open_run
from visual_arft.viewer.curves import curves
from visual_arft.viewer.templating import answer_f1, render, source


class _Line(NamedTuple):
    """An episode in the list."""

    href: str
    task: str
    question: str
    answer: str
    gold: str
    kind: str
    stop: str
    f1: float
    score: str
    reward: str
    phase: str


def index_page(store: Store) -> str:
    """The page of a whole run."""
    lines = [_line(number, entry) for number, entry in enumerate(store)]
    return render(
        "index.html",
        title=store.folder.resolve().name,
        curves=curves(store.metrics()),
        lines=lines,
        has_reward=any(line.reward for line in lines),
    )


def trajectory_page(store: Store, number: int) -> str | None:
    """The page of one episode by its place in the order of recording; None past the last."""
    entry = store.entry(number)
    if entry is None:
        return None
    return _trajectory_page(store, number, entry, is_last=store.entry(number + 1) is None)


def export(run: Path, out: Path) -> Path:
    """Writes the pages of a run into a folder and returns the path of the first."""
    store = open_run(run)
    try:
        (out / "episodes").mkdir(parents=True, exist_ok=True)
        first = out / "index.html"
        first.write_text(index_page(store), encoding="utf-8")
        last = sum(1 for _ in store) - 1
        for number, entry in enumerate(store):
            page = _trajectory_page(store, number, entry, is_last=number == last)
            (out / _href(number)).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); give a folder with room for the pages"
        ) from error
    return first


def _trajectory_page(store: Store, number: int, entry: Entry, *, is_last: bool) -> str:
    return render(
        "trajectory.html",
        title=entry.trajectory.task.id,
        entry=entry,
        src=source(store.images),
        previous=_name(number - 1) if number else "",
        following="" if is_last else _name(number + 1),
    )


def _line(number: int, entry: Entry) -> _Line:
    trajectory = entry.trajectory
    score = answer_f1(trajectory)
    reward = entry.meta.get("reward")
    return _Line(
        href=_href(number),
        task=trajectory.task.id,
        question=trajectory.task.question,
        answer=trajectory.answer or "",
        gold=" | ".join(trajectory.task.answers),
        kind=trajectory.task.kind,
        stop=trajectory.stop_reason.value,
        f1=score,
        score="right" if score == 1 else "partly" if score > 0 else "wrong",
        reward=f"{reward:.2f}" if isinstance(reward, int | float) else "",
        phase=entry.phase,
    )


def _href(number: int) -> str:
    return f"episodes/{_name(number)}"


def _name(number: int) -> str:
    return f"{number:06}.html"
