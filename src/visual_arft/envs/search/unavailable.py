"""Why an engine did not answer: whether it pays to ask again."""

from __future__ import annotations

from collections.abc import Mapping


class Unavailable(OSError):
    """It did not answer now, and may do so later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds that it asks to wait."""


class Refused(OSError):
    """It will not answer this, however often it is asked."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds in a `Retry-After` header; None where it is missing or a date."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None
