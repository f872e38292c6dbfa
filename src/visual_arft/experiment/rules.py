"""The rules and the tools of each game, as a recipe asks for them."""

from __future__ import annotations

from pathlib import Path

from visual_arft.config import Context, Recipe
from visual_arft.envs.coding.env import DEFAULT_TEMPLATE as CODING_TEMPLATE
from visual_arft.envs.coding.env import PYTHON, CodingEnv, Wording
from visual_arft.envs.coding.tool import PythonSessions, PythonTool
from visual_arft.envs.direct import DEFAULT_TEMPLATE as DIRECT_TEMPLATE
from visual_arft.envs.direct import DirectEnv
from visual_arft.envs.search.data import load_corpus
from visual_arft.envs.search.engines import Bm25Searcher
from visual_arft.envs.search.env import DEFAULT_TEMPLATE as SEARCH_TEMPLATE
from visual_arft.envs.search.env import SEARCH, SearchEnv
from visual_arft.envs.search.tool import SearchTool
from visual_arft.errors import UserError
from visual_arft.images import Images
from visual_arft.sandbox import Sandbox
from visual_arft.synth import coding as mini_coding
from visual_arft.synth import search as mini_search
from visual_arft.tools import Tools

PRACTICE = "practice"
"""The data source of a base model: no tasks, no tools."""


def coding_env(context: Context, template: str | None = None, *, tiny: bool = False) -> CodingEnv:
    """The coding agent's rules; the tiny model has instructions of its own."""
    default = mini_coding.TEMPLATE if tiny else CODING_TEMPLATE
    wording = mini_coding.WORDING if tiny else Wording()
    return CodingEnv(context, template or default, wording)


def search_env(context: Context, template: str | None = None, *, tiny: bool = False) -> SearchEnv:
    """The search agent's rules; the tiny model has instructions of its own."""
    return SearchEnv(context, template or (mini_search.TEMPLATE if tiny else SEARCH_TEMPLATE))


def direct_env(template: str | None = None, *, tiny: bool = False) -> DirectEnv:
    """The rules without tools; the tiny model's practice was questions as they are."""
    return DirectEnv(template or ("{question}" if tiny else DIRECT_TEMPLATE))


def is_tiny(recipe: Recipe) -> bool:
    """Whether a recipe trains on the generated tasks, which are worded for the tiny model."""
    return recipe.data.source == PRACTICE or recipe.data.source.startswith("mini-mat-")


def template_of(recipe: Recipe) -> str | None:
    """The instructions that a recipe brings; None where it leaves them to us."""
    path = recipe.data.prompt_file
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.prompt_file = {str(path)!r} cannot be read ({error}); give a text file"
        ) from None


def python_tools(sandbox: Sandbox, context: Context, images: Images) -> Tools:
    """The coding agent's tools; in a growing chat, what code leaves stays for the next step."""
    make = PythonSessions if context == "append" else PythonTool
    return {PYTHON: make(sandbox, images)}


def search_tools(corpus: Path) -> Tools:
    """The search agent's tools, over a file of passages."""
    return {SEARCH: SearchTool(Bm25Searcher(load_corpus(corpus)))}
