"""Pictures that the rows of a data file name."""

from __future__ import annotations

from pathlib import Path

from visual_arft.errors import UserError
from visual_arft.images import Images, load
from visual_arft.types import Image


def row_image(path: Path, number: int, key: str, name: str, images: Images) -> Image:
    """A row's picture: beside the file, or in the folder `<file>-image` that MAT comes with.

    Raises `UserError` naming the file, the row (from 1) and the key.
    """
    places = [path.parent / name, path.parent / f"{path.stem}-image" / name]
    try:
        return load(next((place for place in places if place.exists()), places[0]), images)
    except UserError as error:
        raise UserError(f"{path}, row {number}, key {key!r}: {error}") from None
