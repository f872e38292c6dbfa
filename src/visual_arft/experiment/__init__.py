"""Whole runs, put together from a recipe: what the command's words stand for."""
