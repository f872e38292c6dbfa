from __future__ import annotations

import json
import os
import subprocess
from itertools import product
from pathlib import Path

import pytest
from conditions import hostile_run, is_possible
from hostile_cases import BEHAVIOURS, DENIED, EXISTENCE, RAW


def play(*, as_nobody: bool, bubblewrap: bool, landlock: bool) -> dict[str, object]:
    if not is_possible(as_nobody=as_nobody, bubblewrap=bubblewrap):
        pytest.skip("needs root, setpriv and bubblewrap")
    command = hostile_run(as_nobody=as_nobody, bubblewrap=bubblewrap, landlock=landlock)
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_are_cases_enough():
    assert len(DENIED) + len(EXISTENCE) + len(BEHAVIOURS) >= 120
    assert len(RAW) >= 60


def test_nothing_gets_through_here_as_it_is():
    assert play(as_nobody=False, bubblewrap=False, landlock=True)["failures"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("as_nobody", "bubblewrap", "landlock"), [*product([False, True], repeat=3)]
)
def test_nothing_gets_through(as_nobody: bool, bubblewrap: bool, landlock: bool):
    report = play(as_nobody=as_nobody, bubblewrap=bubblewrap, landlock=landlock)
    assert report["failures"] == []
    assert (report["uid"] != 0) == (as_nobody or os.getuid() != 0)
    assert ("bubblewrap" in str(report["confinement"])) == bubblewrap
    assert ("Landlock" in str(report["confinement"])) == landlock
