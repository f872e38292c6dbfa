"""The templates' environment: everything is escaped, and an unknown name is an error."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image as Pil

from visual_arft.images import Images
from visual_arft.metrics import f1
from visual_arft.types import Image, Malformed, Trajectory

Source = Callable[[Image], str]
"""Turns an image into what an `img` element can show without a request."""


def render(template: str, **values: Any) -> str:
    """A page as HTML."""
    return _environment().get_template(template).render(f1=answer_f1, **values)


def source(images: Images) -> Source:
    """Data URIs of the images in a store."""

    def data_uri(image: Image) -> str:
        data = images.read(image)
        with Pil.open(io.BytesIO(data)) as picture:
            mime = picture.get_format_mimetype() or "image/png"
        return f"data:{mime};base64,{base64.b64encode(data).decode()}"

    return data_uri


def answer_f1(trajectory: Trajectory) -> float:
    """The paper's F1 of the final answer; Chinese answers are compared by character."""
    return f1(trajectory.answer, trajectory.task.answers, cjk=True)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("visual_arft.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests.update({"malformed": _is_malformed})
    return environment


def _is_malformed(value: Any) -> bool:
    return isinstance(value, Malformed)
