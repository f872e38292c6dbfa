"""The sandbox as a recipe asks for it."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import Field

from visual_arft.sandbox.outcome import Limits
from visual_arft.sandbox.sandbox import Sandbox, UnsafeSandbox
from visual_arft.types import Record


class UnsafeWarning(UserWarning):
    """Code of the model runs without confinement."""


class SandboxConfig(Record):
    """Where the policy's code runs, and what it may use."""

    executor: Literal["sandbox", "unsafe"] = "sandbox"
    """`unsafe` confines nothing: code can do all that you can. For a machine of no value."""
    cpu_s: Annotated[float, Field(ge=0.1)] = 5.0
    """Seconds of CPU time for each execution."""
    wall_s: Annotated[float, Field(ge=0.1)] = 15.0
    """Seconds on the clock for each execution."""
    memory_mb: Annotated[int, Field(ge=16)] = 1024
    """Address space for each execution."""


def open_sandbox(config: SandboxConfig, *, workers: int) -> Sandbox:
    """The sandbox of a recipe; warns where it is none."""
    limits = Limits(cpu_s=config.cpu_s, wall_s=config.wall_s, memory_mb=config.memory_mb)
    if config.executor == "sandbox":
        return Sandbox(limits=limits, workers=workers)
    warnings.warn(
        "sandbox.executor = 'unsafe': the model's code runs without confinement and can read, "
        "change and send all that you can; leave the key out to confine it",
        UnsafeWarning,
        stacklevel=2,
    )
    return UnsafeSandbox(limits=limits, workers=workers)
