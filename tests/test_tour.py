from __future__ import annotations

import re
from pathlib import Path

TOUR = Path(__file__).parents[1] / "docs" / "tour.md"


def test_the_tour_runs():
    text = TOUR.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert blocks
    for block in blocks:
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(TOUR), "exec"), names)
