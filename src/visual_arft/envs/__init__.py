"""Environments: one folder each, with its rules, tools, rewards and data."""
