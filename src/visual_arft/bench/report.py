"""How a report is shown: a table for the terminal, JSON for scripts, a row for a document."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from visual_arft.bench.cells import Cells, Interval
from visual_arft.bench.compare import Comparison
from visual_arft.bench.score import Report

MARKDOWN_HEADER = """\
| name | n | EM | 95% | F1 | 95% | SQuAD F1 |
|---|---:|---:|---|---:|---|---:|"""
"""The head of a table of `markdown_row`s."""


def table(report: Report | Comparison) -> Table:
    """The report for a terminal: a line for all tasks, for each split and for each kind."""
    if isinstance(report, Comparison):
        caption = f"tasks with a higher F1 {report.better}, with a lower one {report.worse}"
        return _table(report.name, caption, report.overall, report.splits)
    return _table(report.name, _caption(report), report.overall, report.splits, report.kinds)


def _table(name: str, caption: str, overall: Cells, *groups: dict[str, Cells]) -> Table:
    view = Table(title=name, caption=caption, box=SIMPLE_HEAD, title_justify="left")
    view.add_column("tasks")
    for heading in ("n", "EM %", "95%", "F1 %", "95%", "SQuAD F1 %"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_row("all", *_cells(overall))
    for group in groups:
        view.add_section()
        for label, cells in group.items():
            view.add_row(label or "(none)", *_cells(cells))
    return view


def as_dict(report: Report | Comparison) -> dict[str, Any]:
    """The report as plain values that `json.dumps` takes."""
    return report.model_dump(mode="json")


def markdown_row(report: Report | Comparison) -> str:
    """The line for all tasks, to stand under `MARKDOWN_HEADER`."""
    return f"| {' | '.join((report.name, *_cells(report.overall)))} |"


def _cells(cells: Cells) -> tuple[str, ...]:
    paper, squad = cells["paper"], cells["squad"]
    return (
        str(paper.n),
        f"{paper.em:.2f}",
        _range(paper.em_ci),
        f"{paper.f1:.2f}",
        _range(paper.f1_ci),
        f"{squad.f1:.2f}",
    )


def _range(interval: Interval) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def _caption(report: Report) -> str:
    parts = [f"{name} {count}" for name, count in report.counts.items()]
    if report.mean_turns is not None:
        parts.append(f"mean turns {report.mean_turns:.2f}")
    if report.tokens is not None:
        parts.append(f"tokens {report.tokens.prompt:,} in, {report.tokens.completion:,} out")
    if (several := report.repeats) is not None:
        k, spread = len(several.em), f"± {several.em_sd:.2f} EM, ± {several.f1_sd:.2f} F1"
        parts.append(f"{k} plays {spread} · pass@{k} {several.pass_at_k:.2f}")
    return " · ".join(parts)
