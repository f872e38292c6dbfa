"""The benchmarks by name, with what is particular to the scoring of each."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal, NamedTuple

from visual_arft.errors import UserError


class Suite(NamedTuple):
    """A benchmark."""

    env: Literal["coding", "search"] = "search"
    """The rules an agent plays it by."""
    cjk: bool = False
    """Whether Chinese answers are compared by character."""
    sizes: tuple[tuple[str, int], ...] = ()
    """Splits in the order in which they lie in the benchmark's own file, with their sizes."""

    def split_at(self, position: int, rows: int) -> str:
        """The split of a row by its position; empty unless the file holds the whole benchmark."""
        if rows != sum(size for _, size in self.sizes):
            return ""
        for name, size in self.sizes:
            if position < size:
                return name
            position -= size
        return ""


SUITES = {
    "mat-coding": Suite(env="coding", cjk=True, sizes=(("simple", 70), ("hard", 130))),
    "mat-search": Suite(sizes=(("simple", 75), ("hard", 75))),
    "hotpotqa": Suite(),
    "2wiki": Suite(),
    "musique": Suite(),
    "bamboogle": Suite(),
    "mini-mat-coding": Suite(env="coding"),
    "mini-mat-search": Suite(),
}
"""Every benchmark by its name."""


def suite(name: str | None) -> Suite:
    """The benchmark of a name; the plain rules for None; raises `UserError` for an unknown name."""
    if name is None:
        return Suite()
    if name not in SUITES:
        close = get_close_matches(name, SUITES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"suite {name!r} is unknown; {hint}choose one of {', '.join(SUITES)}")
    return SUITES[name]
