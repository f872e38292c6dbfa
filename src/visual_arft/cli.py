"""The command `arft`. What needs torch is imported by the commands that need it, when they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from visual_arft.cli_bench import bench
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
from visual_arft.envs.search.recording.mode import Mode as RecordingMode
from visual_arft.errors import UserError
from visual_arft.exits import Commands, records_in

if TYPE_CHECKING:
    from visual_arft.experiment.player import EnvName
    from visual_arft.types import Turn

TASKS = {"coding": ("coding",), "search": ("search",), "both": ("coding", "search")}


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: arft doctor, then arft demo, then arft view runs/demo/coding.",
)
@click.version_option(package_name="visual-arft", message="%(version)s")
def main() -> None:
    """Teach a vision-language model to use tools by reinforcement learning."""


@main.command(epilog="Example: arft demo --task coding --out runs/demo")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--task", type=click.Choice(list(TASKS)), default="both", show_default=True)
@click.option("--out", type=FOLDER, default=Path("runs/demo"), show_default=True)
@SEED
def demo(overrides: tuple[str, ...], task: str, out: Path, seed: int) -> None:
    """Train the small agents and measure the gain.

    Runs on two cores in 15 to 25 minutes; run again, it goes on from what exists. Leaves
    summary.json and report.html in the folder. A key of the recipes demo-coding and demo-search is
    set from outside as section.key=value.
    """
    from visual_arft.experiment.demo import demo as run

    go_on = " ".join(["arft demo", *overrides, f"--task {task} --out {out} --seed {seed}"])
    with records_in(out, go_on):
        run(out, seed, TASKS[task], overrides)


@main.command(epilog="Example: arft train demo-coding grpo.steps=10 --out runs/try")
@click.argument("recipe", type=FILE)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--out", type=FOLDER, help="The run's folder; runs/RECIPE when not given.")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and what would happen.")
def train(
    recipe: Path, overrides: tuple[str, ...], out: Path | None, resume: bool, dry_run: bool
) -> None:
    """Train as a recipe says.

    RECIPE is a TOML file that sets a cold start and GRPO, or the name of one that comes with the
    package, such as demo-coding. A key is set from outside as section.key=value. A run that was
    stopped goes on with --resume.
    """
    from visual_arft.config import find_recipe, load_recipe

    resolved = load_recipe(find_recipe(recipe), overrides)
    folder = out or Path("runs") / recipe.stem
    _check_folder(folder, resume)
    if dry_run:
        from visual_arft.experiment.plan import describe

        click.echo(describe(resolved))
        return
    from visual_arft.experiment import training

    go_on = " ".join(["arft train", str(recipe), *overrides, f"--out {folder} --resume"])
    with records_in(folder, go_on):
        training.train(resolved, folder)


main.add_command(bench)


@main.command(epilog="Example: arft score predictions.json --suite mat-coding")
@click.argument("path", type=FILE)
@click.option("--suite", help="The benchmark whose scoring rules hold, such as mat-coding.")
@click.option("--phase", help="Which part of a run, where it has several.")
@AS_JSON
@AS_MARKDOWN
def score(
    path: Path, suite: str | None, phase: str | None, as_json: bool, as_markdown: bool
) -> None:
    """Score a run or a file of predictions.

    A file of predictions is JSON or JSON lines; each row has pred_answer and gt. EM and F1 are in
    percent, with 95% intervals; a row without an answer scores 0. A run of arft bench knows its
    suite.
    """
    from visual_arft.bench.score import score_path

    show(score_path(path, suite, phase), as_json=as_json, as_markdown=as_markdown)


@main.command(epilog="Example: arft view runs/demo/coding --export pages")
@click.argument("run", type=FOLDER)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--export", "pages", type=FOLDER, help="Write the pages there and serve nothing.")
def view(run: Path, port: int, pages: Path | None) -> None:
    """Look at episodes, images and curves."""
    from visual_arft import viewer

    if pages is not None:
        click.echo(viewer.export(run, pages))
    else:
        viewer.serve(run, port)


@main.command(epilog='Example: arft chat sign.png "What does the sign say?" --model runs/demo')
@click.argument("image", type=FILE)
@click.argument("question")
@click.option("--model", required=True, help=MODEL)
@click.option("--env", type=click.Choice(TASKS["both"]), default="coding", show_default=True)
@CORPUS
@AS_JSON
def chat(
    image: Path, question: str, model: str, env: EnvName, corpus: str | None, as_json: bool
) -> None:
    """Ask about an image and watch the episode.

    The turns go to standard error as they come, the answer to standard output.
    """
    from visual_arft.images import MemoryImages, load

    load(image, MemoryImages())
    if not question.strip():
        raise UserError(f"the question {question!r} is empty; ask something about {image}")
    from visual_arft.experiment.playing import chat as play

    trajectory = play(image, question, model=model, env=env, corpus=corpus, tell=_tell)
    click.echo(f"({trajectory.stop_reason})", err=True)
    click.echo(trajectory.model_dump_json(indent=2) if as_json else trajectory.answer or "")


@main.group(
    cls=Commands,
    epilog="Start here: arft search build wiki.jsonl --out wiki.index, then "
    "arft search query wiki.index 'Eiffel Tower'.",
)
def search() -> None:
    """Build, ask and serve what an agent searches."""


@search.command(name="build", epilog="Example: arft search build wiki.jsonl --out wiki.index")
@click.argument("sources", metavar="SOURCE...", type=FILE, nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="The index's folder.")
def build_index(sources: tuple[Path, ...], out: Path) -> None:
    """Build an index on disk.

    A SOURCE is JSON lines or parquet of passages, {"id", "contents"} or {"id", "title", "text"}, or
    a folder that holds such files, or Markdown, HTML and text. What was interrupted goes on when
    the same command is run again; until it has ended there is no index at --out.
    """
    from visual_arft.experiment.indexing import build

    go_on = " ".join(["arft search build", *map(str, sources), f"--out {out}"])
    with records_in(out, go_on):
        manifest = build(sources, out)
    click.echo(f"{out}: {manifest.passages:,} passages")


@search.command(epilog="Example: arft search query wiki.index 'Eiffel Tower' --limit 3")
@click.argument("engine")
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True)
@RECORDING
@RECORDING_MODE
@AS_JSON
def query(
    engine: str,
    query: str,
    limit: int,
    recording: Path | None,
    recording_mode: RecordingMode,
    as_json: bool,
) -> None:
    """Ask an engine once.

    ENGINE is an index's folder; a corpus (JSON lines, parquet, or a folder of texts), which is then
    indexed in memory; the address of a retrieval server, http://HOST:PORT; or one of serper, brave,
    tavily, ddgs and searxng=http://HOST:PORT. Keys are taken from SERPER_API_KEY, BRAVE_API_KEY and
    TAVILY_API_KEY.
    """
    from visual_arft.experiment.indexing import ask

    if not query.strip():
        raise UserError(f"the query {query!r} is empty; say what to look for")
    results = ask(engine, query, limit, recording, recording_mode)
    if as_json:
        click.echo(
            json.dumps([each.model_dump() for each in results], indent=2, ensure_ascii=False)
        )
        return
    for number, each in enumerate(results, start=1):
        click.echo(f"{number}. {each.title or each.url}\n   {each.url}\n   {each.snippet[:300]}")
    if not results:
        click.echo("nothing was found", err=True)


@search.command(epilog="Example: arft search serve wiki.index --port 8000")
@click.argument("index", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 serves a network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def serve(index: Path, host: str, port: int) -> None:
    """Serve an index to other programs.

    It speaks the protocol of Search-R1's retrieval server: POST /retrieve. There is no password.
    """
    from visual_arft.envs.search.index import IndexSearcher
    from visual_arft.envs.search.serve import server

    with server(IndexSearcher(index), host, port) as running:
        where = f"http://{host}:{running.server_port}/retrieve"
        click.echo(f"{where} serves {index}; Ctrl-C ends it", err=True)
        running.serve_forever()


@search.command(epilog="Example: arft search stats wiki.index --json")
@click.argument("path", type=FILE)
@AS_JSON
def stats(path: Path, as_json: bool) -> None:
    """Say what an index or a recording holds."""
    from visual_arft.experiment.indexing import stats_of

    found = stats_of(path)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(f"{name}: {value}" for name, value in found.items()))


@main.command(epilog="Example: arft doctor --json")
@AS_JSON
def doctor(as_json: bool) -> None:
    """Say what this machine offers, and what to mend."""
    from visual_arft.doctor import findings, table

    found = list(findings())
    if as_json:
        click.echo(json.dumps([each.model_dump() for each in found], indent=2))
    else:
        Console().print(table(found))


def _check_folder(folder: Path, resume: bool) -> None:
    exists = (folder / "config.toml").exists()
    if exists and not resume:
        raise UserError(f"{folder} holds a run; go on with --resume, or choose another --out")
    if resume and not exists:
        raise UserError(f"{folder} holds no run to resume; leave out --resume, or mend --out")


def _tell(turn: Turn) -> None:
    """A turn on standard error."""
    click.echo(turn.completion.text, err=True)
    if turn.result is not None:
        pictures = " + image" * len(turn.result.images)
        click.echo(f"    {turn.result.error or turn.result.text}{pictures}", err=True)
