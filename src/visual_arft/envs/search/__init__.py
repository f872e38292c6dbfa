"""The search agent: its rules, engines, tool, rewards and data."""
