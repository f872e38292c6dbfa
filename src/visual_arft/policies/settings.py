"""What can be set about asking a model's server: data, no code."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from visual_arft.types import Record

OPENAI_URL = "https://api.openai.com/v1"

_Dollars = Annotated[float, Field(ge=0)]


class ServerConfig(Record):
    """How a server that speaks OpenAI's protocol is asked: nothing that an answer depends on."""

    base_url: str = OPENAI_URL
    """Its address, which mostly ends with /v1."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests in flight."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Started at most, evenly spaced; None is without limit."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that a reply may take."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Tries after the first one of a request that failed and may yet succeed."""
    backoff_s: Annotated[float, Field(gt=0)] = 0.5
    """Seconds before the second try, twice as many before each next, at most 60."""
    price_in: _Dollars = 0.0
    """US dollars for a million tokens read."""
    price_out: _Dollars = 0.0
    """US dollars for a million tokens written."""
    max_cost: _Dollars | None = None
    """US dollars to spend; None is without end."""
