"""Cold start: supervised steps on demonstrations, before reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from visual_arft.model.chat import Chat
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.training.loss import sft_loss
from visual_arft.training.passes import Pass, passes
from visual_arft.training.segments import Row, rows, segments
from visual_arft.training.settings import ColdStartConfig
from visual_arft.training.updates import Updates
from visual_arft.types import Trajectory, Turn

Demonstrations = Callable[[int, int], Sequence[Trajectory]]
"""`demonstrations(start, count)`: the next ones of a stream, the same for the same numbers."""


def cold_start(
    vlm: VisionLanguageModel, demonstrations: Demonstrations, config: ColdStartConfig
) -> Iterator[dict[str, float]]:
    """Trains on a stream of demonstrations; yields each step's numbers."""
    updates = Updates(vlm.model, config.optimizer, config.steps)
    for step in range(config.steps):
        shown = demonstrations(step * config.batch_size, config.batch_size)
        batch = [row for each in shown for row in demonstration_rows(each, vlm.chat)]
        total = sum(map(sum, (row.mask for row in batch)))
        parts = passes(vlm, batch, config.tree, micro_batch_size=config.micro_batch_size)
        loss = sum(_backward(vlm, part, total, autocast=config.autocast) for part in parts)
        lr = updates.lr
        yield {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": updates.step()}


def demonstration_rows(demonstration: Trajectory, chat: Chat) -> list[Row]:
    """The rows that teach every reply of a demonstration."""
    turns: list[Turn] = []
    for turn in demonstration.turns:
        ids = (*chat.tokenize(turn.completion.text), chat.tokenizer.eos_token_id)
        completion = turn.completion.model_copy(
            update={
                "prompt_ids": chat.encode(turn.prompt).ids,
                "token_ids": ids,
                "logprobs": (0.0,) * len(ids),
            }
        )
        turns.append(turn.model_copy(update={"completion": completion}))
    written = demonstration.model_copy(update={"turns": tuple(turns)})
    return rows(segments(written, advantage=1.0))


def _backward(vlm: VisionLanguageModel, part: Pass, total: int, *, autocast: bool) -> float:
    enabled = autocast and _has_bfloat16(vlm.device)
    with torch.autocast(vlm.device.type, torch.bfloat16, enabled=enabled):
        logprobs = part.logprobs(vlm, temperature=1.0)
    loss = sft_loss(logprobs, part.batch.mask.to(vlm.device), total=total)
    loss.backward()
    return float(loss.detach())


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; torch imitates it on other CPUs, ten times slower."""
    if device.type != "cpu":
        return True
    # Where torch cannot tell, all is computed in full.
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
