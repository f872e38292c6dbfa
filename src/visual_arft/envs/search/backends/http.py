"""Engines that are asked over HTTP: what a request looks like, and what an answer means.

Keys come from the environment when the first request is made. They are sent in a header and stand
nowhere else: in no name, no record and no message.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2
from pydantic import ValidationError

from visual_arft.envs.search.results import Passage, Result, passage_result
from visual_arft.envs.search.unavailable import Refused, Unavailable, retry_after_s
from visual_arft.errors import UserError

Options = Mapping[str, str]
"""What a provider takes beside the query, such as `gl=us` or `language=de`, by its own names."""

_CONNECTIONS = 32


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Provider:
    """How one service is asked, and how its answer is read."""

    name: str
    base: str
    """Its address; empty where the operator says it."""
    key: str | None
    """The environment variable that holds its key."""
    ask: Callable[[str, int, str, Options], Ask]
    """The request for a query, a number of results, a key and options."""
    read: Callable[[Any], Sequence[Result]]
    """The results in its JSON; raises KeyError, TypeError or ValueError where it is another."""
    hint: str = ""
    """What mostly is wrong where it refuses."""


class HttpSearcher:
    """A provider as a search engine."""

    def __init__(
        self,
        provider: Provider,
        *,
        base: str = "",
        options: Options | None = None,
        timeout_s: float = 20.0,
    ) -> None:
        """Asks nothing yet.

        Args:
            provider: one of `PROVIDERS`.
            base: another address than the provider's own, such as a server at home.
            options: sent along with each query; part of the name, since they change the answer.
            timeout_s: seconds that an answer may take.
        """
        self._provider = provider
        self._options = dict(sorted((options or {}).items()))
        self._base = (base or provider.base).rstrip("/")
        said = [provider.name, *([self._base] if base else [])]
        self.name = " ".join([*said, *(f"{k}={v}" for k, v in self._options.items())])
        # Threads, not a loop's own connections: each `asyncio.run` is another loop.
        self._client = httpx2.Client(timeout=timeout_s, follow_redirects=False)
        weakref.finalize(self, self._client.close)
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix=provider.name)

    async def search(self, query: str, limit: int) -> list[Result]:
        """The provider's results; raises `Unavailable` or `Refused`, which are `OSError`."""
        ask = asyncio.get_running_loop().run_in_executor
        return await ask(self._threads, self._search, query, limit)

    def _search(self, query: str, limit: int) -> list[Result]:
        asked = self._provider.ask(query, limit, self._key(), self._options)
        try:
            response = self._client.request(
                asked.method,
                self._base + asked.path,
                params=asked.params,
                json=asked.json,
                headers=dict(asked.headers),
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self.name}: {type(error).__name__}: {error}") from None
        self._check(response)
        try:
            return list(self._provider.read(response.json()))[:limit]
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise Refused(
                f"{self.name}: the answer is not of its form ({type(error).__name__}: {error})"
            ) from None

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        said = f"{self.name}: status {status}"
        if status == 429 or status >= 500:
            raise Unavailable(said, retry_after_s=retry_after_s(response.headers))
        if status in (401, 403):
            remedy = self._provider.hint or f"check {self._provider.key}"
            raise UserError(f"{said}; {remedy}")
        raise Refused(said)

    def _key(self) -> str:
        name = self._provider.key
        if name is None:
            return ""
        if not (key := os.environ.get(name, "").strip()):
            raise UserError(f"{self._provider.name} needs a key; set {name} in the environment")
        return key


def _retrieve(query: str, limit: int, key: str, options: Options) -> Ask:
    # Servers of this protocol cannot leave out the scores, whatever they are told.
    body = {"queries": [query], "topk": limit, "return_scores": True}
    return Ask("POST", "/retrieve", json={**options, **body})


def _retrieved(answer: Any) -> list[Result]:
    [found] = answer["result"]
    return [_scored(each) for each in found]


def _scored(each: Any) -> Result:
    document = each.get("document", each)
    if not isinstance(text := document.get("contents"), str):
        text = f"{document.get('title') or ''}\n{document['text']}".strip()
    passage = Passage(
        id=str(document.get("id", "")), contents=text, url=str(document.get("url") or "")
    )
    return passage_result(passage, float(each.get("score", 0.0)))


def _serper(query: str, limit: int, key: str, options: Options) -> Ask:
    body = {**options, "q": query, "num": limit}
    return Ask("POST", "/search", json=body, headers={"X-API-KEY": key})


def _searxng(query: str, limit: int, key: str, options: Options) -> Ask:
    return Ask("GET", "/search", params={**options, "q": query, "format": "json"})


def _brave(query: str, limit: int, key: str, options: Options) -> Ask:
    params = {**options, "q": query, "count": min(limit, 20)}
    headers = {"X-Subscription-Token": key, "Accept": "application/json"}
    return Ask("GET", "/res/v1/web/search", params=params, headers=headers)


def _tavily(query: str, limit: int, key: str, options: Options) -> Ask:
    body = {**options, "query": query, "max_results": min(limit, 20)}
    return Ask("POST", "/search", json=body, headers={"Authorization": f"Bearer {key}"})


def _reader(rows: Callable[[Any], Any], **names: str) -> Callable[[Any], list[Result]]:
    """What reads a provider's rows, given the name it has for each field of a result."""

    def read(answer: Any) -> list[Result]:
        told = ({ours: row.get(theirs) for ours, theirs in names.items()} for row in rows(answer))
        return [_result(each) for each in told if each["snippet"] or each["title"]]

    return read


def _result(told: Mapping[str, Any]) -> Result:
    """A result of what a provider told; most leave out what they do not know, or say null."""
    return Result.model_validate(
        {"snippet": "", **{k: v for k, v in told.items() if v is not None}}
    )


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("retrieve", "", None, _retrieve, _retrieved),
        Provider(
            "serper",
            "https://google.serper.dev",
            "SERPER_API_KEY",
            _serper,
            _reader(
                lambda answer: answer.get("organic", []),
                title="title",
                url="link",
                snippet="snippet",
                published="date",
            ),
        ),
        Provider(
            "searxng",
            "",
            None,
            _searxng,
            _reader(
                lambda answer: answer["results"],
                title="title",
                url="url",
                snippet="content",
                score="score",
                published="publishedDate",
            ),
            hint="add json to search.formats in the settings.yml of that server",
        ),
        Provider(
            "brave",
            "https://api.search.brave.com",
            "BRAVE_API_KEY",
            _brave,
            _reader(
                lambda answer: answer.get("web", {}).get("results", []),
                title="title",
                url="url",
                snippet="description",
                published="page_age",
            ),
        ),
        Provider(
            "tavily",
            "https://api.tavily.com",
            "TAVILY_API_KEY",
            _tavily,
            _reader(
                lambda answer: answer["results"],
                title="title",
                url="url",
                snippet="content",
                text="raw_content",
                score="score",
                published="published_date",
            ),
        ),
    )
}
"""The services that can be asked over HTTP, by name."""
