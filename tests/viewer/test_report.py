from __future__ import annotations

import pytest

from visual_arft.errors import UserError
from visual_arft.viewer.report import Section, write_report

CELL = {"n": 400, "em": 12.34, "em_ci": (9.0, 15.5), "f1": 20.0, "f1_ci": (17.25, 23.0)}


def section(store, solved, failed):
    return Section(
        name="coding",
        results={"cold_start": CELL, "trained": {**CELL, "em": 78.9, "em_t1": 70.0}},
        metrics=[{"step": step, "reward": step / 10} for step in range(5)],
        episodes=[(failed, solved)],
        images=store.images,
    )


def test_a_report_shows_results_curves_and_both_episodes(tmp_path, store, solved, failed):
    path = write_report(
        tmp_path / "new" / "report.html",
        title="Demo",
        facts={"seed": "0", "peak memory": "3.9 GB"},
        sections=[section(store, solved, failed)],
    )
    page = path.read_text(encoding="utf-8")
    for text in ("cold start", "12.3", "9.0 to 15.5", "78.9", "70.0", "peak memory", "3.9 GB"):
        assert text in page
    assert 'aria-label="reward by step"' in page
    assert page.index("before reinforcement learning") < page.index(">after<")
    assert page.count('<article class="episode">') == 2
    assert "<script" not in page


def test_a_report_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "file" / "report.html", title="", facts={}, sections=[])
