"""What makes the replies of a benchmark: a local model, a server, or a file of replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import TypeAdapter, ValidationError

from visual_arft.bench.settings import BenchConfig
from visual_arft.errors import UserError
from visual_arft.experiment.pace import Pace
from visual_arft.experiment.player import Player
from visual_arft.images import Images
from visual_arft.policies import Policy, Sampling
from visual_arft.policies.scripted import ScriptedPolicy
from visual_arft.policies.settings import ServerConfig
from visual_arft.recording import Recording
from visual_arft.store import Store
from visual_arft.types import Prompt

if TYPE_CHECKING:
    from visual_arft.policies.openai import OpenAIPolicy

ANSWERS = "answers.sqlite"
"""The file in a run's folder that a server's answers are kept in."""


class Engine(Protocol):
    """What makes the replies; nothing is loaded or asked before there is something to play."""

    concurrency: int
    """Episodes side by side."""
    freely: bool
    """Whether it answers prompts one by one, so that episodes need not wait for each other."""

    def policy(self, repeat: int) -> Policy:
        """What chooses the actions when tasks are played for the `repeat`-th time, from 0."""
        ...

    def tally(self) -> dict[str, float]:
        """What was asked of it since it was opened; empty where nobody charges for that."""
        ...

    async def close(self) -> None:
        """Ends its connections."""
        ...


def open_engine(config: BenchConfig, pace: Pace, player: Player, store: Store) -> Engine:
    """The engine that a benchmark run names."""
    if config.engine == "scripted":
        return _Script(Path(config.model), pace.concurrency or player.batch_size)
    sampling = Sampling(
        temperature=config.temperature,
        max_new_tokens=player.max_new_tokens,
        seed=config.seed,
        keyed=True,
    )
    if config.engine == "transformers":
        return _Local(player, sampling, store.images, pace.concurrency or player.batch_size)
    model, server = config.served_as or config.model, pace.server or ServerConfig()
    cache = pace.cache or store.folder / ANSWERS
    return _Server(model, server, sampling, store.images, cache)


class _Local:
    """A model in this process. In lockstep, so that a run that was cut ends like any other."""

    freely = False

    def __init__(
        self, player: Player, sampling: Sampling, images: Images, concurrency: int
    ) -> None:
        self._player, self._sampling, self._images = player, sampling, images
        self.concurrency = concurrency

    def policy(self, repeat: int) -> Policy:
        return self._make(_sampling(self._sampling, repeat))

    @cached_property
    def _make(self) -> Callable[[Sampling], Policy]:
        """What makes a policy of the model, which is loaded once."""
        # Here, so that what is wrong with the rest of the command shows before torch loads.
        from visual_arft.model.load import is_supported, load
        from visual_arft.policies.generate import GeneratePolicy
        from visual_arft.policies.transformers import TransformersPolicy

        config = self._player.model
        if is_supported(config):
            return partial(TransformersPolicy, load(config, self._images))
        from visual_arft.model.foreign import load_foreign

        model = load_foreign(config, self._images)
        return partial(GeneratePolicy, model, batch_size=self.concurrency)

    def tally(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        pass


class _Server:
    """A server that speaks OpenAI's protocol; what it answered is kept and not asked again."""

    freely = True

    def __init__(
        self, model: str, server: ServerConfig, sampling: Sampling, images: Images, cache: Path
    ) -> None:
        self._model, self._server, self._sampling = model, server, sampling
        self._images, self._cache = images, cache
        self._opened: list[OpenAIPolicy] = []
        self.concurrency = server.concurrency

    @cached_property
    def _answers(self) -> Recording:
        return Recording(self._cache)

    def policy(self, repeat: int) -> Policy:
        from visual_arft.policies.openai import OpenAIPolicy

        sampling = _sampling(self._sampling, repeat)
        self._opened.append(
            OpenAIPolicy(self._model, self._server, sampling, self._images, cache=self._answers)
        )
        return self._opened[-1]

    def tally(self) -> dict[str, float]:
        total = Counter[str]()
        for policy in self._opened:
            total.update(asdict(policy.tally))
        return dict(total)

    async def close(self) -> None:
        for policy in self._opened:
            await policy.close()
        if "_answers" in self.__dict__:
            self._answers.close()


class _Script:
    """Replies of a file: the first whose key occurs in the prompt is given."""

    freely = True

    def __init__(self, path: Path, concurrency: int) -> None:
        self._path, self.concurrency = path, concurrency
        self._replies = _read(path)

    def policy(self, repeat: int) -> Policy:
        return ScriptedPolicy(self._reply)

    def tally(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        pass

    def _reply(self, prompt: Prompt) -> str:
        text = "\n".join(message.text for message in prompt.messages)
        found = next((key for key in self._replies if key in text), None)
        if found is None:
            raise UserError(
                f'{self._path}: no key occurs in the prompt {text[-40:]!r}; add "" for any prompt'
            )
        return self._replies[found]


def _sampling(sampling: Sampling, repeat: int) -> Sampling:
    """Of one of several plays: each is drawn anew."""
    return sampling.model_copy(update={"seed": sampling.seed + repeat})


def _read(path: Path) -> dict[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a JSON file of replies") from None
    except ValidationError:
        raise UserError(
            f"{path}: not a JSON object of texts; write {{TEXT IN THE PROMPT: REPLY, …}}"
        ) from None
