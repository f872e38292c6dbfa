"""What can be set about a training run: data, no code, and no torch.

Every field has a sentence and a bound; the defaults are the vetted setting.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from visual_arft.types import Record

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class OptimizerConfig(Record):
    """AdamW, or Muon for the matrices inside; a linear warm-up and an optional linear decay."""

    lr: Positive = 1e-6
    """Learning rate after warm-up."""
    muon_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of Muon for the matrices inside layers, for training from nothing; 0: AdamW for
    every weight."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    decay: bool = False
    """Let the learning rate fall linearly to a tenth over the run."""


class TreeConfig(Record):
    """How an update's rows are computed: what they share once, or each by itself."""

    way: Literal["auto", "shared", "packed", "padded"] = "auto"
    """`shared`: each run of tokens once for all that come after it, on a CPU; `packed`: one row
    under a block mask, for a GPU; `auto` is the one for the device; `padded`: nothing is shared."""
    pack_tokens: Count = 8192
    """Tokens that are computed at once, and so the memory; what needs more is cut where least is
    computed again. No row may be longer."""


class ColdStartConfig(Record):
    """Supervised steps on demonstrations, streamed and never repeated."""

    steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer updates; 0 skips the cold start."""
    batch_size: Count = 32
    """Demonstrations per update."""
    micro_batch_size: Count = 32
    """Rows per forward pass where they are padded; gradients add up over the update."""
    tree: TreeConfig = TreeConfig()
    """How rows are computed."""
    autocast: bool = False
    """Compute in bfloat16 where it is safe, on what can; the weights keep their format."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=7e-4, warmup_steps=10)
    """How the weights move."""


class GrpoConfig(Record):
    """How the policy is updated by reinforcement learning."""

    mode: Literal["episode", "stepwise"] = "episode"
    """`episode`: whole episodes, tools really executed; `stepwise`: single decisions (paper)."""
    steps: Annotated[int, Field(ge=0)] = 200
    """Rollout-and-update rounds."""
    prompts_per_step: Count = 16
    """Tasks drawn per round."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts per task; the advantage is relative to the group, so one is not enough."""
    micro_batch_size: Count = 16
    """Rows per forward pass where they are padded; gradients add up over the update."""
    tree: TreeConfig = TreeConfig()
    """How rows are computed."""
    updates_per_step: Count = 1
    """Optimizer updates on each round's rollouts; above 1 the clipped ratio matters."""
    clip_range: Positive = 0.2
    """The probability ratio is clipped to 1 ± this."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.04
    """Weight of the KL penalty to the reference policy; 0 also skips loading it."""
    scale_advantage: bool = True
    """Divide the group-relative advantage by the group's standard deviation."""
    reduction: Literal["token", "sequence", "constant"] = "token"
    """What the loss is a mean over: `token`, all sampled tokens (DAPO); `sequence`, the tokens of a
    row, and then rows (GRPO as published); `constant`, the round's rollouts times `max_new_tokens`,
    whatever was sampled (Dr. GRPO, which goes with `scale_advantage = false`).

    A row is a turn, or a whole episode where each prompt extends the turn before it.
    """
    ratio: Literal["token", "sequence"] = "token"
    """Whose probability ratio is clipped: each token's own; or one for each row, the geometric mean
    over its tokens (GSPO, arXiv 2507.18071, whose `clip_range` is about 3e-4)."""
    max_turns: Count = 5
    """Turns of an episode; the paper's value."""
    max_new_tokens: Count = 1024
    """Tokens of one reply."""
    temperature: Positive = 1.0
    """Of sampling in training."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights move."""
    checkpoint_every: Count = 50
    """Rounds between checkpoints."""
