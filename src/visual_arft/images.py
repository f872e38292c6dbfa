"""Pictures by the hash of their bytes: in memory, or in a folder that many runs may share."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from pathlib import Path
from threading import get_ident
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import UnidentifiedImageError

from visual_arft.errors import UserError
from visual_arft.types import Image

Pixels = NDArray[np.uint8]
"""Height x width x 3, RGB, 0 to 255."""

_ANY_SERVER_READS = ("image/png", "image/jpeg", "image/webp", "image/gif")


class Images(Protocol):
    """Where the bytes behind an `Image` are kept."""

    def add(self, data: bytes) -> Image:
        """Keeps an encoded picture (PNG, JPEG, WebP…); the same bytes give the same `Image`."""
        ...

    def read(self, image: Image) -> bytes:
        """The bytes as they were added; raises `UserError` when the store lacks them."""
        ...


class MemoryImages:
    """An image store that lasts as long as the process."""

    def __init__(self, limit: int | None = None, behind: Images | None = None) -> None:
        """Starts empty.

        Args:
            limit: beyond so many pictures the one that was added longest ago is forgotten.
            behind: where pictures are read from that are not here.
        """
        self._data: dict[str, bytes] = {}
        self._limit = limit
        self._behind = behind

    def add(self, data: bytes) -> Image:
        """Keeps an encoded picture."""
        image = identify(data)
        self._data.pop(image.sha256, None)  # what is added again has been added last
        self._data[image.sha256] = data
        if self._limit is not None and len(self._data) > self._limit:
            del self._data[next(iter(self._data))]
        return image

    def read(self, image: Image) -> bytes:
        """The bytes as they were added."""
        if image.sha256 in self._data:
            return self._data[image.sha256]
        if self._behind is not None:
            return self._behind.read(image)
        raise UserError(f"image {image.sha256[:12]}… is not in this store")


class FolderImages:
    """An image store of one file per picture, `<sha256>`; safe to write from many at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, data: bytes) -> Image:
        """Keeps an encoded picture."""
        image = identify(data)
        path = self.folder / image.sha256
        if not path.exists():
            try:
                _write_whole(path, data)
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be written ({error.strerror}); free space on that disk, or "
                    "give a folder that can be written"
                ) from error
        return image

    def read(self, image: Image) -> bytes:
        """The bytes as they were added."""
        try:
            return (self.folder / image.sha256).read_bytes()
        except FileNotFoundError:
            raise UserError(
                f"{self.folder / image.sha256}: the picture is missing; copy the run's whole folder"
            ) from None


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is never seen half written, also where several write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def identify(data: bytes) -> Image:
    """The name and size of an encoded picture; raises `UserError` when it is not one."""
    if not data:
        raise UserError("the image has 0 bytes; give a PNG, JPEG or WebP file")
    try:
        with Pil.open(io.BytesIO(data)) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, SyntaxError, Pil.DecompressionBombError) as error:
        raise UserError(f"not an image ({error}); give a PNG, JPEG or WebP file") from None
    return Image(sha256=hashlib.sha256(data).hexdigest(), width=width, height=height)


def load(path: Path, images: Images) -> Image:
    """Adds a picture file to a store; raises `UserError` naming the file."""
    try:
        return images.add(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of an image file") from None


def decode(data: bytes) -> Pixels:
    """RGB pixels of an encoded picture; transparency is laid on white."""
    try:
        with Pil.open(io.BytesIO(data)) as picture:
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                rgba = picture.convert("RGBA")
                ground = Pil.new("RGBA", rgba.size, "white")
                return np.asarray(Pil.alpha_composite(ground, rgba).convert("RGB"))
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"the image cannot be decoded ({error}); save it again as PNG") from None


def encode(pixels: Pixels) -> bytes:
    """PNG bytes of RGB pixels; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Pil.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    """An address that holds an encoded picture, as a PNG where not every server reads its kind."""
    with Pil.open(io.BytesIO(data)) as picture:
        kind = picture.get_format_mimetype()
    if kind not in _ANY_SERVER_READS:
        data, kind = encode(decode(data)), "image/png"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
