"""The rules and the tools of each game, as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from visual_arft.config import Context, Recipe
from visual_arft.envs.coding.env import DEFAULT_TEMPLATE as CODING_TEMPLATE
from visual_arft.envs.coding.env import PYTHON, CodingEnv, Wording
from visual_arft.envs.coding.shortcuts import Shortcut
from visual_arft.envs.coding.tool import PythonSessions, PythonTool
from visual_arft.envs.direct import (
    COT_TEMPLATE,
    COT_TEXT_TEMPLATE,
    TEXT_TEMPLATE,
    DirectEnv,
    answer_after_thought,
)
from visual_arft.envs.direct import DEFAULT_TEMPLATE as DIRECT_TEMPLATE
from visual_arft.envs.rag import DEFAULT_TEMPLATE as RAG_TEMPLATE
from visual_arft.envs.rag import TEXT_TEMPLATE as RAG_TEXT_TEMPLATE
from visual_arft.envs.rag import RagEnv
from visual_arft.envs.search.actions import LOOK, READ, SearchAction
from visual_arft.envs.search.egress import Guard
from visual_arft.envs.search.egress.denied import DATASET_HOSTS
from visual_arft.envs.search.embedder import Embedder
from visual_arft.envs.search.engines import engine_name, open_engine
from visual_arft.envs.search.env import SEARCH, SearchEnv, instructions
from visual_arft.envs.search.look.tool import LookTool
from visual_arft.envs.search.read.tool import ReadTool
from visual_arft.envs.search.recording import Desk, Limits, Mode, RecordedSearcher, Recording
from visual_arft.envs.search.tool import SearchTool
from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.sandbox import Sandbox
from visual_arft.synth import coding as mini_coding
from visual_arft.synth import search as mini_search
from visual_arft.tools import Tool, Tools

PRACTICE = "practice"
"""The data source of a base model: no tasks, no tools."""


def coding_env(
    context: Context,
    template: str | None = None,
    *,
    tiny: bool = False,
    shortcuts: Sequence[Shortcut] = (),
) -> CodingEnv:
    """The coding agent's rules; the tiny model has instructions of its own."""
    default = mini_coding.TEMPLATE if tiny else CODING_TEMPLATE
    wording = mini_coding.WORDING if tiny else Wording()
    return CodingEnv(context, template or default, wording, shortcuts=shortcuts)


def search_env(
    context: Context,
    template: str | None = None,
    *,
    tiny: bool = False,
    actions: Sequence[SearchAction] = (SEARCH,),
    images: bool = True,
) -> SearchEnv:
    """The search agent's rules; the tiny model has instructions of its own."""
    own = mini_search.TEMPLATE if tiny else instructions(actions, images=images)
    return SearchEnv(context, template or own, actions=actions)


def direct_env(
    template: str | None = None, *, tiny: bool = False, images: bool = True
) -> DirectEnv:
    """The rules without tools; the tiny model's practice was questions as they are."""
    own = DIRECT_TEMPLATE if images else TEXT_TEMPLATE
    return DirectEnv(template or ("{question}" if tiny else own))


def cot_env(template: str | None = None, *, images: bool = True) -> DirectEnv:
    """The rules without tools, for who thinks aloud first."""
    own = COT_TEMPLATE if images else COT_TEXT_TEMPLATE
    return DirectEnv(template or own, answer_after_thought)


def rag_env(template: str | None = None, *, images: bool = True) -> RagEnv:
    """The rules of one search with the question."""
    return RagEnv(template or (RAG_TEMPLATE if images else RAG_TEXT_TEMPLATE))


def is_tiny(recipe: Recipe) -> bool:
    """Whether a recipe trains on the generated tasks, which are worded for the tiny model."""
    return recipe.data.source == PRACTICE or recipe.data.source.startswith("mini-mat-")


def template_of(recipe: Recipe) -> str | None:
    """The instructions that a recipe brings; None where it leaves them to us."""
    path = recipe.data.prompt_file
    return None if path is None else read_template(path, "data.prompt_file")


def read_template(path: Path, key: str) -> str:
    """The instructions in a file; raises `UserError` that names the setting `key`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{key} = {str(path)!r} cannot be read ({error}); give a text file"
        ) from None


def python_tools(sandbox: Sandbox, context: Context, images: Images) -> Tools:
    """The coding agent's tools; in a growing chat, what code leaves stays for the next step."""
    make = PythonSessions if context == "append" else PythonTool
    return {PYTHON: make(sandbox, images)}


def search_tools(
    engine: str, desk: Desk, actions: Sequence[SearchAction] = (SEARCH,)
) -> Callable[[Images], Tools]:
    """The search agent's tools over an engine, which is opened once, for where pictures are kept.

    None of them goes where the answers of benchmarks lie.
    """
    guard = Guard(denied=DATASET_HOSTS)
    can_open = READ in actions or LOOK in actions
    search = SearchTool(searcher(engine, desk), addresses=can_open, guard=guard)

    def tools(images: Images) -> Tools:
        every: dict[str, Tool] = {
            SEARCH: search,
            READ: ReadTool(guard, desk),
            LOOK: LookTool(guard, images, desk),
        }
        return {action: every[action] for action in actions}

    return tools


def _embedder(folder: Path) -> Embedder:
    """An embedding model of any kind."""
    # Here, so that only who searches by vectors waits for torch.
    from visual_arft.model.embedding import SentenceModel

    return SentenceModel(folder)


def open_desk(recording: Path | None, mode: Mode, limits: Limits = Limits()) -> Desk:  # noqa: B008
    """Where the search agent's requests are handed in; without a recording they go to the world."""
    if recording is None or mode == "live":
        return Desk(limits=limits)
    return Desk(Recording(recording, read_only=mode == "replay"), mode, limits)


def searcher(engine: str, desk: Desk) -> RecordedSearcher:
    """The engine that a word stands for, behind a desk."""
    opened = RecordedSearcher(
        engine_name(engine), desk, partial(open_engine, engine, load=_embedder)
    )
    if desk.asks_the_world:
        opened.open()  # so that what is wrong with it shows before anything is played
    return opened
