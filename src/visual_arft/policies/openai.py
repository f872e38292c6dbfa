"""A policy behind a server that speaks OpenAI's chat protocol.

Its key comes from OPENAI_API_KEY when the first request is made, is sent in a header, and stands
nowhere else: in no name, no record and no message.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, Field, JsonValue, ValidationError

from visual_arft.envs.search.unavailable import Unavailable, retry_after_s
from visual_arft.errors import PolicyFailure, UserError
from visual_arft.images import Images, data_url
from visual_arft.policies import Sampling
from visual_arft.policies.settings import OPENAI_URL, ServerConfig
from visual_arft.recording import Recording
from visual_arft.tags import with_thought
from visual_arft.types import Completion, Message, Prompt, Usage

KEY = "OPENAI_API_KEY"

_MOST_BACKOFF_S = 60.0
_PASSING = (408, 409, 425, 429)
"""Statuses, beside those of 500 and more, after which the same request may succeed."""


@dataclass
class Tally:
    """What was asked of a server since the policy was made."""

    requests: int = 0
    """Tries included."""
    retries: int = 0
    from_cache: int = 0
    """Replies that were known and not asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """US dollars, at the prices given."""


class OpenAIPolicy:
    """Asks for each reply by itself; prompts that are asked at once are under way at once."""

    def __init__(
        self,
        model: str,
        server: ServerConfig,
        sampling: Sampling,
        images: Images,
        *,
        cache: Recording | None = None,
    ) -> None:
        """Asks nothing yet.

        Args:
            model: the server's name for it.
            server: where it is, and how it may be asked.
            sampling: how replies are drawn. The seed is sent where there is something to draw;
                whether it is heeded is up to the server.
            images: where the bytes behind an `Image` are found.
            cache: where good answers are kept, and found again by what was asked of whom.
        """
        self._model = model
        self._server = server
        self._sampling = sampling
        self._images = images
        self._cache = cache
        self._line: _Line | None = None
        self._next_start = 0.0
        self.tally = Tally()

    async def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion for each prompt, in order.

        Raises:
            PolicyFailure: the server did not answer one of them, however often it was asked.
            UserError: it will not answer any: a wrong key, address or model, or no money left.
        """
        asked = [self._reply(prompt) for prompt in prompts]
        done = await asyncio.gather(*asked, return_exceptions=True)
        if failed := next((each for each in done if isinstance(each, BaseException)), None):
            raise failed
        return [each for each in done if isinstance(each, Completion)]

    async def close(self) -> None:
        """Ends its connections, before their loop does; it may go on with new ones."""
        if self._line is not None:
            await self._line.client.close()
            self._line = None

    async def _reply(self, prompt: Prompt) -> Completion:
        request = self._request(prompt)
        if self._cache is not None:
            try:
                kept = self._cache.get(self._server.base_url, request)
            except KeyError:
                pass
            else:
                self.tally.from_cache += 1
                return Completion.model_validate(kept)
        line = self._open()
        async with line.gate:
            reply = await self._ask(line.client, self._payload(prompt))
        if self._cache is not None:
            answer = reply.model_dump(mode="json", exclude_defaults=True)
            self._cache.put(self._server.base_url, request, answer, again=False)
        return reply

    async def _ask(self, client: openai.AsyncOpenAI, payload: dict[str, Any]) -> Completion:
        """A reply, after as many tries as it takes or as are allowed."""
        tried = 0
        while True:
            self._check_cost()
            await self._wait_for_start()
            self.tally.requests += 1
            self.tally.retries += tried > 0
            tried += 1
            try:
                return await self._try(client, payload)
            except Unavailable as failed:
                if tried > self._server.retries:
                    where = f"{self._server.base_url}, asked {tried} times"
                    raise PolicyFailure(f"{where}: {failed}") from None
                await asyncio.sleep(self._backoff(tried, failed.retry_after_s))

    async def _try(self, client: openai.AsyncOpenAI, payload: dict[str, Any]) -> Completion:
        """A reply; raises `Unavailable` where the next try may have one."""
        most = self._server.timeout_s
        try:
            async with asyncio.timeout(most):  # the client's own is of each byte that comes
                raw = await client.chat.completions.with_raw_response.create(**payload)
            return self._completion(_Answer.model_validate_json(raw.content))
        except TimeoutError:
            raise Unavailable(f"no whole answer in {most:g} s") from None
        except openai.APIStatusError as error:
            raise self._unavailable(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Unavailable(_short(str(cause) or type(cause).__name__)) from None
        except ValidationError as error:
            raise Unavailable(f"the answer is no chat completion: {_short(str(error))}") from None

    def _completion(self, answer: _Answer) -> Completion:
        choice = answer.choices[0]
        text = choice.message.text
        if text is None and choice.finish_reason in (None, "stop"):
            raise Unavailable("the answer has no text")
        return Completion(
            text=text or "",
            finish_reason="length" if choice.finish_reason == "length" else "stop",
            usage=answer.usage and self._counted(answer.usage),
        )

    def _counted(self, usage: _Counted) -> Usage:
        read, written = usage.prompt_tokens or 0, usage.completion_tokens or 0
        self.tally.prompt_tokens += read
        self.tally.completion_tokens += written
        self.tally.cost += (read * self._server.price_in + written * self._server.price_out) / 1e6
        return Usage(prompt_tokens=read, completion_tokens=written)

    def _unavailable(self, error: openai.APIStatusError) -> Unavailable:
        """What a status says that may pass; raises what will be said again."""
        status, said = error.status_code, self._said(error)
        where = f"{self._server.base_url}: status {status}"
        if status in (401, 403):
            raise UserError(f"{where}; set {KEY} to a key that it takes: {said}") from None
        if status == 404:
            raise UserError(
                f"{where} for the model {self._model!r}; check the address, which mostly ends with "
                f"/v1, and the server's name for the model: {said}"
            ) from None
        if status == 402 or error.code == "insufficient_quota":
            raise UserError(f"{where}; pay there and run again: {said}") from None
        if status not in _PASSING and status < 500:
            raise PolicyFailure(f"{where}: {said}") from None
        return Unavailable(
            f"status {status}: {said}", retry_after_s=retry_after_s(error.response.headers)
        )

    def _said(self, error: openai.APIStatusError) -> str:
        """What the server says is wrong; some repeat the key that they refuse."""
        body: object = error.body
        told = cast(dict[str, object], body).get("message") if isinstance(body, dict) else None
        said = str(told or error.response.text or error.response.reason_phrase)
        return _short(said.replace(os.environ.get(KEY, "").strip() or "\0", "(the key)"))

    def _backoff(self, tried: int, asked_s: float | None) -> float:
        """Seconds to wait: as many as the server asks for, or more each time, never quite alike."""
        own = self._server.backoff_s * 2 ** (tried - 1) * random.uniform(0.75, 1.25)
        return min(_MOST_BACKOFF_S, own if asked_s is None else max(own, asked_s))

    async def _wait_for_start(self) -> None:
        if self._server.requests_per_minute is None:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 60 / self._server.requests_per_minute
        await asyncio.sleep(start - now)

    def _check_cost(self) -> None:
        most = self._server.max_cost
        if most is not None and self.tally.cost >= most:
            raise UserError(
                f"{self.tally.cost:.2f} of {most:.2f} US$ are spent; raise --max-cost and run again"
            )

    def _open(self) -> _Line:
        """The connections of the running loop: those of another have ended with it."""
        loop = asyncio.get_running_loop()
        if self._line is None or self._line.loop is not loop:
            client = openai.AsyncOpenAI(
                api_key=self._key(),
                base_url=self._server.base_url,
                timeout=self._server.timeout_s,
                max_retries=0,  # tries are counted, paced and told of here
            )
            self._line = _Line(loop, client, asyncio.Semaphore(self._server.concurrency))
        return self._line

    def _key(self) -> str:
        key = os.environ.get(KEY, "").strip()
        if not key and self._is_openai:
            raise UserError(f"{self._server.base_url} needs a key; set {KEY} in the environment")
        return key or "none"

    @property
    def _is_openai(self) -> bool:
        return urlsplit(self._server.base_url).hostname == urlsplit(OPENAI_URL).hostname

    def _request(self, prompt: Prompt) -> JsonValue:
        """Everything that decides the answer, pictures by their hash."""
        return {
            "model": self._model,
            "messages": [
                {
                    "role": message.role,
                    "text": message.text,
                    "images": [image.sha256 for image in message.images],
                }
                for message in prompt.messages
            ],
            "temperature": self._sampling.temperature,
            "max_new_tokens": self._sampling.max_new_tokens,
            "seed": self._sampling.seed,
        }

    def _payload(self, prompt: Prompt) -> dict[str, Any]:
        # OpenAI's own newer models refuse the name that all other servers know.
        limit = "max_completion_tokens" if self._is_openai else "max_tokens"
        # No `stop`: a reply ends where the model ends it, and some servers fail on it.
        payload = {
            "model": self._model,
            "messages": [self._message(message) for message in prompt.messages],
            "temperature": self._sampling.temperature,
            limit: self._sampling.max_new_tokens,
        }
        if self._sampling.temperature > 0:
            payload["seed"] = self._sampling.seed
        return payload

    def _message(self, message: Message) -> dict[str, Any]:
        if not message.images:
            return {"role": message.role, "content": message.text}
        pictures = [
            {"type": "image_url", "image_url": {"url": data_url(self._images.read(image))}}
            for image in message.images
        ]
        text = {"type": "text", "text": message.text}
        return {"role": message.role, "content": [*pictures, text]}


@dataclass(frozen=True)
class _Line:
    """The connections to a server in one event loop."""

    loop: asyncio.AbstractEventLoop
    client: openai.AsyncOpenAI
    gate: asyncio.Semaphore


class _Part(BaseModel):
    text: str = ""


class _Said(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str | None:
        """What was said, a refusal too, after what was thought; None where there is neither."""
        said = self.refusal if self.content is None else self.content
        if isinstance(said, list):
            said = "".join(part.text for part in said)
        # Many servers take the thought out of a reply, whoever asked for it: here it is part of it.
        thought = self.reasoning_content or self.reasoning
        return with_thought(thought, said or "") if thought else said


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Counted(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Answer(BaseModel):
    """What is read of a server's answer; what else it says does not matter."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Counted | None = None


def _short(text: str) -> str:
    """The beginning of a text, on one line."""
    return " ".join(text.split())[:300]
