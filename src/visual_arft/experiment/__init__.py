"""Whole runs, put together from a recipe: what the command's words stand for.

Each of these loads torch when it is called, not before.
"""

from visual_arft.experiment.demo import demo
from visual_arft.experiment.playing import bench, chat
from visual_arft.experiment.training import describe, train

__all__ = ["bench", "chat", "demo", "describe", "train"]
