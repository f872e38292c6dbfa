"""Training: cold start and GRPO. Only `settings` may be imported without torch."""
