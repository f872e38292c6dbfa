"""What several commands take, and how they show what was scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
from rich.console import Console

from visual_arft.envs.search.recording.mode import Mode as RecordingMode

if TYPE_CHECKING:
    from visual_arft.bench.compare import Comparison
    from visual_arft.bench.score import Report

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)
CORPUS = click.option(
    "--corpus",
    metavar="ENGINE",
    help="What is searched: an index, JSON lines, a retrieval server, or a web search; "
    "see arft search query --help.",
)
RECORDING = click.option(
    "--recording", type=FILE, help="A file that every answer of the search goes into."
)
RECORDING_MODE = click.option(
    "--recording-mode",
    type=click.Choice(get_args(RecordingMode)),
    default="replay-or-live",
    show_default=True,
    help="What is done with it: `replay` asks nothing else, `record` asks anew.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")
AS_MARKDOWN = click.option(
    "--markdown", "as_markdown", is_flag=True, help="Print a row for a table of a document."
)
MODEL = "`tiny`, a folder saved by transformers, a hub id, or a run of ours."
SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


def show(report: Report | Comparison, *, as_json: bool, as_markdown: bool) -> None:
    """A report on standard output."""
    from visual_arft.bench.report import MARKDOWN_HEADER, as_dict, markdown_row, table

    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown are two forms of the same; give one.")
    if as_json:
        click.echo(json.dumps(as_dict(report), indent=2, ensure_ascii=False))
    elif as_markdown:
        click.echo(f"{MARKDOWN_HEADER}\n{markdown_row(report)}")
    else:
        Console().print(table(report))
