"""What a run of a recipe would do."""

from __future__ import annotations

from visual_arft.config import Recipe, dump_recipe


def describe(recipe: Recipe) -> str:
    """The resolved recipe, and in words what a run of it does."""
    grpo, cold, measured = recipe.grpo, recipe.cold_start, recipe.eval
    parts: list[str] = []
    if cold.steps:
        parts.append(f"cold start: {cold.steps} updates of {cold.batch_size} demonstrations")
    if grpo.steps:
        parts.append(
            f"GRPO, {grpo.mode}: {grpo.steps} rounds of {grpo.prompts_per_step} tasks x "
            f"{grpo.group_size} rollouts, up to {grpo.max_turns} turns of "
            f"{grpo.max_new_tokens} tokens"
        )
        on_the_way = f", and every {measured.every} rounds," if measured.every else ""
        parts.append(f"measured before and after{on_the_way} on {measured.n} held-out tasks")
    return dump_recipe(recipe) + "\n" + "\n".join(f"# {part}" for part in parts)
