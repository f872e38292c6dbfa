"""While the tests run, the shapes in the signatures of the mathematics are checked on every call."""

from __future__ import annotations

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(
    [
        "visual_arft.training.advantages",
        "visual_arft.training.batch",
        "visual_arft.training.loss",
    ],
    "beartype.beartype",
)

settings.register_profile("default", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("default")
