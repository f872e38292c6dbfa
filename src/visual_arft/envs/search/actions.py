"""What an agent that searches may do: the kinds of its actions, and the names of its tools."""

from __future__ import annotations

from typing import Literal

SearchAction = Literal["search", "read", "look"]
"""What a policy may be allowed to do beside answering."""

SEARCH = "search"
"""Asks the engine."""
READ = "read"
"""Opens a page as text."""
LOOK = "look"
"""Opens a page as a picture."""

STEPS = ("click", "type", "scroll", "back")
"""On a page that was opened by a look: `click 3`, `type 3 words`, `scroll down`, `back`."""
