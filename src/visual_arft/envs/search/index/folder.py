"""An index as a folder: tantivy's files, and a manifest that is written last."""

from __future__ import annotations

from pathlib import Path

import tantivy
from pydantic import ValidationError

from visual_arft.errors import UserError
from visual_arft.types import Record

FORMAT = 1
"""Of the folder; another number is built again, not converted."""

WORDS = "words"
"""The field that is looked through, not stored; `id`, `contents` and `url` are stored only."""

_MANIFEST = "arft-index.json"


class Source(Record):
    """A file that an index was built from, as it was then."""

    path: str
    bytes: int
    modified_ns: int


class Manifest(Record):
    """What an index holds; while it is being built, only what it is built from."""

    format: int = FORMAT
    sources: tuple[Source, ...]
    passages: int = 0
    characters: int = 0

    def write(self, folder: Path) -> None:
        """Puts it into an index's folder."""
        partial = folder / f"{_MANIFEST}.part"
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / _MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index; raises `UserError` where there is none that can be read."""
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except OSError:
        unfinished = being_built(folder)
        if unfinished.is_dir():
            raise UserError(
                f"{folder}: its build has not ended; run arft search build again, and it goes on"
            ) from None
        raise UserError(
            f"{folder}: not an index; build one by arft search build SOURCE --out {folder}"
        ) from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{folder / _MANIFEST}: {reason}; build the index again") from None
    if manifest.format != FORMAT:
        raise UserError(
            f"{folder}: its format is {manifest.format}, and this version reads {FORMAT}; "
            "build the index again"
        )
    return manifest


def is_index(folder: Path) -> bool:
    """Whether an index stands here, or will when its build has ended."""
    return (folder / _MANIFEST).exists() or (not folder.exists() and being_built(folder).is_dir())


def being_built(folder: Path) -> Path:
    """Where an index lies until it is whole."""
    return folder.with_name(f"{folder.name}.building")


def schema() -> tantivy.Schema:
    """The fields of a passage."""
    builder = tantivy.SchemaBuilder()
    # Frequencies without positions: BM25 needs no more, and phrases are not asked for.
    builder.add_text_field(WORDS, stored=False, tokenizer_name=WORDS, index_option="freq")
    for name in ("id", "contents", "url"):
        builder.add_bytes_field(name, stored=True)
    return builder.build()


def analyzer() -> tantivy.TextAnalyzer:
    """What makes words of a text on which `spaced` was called."""
    words = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    return words.filter(tantivy.Filter.lowercase()).filter(tantivy.Filter.remove_long(60)).build()
