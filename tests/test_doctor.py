from __future__ import annotations

import io

from rich.console import Console

from visual_arft.doctor import Finding, table


def test_the_table_shows_a_finding_word_for_word_brackets_included():
    finding = Finding(
        name="extra [train]", ok=False, found="lacks torch", remedy="pip install 'x[y]'"
    )
    screen = io.StringIO()
    Console(file=screen, width=120).print(table([finding]))
    assert "--" in screen.getvalue()
    for text in (finding.name, finding.found, finding.remedy):
        assert text in screen.getvalue()
