"""The demo's report: one page with results, curves, and episodes before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.types import Trajectory
from visual_arft.viewer.curves import curves
from visual_arft.viewer.templating import render, source


@dataclass(frozen=True)
class Section:
    """What one agent's part of the report shows."""

    name: str
    results: Mapping[str, Mapping[str, Any]]
    """For each phase `n`, `em`, `em_ci`, `f1`, `f1_ci` and, where it was measured, `em_t1`."""
    metrics: Sequence[Mapping[str, Any]]
    """Rows with a `step`; each other number is charted."""
    episodes: Sequence[tuple[Trajectory, Trajectory]]
    """The same task before and after."""
    images: Images


def write_report(
    path: Path, *, title: str, facts: Mapping[str, str], sections: Sequence[Section]
) -> Path:
    """Writes the report as one file that needs no other, and returns its path.

    Args:
        path: the HTML file.
        title: its heading.
        facts: what is true of the whole run, such as seed, minutes and memory, as it is to be read.
        sections: one for each agent.
    """
    page = render("report.html", title=title, facts=facts, sections=[*map(_filled, sections)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); give a folder with room for the report"
        ) from error
    return path


def _filled(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "results": {phase: {"em_t1": None, **cell} for phase, cell in section.results.items()},
        "curves": curves(section.metrics),
        "episodes": section.episodes,
        "src": source(section.images),
    }
