"""The coding agent: its rules, Python tool, rewards, degradations and data."""
