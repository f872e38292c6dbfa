from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path

import pytest
from hostile_cases import BEHAVIOURS, RAW
from processes import descendants, soon, zygotes

from visual_arft.sandbox import Limits, Sandbox

ME = os.getpid()
EXECUTIONS = 10_000
CROP = (
    "import cv2, numpy as np\n"
    "cv2.imwrite('path_to_output_image.jpg', np.full((64, 64, 3), 9, np.uint8)[:32])"
)
HOSTILE = [
    *(code for code, right in BEHAVIOURS.values() if right in ("rejected", "ok", "error")),
    *("import os\nos.fork()", "import socket\nsocket.socket()", "import os\nos._exit(1)"),
    *("for n in range(999): open(f'f{n}', 'w').close()", "import os\nos.mkdir('d', 0)"),
    *("import ctypes\nctypes.string_at(0)", "x = bytearray(10 ** 8); open('f', 'wb').write(x)"),
    *(f"import ctypes\nctypes.CDLL(None).syscall({numbers[0]})" for numbers in RAW.values()),
]


def megabytes(pid: int) -> float:
    """Private memory; what is shared with the children counts for one of them only."""
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
    kilobytes = (fields[fields.index(f"Private_{kind}:") + 1] for kind in ("Clean", "Dirty"))
    return sum(map(int, kilobytes)) / 1024


def belongings() -> dict[str, int]:
    """What could leak."""
    # Folders of children may go while they are counted, which `os.walk` takes as it is.
    temporary = [len(folders) + len(files) for _, folders, files in os.walk(tempfile.gettempdir())]
    fds = [len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in (ME, *zygotes(ME))]
    return {"fds": sum(fds), "processes": len(descendants(ME)), "files": sum(temporary)}


@pytest.mark.slow
@pytest.mark.parametrize("path", [os.environ["PATH"], "/nowhere"])
def test_ten_thousand_executions_leak_nothing(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    chance = random.Random(0)
    limits = Limits(cpu_s=0.5, wall_s=60, memory_mb=256)
    with Sandbox(limits=limits, workers=2) as sandbox:
        for _ in range(200):
            sandbox.run(CROP)
        time.sleep(1)  # until it is at rest
        before, sizes = belongings(), [megabytes(pid) for pid in (ME, *zygotes(ME))]
        for _ in range(EXECUTIONS):
            if chance.random() < 0.1:
                sandbox.run(chance.choice(HOSTILE))
            else:
                assert sandbox.run(CROP).status == "ok"
        assert soon(lambda: belongings() == before), (before, belongings())
        grown = [megabytes(pid) for pid in (ME, *zygotes(ME))]
    assert [new - old for new, old in zip(grown, sizes, strict=True) if new - old > 8] == []
