"""What can be set about asking a model's server: data, no code."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from visual_arft.types import Record


class ServerConfig(Record):
    """How a server that speaks OpenAI's protocol is asked."""

    base_url: str = "https://api.openai.com/v1"
    """Its address."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests in flight."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0)] = 6
    price_in: Annotated[float, Field(ge=0)] = 0.0
    price_out: Annotated[float, Field(ge=0)] = 0.0
    max_cost: Annotated[float, Field(ge=0)] | None = None
