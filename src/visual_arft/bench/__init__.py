"""Benchmarks: what is played, how it is scored, and how the scores are shown."""
