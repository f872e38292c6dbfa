"""What is done with a recording."""

from __future__ import annotations

from typing import Literal

Mode = Literal["live", "record", "replay", "replay-or-live"]
"""What is done with a recording.

`live` asks the world and keeps nothing. `record` asks the world once for each question, and keeps
the answer in place of an older one. `replay` asks the recording only. `replay-or-live` asks the
recording, then the world, and keeps what is new; a run that goes on wants this.
"""
