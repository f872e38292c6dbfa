"""The benchmarks by name, with what is particular to the scoring of each."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from visual_arft.errors import UserError


class Suite(NamedTuple):
    """A benchmark."""

    env: Literal["coding", "search"] = "search"
    """The rules an agent plays it by."""
    cjk: bool = False
    """Whether Chinese answers are compared by character."""
    sizes: tuple[tuple[str, int], ...] = ()
    """Splits in the order in which they lie in the benchmark's own file, with their sizes."""
    has_images: bool = True
    """Whether its questions are about an image."""
    files: tuple[str, ...] = ()
    """Where its file may lie in a downloaded folder; none where it makes its own tasks."""
    source: str = ""
    """What to download."""

    def split_at(self, position: int, rows: int) -> str:
        """The split of a row by its position; empty unless the file holds the whole benchmark."""
        if rows != sum(size for _, size in self.sizes):
            return ""
        for name, size in self.sizes:
            if position < size:
                return name
            position -= size
        return ""


def _mat(name: str, env: Literal["coding", "search"], **more: Any) -> Suite:
    return Suite(
        env=env,
        files=(f"{name}.json", f"MAT-Benchmark/{name}.json"),
        source=f"MAT-Benchmark/{name}.json and its pictures in the folder {name}-image beside it, "
        "of the data set laolao77/MAT on the Hugging Face hub",
        **more,
    )


def _multihop(folder: str, file: str = "dev.jsonl") -> Suite:
    return Suite(
        has_images=False,
        files=(f"{folder}/{file}", f"{folder}.jsonl", file),
        source=f"{folder}/{file} of the data set RUC-NLPIR/FlashRAG_datasets on the Hugging Face "
        "hub",
    )


SUITES = {
    "mat-coding": _mat("MAT-Coding", "coding", cjk=True, sizes=(("simple", 70), ("hard", 130))),
    "mat-search": _mat("MAT-Search", "search", sizes=(("simple", 75), ("hard", 75))),
    "hotpotqa": _multihop("hotpotqa"),
    "2wiki": _multihop("2wikimultihopqa"),
    "musique": _multihop("musique"),
    "bamboogle": _multihop("bamboogle", "test.jsonl"),
    "mini-mat-coding": Suite(env="coding"),
    "mini-mat-search": Suite(),
}
"""Every benchmark by its name."""

MINI = ("mini-mat-coding", "mini-mat-search")
"""Those that make their own tasks."""


def find_data(name: str, data: Path | None) -> Path:
    """The file of a benchmark: the path itself, or the one that lies in a folder.

    Raises:
        UserError: it is not there; says what to download and where to put it.
    """
    known = suite(name)
    if data is None:
        raise UserError(
            f"{name} does not come with this package; download {known.source}, and give the folder "
            "or the file by --data"
        )
    if data.is_file():
        return data
    found = next((data / file for file in known.files if (data / file).is_file()), None)
    alone = list(data.glob(f"*{Path(known.files[0]).suffix}"))
    if found is None and len(alone) == 1:
        return alone[0]
    if found is None:
        missing = f"has no {' and no '.join(known.files)}" if data.is_dir() else "no such folder"
        raise UserError(f"--data {data}: {missing}; download {known.source}, and put it there")
    return found


def suite(name: str | None) -> Suite:
    """The benchmark of a name; the plain rules for None; raises `UserError` for an unknown name."""
    if name is None:
        return Suite()
    if name not in SUITES:
        close = get_close_matches(name, SUITES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"suite {name!r} is unknown; {hint}choose one of {', '.join(SUITES)}")
    return SUITES[name]
