"""Teach a vision-language model to use tools by reinforcement learning.

Implements *Visual Agentic Reinforcement Fine-Tuning* (arXiv 2505.14246). Start with docs/tour.md.
"""

__version__ = "0.1.0"
