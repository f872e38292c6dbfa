"""The command `arft bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from visual_arft.bench.settings import BenchConfig, Engine, Mode
from visual_arft.cli_options import (
    AS_JSON,
    AS_MARKDOWN,
    CORPUS,
    FILE,
    FOLDER,
    MODEL,
    RECORDING,
    RECORDING_MODE,
    SEED,
    show,
)
from visual_arft.envs.coding.shortcuts import Shortcut
from visual_arft.envs.search.actions import SearchAction
from visual_arft.exits import records_in
from visual_arft.experiment.pace import Pace
from visual_arft.policies.settings import ServerConfig

_COUNT = click.IntRange(min=1)
_DOLLARS = click.FloatRange(min=0)
_ABOVE_0 = click.FloatRange(min=0, min_open=True)

_OF_A_SERVER = {*ServerConfig.model_fields, "served_as", "cache"} - {"concurrency"}
"""What only a server takes."""


@click.command(epilog="Example: arft bench mini-mat-coding --model runs/demo --limit 100")
@click.argument("suite", required=False)
@click.option("--model", help=f"{MODEL} Of a server: its name for it, or such a folder.")
@click.option(
    "--engine", type=click.Choice(get_args(Engine)), default="transformers", show_default=True
)
@click.option("--mode", type=click.Choice(get_args(Mode)), default="agent", show_default=True)
@click.option("--data", type=FILE, help="The benchmark's file or folder; mini-MAT needs none.")
@click.option("--prompt-file", type=FILE, help="Instructions to use, with {question} in them.")
@click.option(
    "--shortcut",
    "shortcuts",
    type=click.Choice(get_args(Shortcut)),
    multiple=True,
    help="What the authors' evaluation does for the agent: `crop-box` crops at the question's box.",
)
@CORPUS
@RECORDING
@RECORDING_MODE
@click.option(
    "--action",
    "actions",
    type=click.Choice(get_args(SearchAction)),
    multiple=True,
    help="What a search agent may do; once for each. `read` and `look` open pages of the web.",
)
@click.option(
    "--search-budget",
    type=click.IntRange(min=0),
    help="Requests to the search, tries again included.",
)
@click.option("--limit", type=_COUNT, help="Play the first N tasks only.")
@click.option("--repeat", type=_COUNT, default=1, show_default=True, help="Plays of each task.")
@click.option("--max-turns", type=_COUNT, help="Of an episode; as trained, or else 5.")
@click.option("--max-new-tokens", type=_COUNT, help="Of a reply; as trained, or else 1024.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True)
@SEED
@click.option(
    "--concurrency", type=_COUNT, help="Episodes side by side; 32 of a local model, 8 of a server."
)
@click.option(
    "--base-url",
    envvar="OPENAI_BASE_URL",
    help="Address of the server of --engine openai, or else OPENAI_BASE_URL, or else OpenAI's own.",
)
@click.option("--served-as", help="Its name for the model, where it differs from --model.")
@click.option("--rpm", "requests_per_minute", type=_ABOVE_0, help="Requests to it per minute.")
@click.option("--timeout", "timeout_s", type=_ABOVE_0, help="Seconds that a reply may take.")
@click.option("--retries", type=click.IntRange(min=0), help="Of a request that failed.")
@click.option(
    "--backoff", "backoff_s", type=_ABOVE_0, help="Seconds before the first of them; doubled since."
)
@click.option("--price-in", type=_DOLLARS, help="US$ for a million tokens read.")
@click.option("--price-out", type=_DOLLARS, help="US$ for a million tokens written.")
@click.option("--max-cost", type=_DOLLARS, help="US$ to spend at these prices.")
@click.option("--cache", type=FILE, help="File of its answers; one in --out when not given.")
@click.option("--out", type=FOLDER, help="The run's folder; runs/SUITE-MODEL-MODE when not given.")
@click.option(
    "--compare",
    type=(FILE, FILE),
    metavar="A B",
    help="Play nothing: what A scores above B, two runs or files of answers.",
)
@AS_JSON
@AS_MARKDOWN
def bench(
    suite: str | None,
    model: str | None,
    out: Path | None,
    compare: tuple[Path, Path] | None,
    as_json: bool,
    as_markdown: bool,
    **said: Any,
) -> None:
    """Play a benchmark and score it.

    SUITE is mini-mat-coding or mini-mat-search, which are generated; or, by --data, mat-coding,
    mat-search, hotpotqa, 2wiki, musique or bamboogle. Every episode is recorded; run the same
    command again and it goes on.

    A model that was trained here plays as it was trained to, others in the paper's context unless
    --mode says otherwise.

    The engine `openai` asks any server that speaks OpenAI's protocol; its key comes from
    OPENAI_API_KEY. The engine `scripted` needs no model: --model is a JSON object {TEXT: REPLY, …},
    and the reply of the first TEXT that occurs in a prompt is given; the TEXT "" occurs in every
    prompt.
    """
    if compare is not None:
        from visual_arft.bench.compare import compare as difference

        found = difference(*compare, suite_name=suite)
        show(found, as_json=as_json, as_markdown=as_markdown)
        return
    if suite is None or model is None:
        missing = "SUITE" if suite is None else "--model"
        raise click.UsageError(f"{missing} is missing; give it, or two runs by --compare.")
    from visual_arft.bench.suites import suite as named

    named(suite)  # a wrong name is told at once
    config, pace = _settings({**said, "suite": suite, "model": model})
    folder = out or Path("runs") / f"{suite}-{Path(model).name}-{config.mode}"
    from visual_arft.experiment.benchmark import bench as play

    with records_in(folder, "run the same command again"):
        report = play(config, folder, pace)
    show(report, as_json=as_json, as_markdown=as_markdown)


def _settings(said: dict[str, Any]) -> tuple[BenchConfig, Pace]:
    """What decides the scores, and how much is played how fast."""
    told = {name: value for name, value in said.items() if value not in (None, ())}
    server = None
    if told["engine"] == "openai":
        server = ServerConfig(**_of(ServerConfig, told))
        told["base_url"] = server.base_url
    else:
        _refuse_what_is_of_a_server()
        told.pop("base_url", None)
    return BenchConfig(**_of(BenchConfig, told)), Pace(**_of(Pace, told), server=server)


def _of(kind: type[BenchConfig | Pace | ServerConfig], told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name in kind.model_fields}


def _refuse_what_is_of_a_server() -> None:
    context = click.get_current_context()
    for name in sorted(_OF_A_SERVER):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            [option] = [each for each in context.command.params if each.name == name]
            raise click.UsageError(
                f"{option.opts[0]} is for --engine openai; leave it out, or add that."
            )
