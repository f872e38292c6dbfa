from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.errors import UserError
from visual_arft.images import Pixels
from visual_arft.sandbox import Limits, Sandbox
from visual_arft.sandbox.bitmap import bitmap

INPUT = "path_to_input_image.jpg"
CROP = f"""
import cv2
img = cv2.imread('{INPUT}')
cv2.imwrite('path_to_output_image.jpg', img[10:30, 20:60])
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(limits=Limits(cpu_s=0.4, wall_s=30, memory_mb=256), workers=2) as running:
        yield running


@pytest.fixture
def picture() -> Pixels:
    """A colour ramp: every pixel tells where it is."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 3, np.full_like(rows, 128)], axis=-1).astype(np.uint8)


def test_what_code_prints_comes_back(sandbox: Sandbox):
    outcome = sandbox.run("import sys\nprint('a', 1)\nprint('b', file=sys.stderr)")
    assert (outcome.status, outcome.stdout, outcome.error) == ("ok", "a 1\nb\n", None)


def test_the_output_file_comes_back(sandbox: Sandbox, picture: Pixels):
    outcome = sandbox.run(CROP, {INPUT: picture})
    [image] = outcome.images
    assert outcome.status == "ok"
    assert image.shape == (20, 40, 3)
    # The code itself chose JPEG, which rounds.
    assert np.abs(image.astype(int) - picture[10:30, 20:60]).mean() < 3


@pytest.mark.parametrize(
    "reading",
    [
        f"import cv2\nimg = cv2.imread('{INPUT}')",
        f"from PIL import Image\nimg = Image.open('{INPUT}')",
    ],
)
def test_cv2_and_pil_read_the_very_pixels(sandbox: Sandbox, picture: Pixels, reading: str):
    outcome = sandbox.run(f"{reading}\nshow(img)", {INPUT: picture})
    np.testing.assert_array_equal(outcome.images[0], picture)


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_bitmap_of_any_size_reads_back_as_it_was(height: int, width: int):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    read = cv2.imdecode(np.frombuffer(bitmap(pixels), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read[..., ::-1], pixels)


def test_shown_images_come_in_order_and_the_output_file_last(sandbox: Sandbox):
    code = (
        "import cv2, numpy as np\n"
        "cv2.imwrite('path_to_output_image.jpg', np.full((4, 4, 3), 30, np.uint8))\n"
        "show(np.full((4, 4), 10, np.uint8))\n"
        "show(np.full((4, 4, 4), 20, np.uint8))"
    )
    assert [int(image[0, 0, 0]) for image in sandbox.run(code).images] == [10, 20, 30]


def test_an_error_shows_the_codes_own_lines(sandbox: Sandbox):
    outcome = sandbox.run("def crop(img):\n    return img[10]\n\ncrop(None)")
    assert outcome.status == "error"
    assert outcome.error == (
        "line 4: crop(None)\nline 2: return img[10]\n"
        "TypeError: 'NoneType' object is not subscriptable"
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("x = (", "SyntaxError"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import numpy as np\nshow(np.zeros((0, 40, 3), np.uint8))", "the image is 40 x 0 pixels"),
        ("import numpy as np\nshow(np.zeros((1, 9000), np.uint8))", "8192 are allowed"),
        ("import numpy as np\nshow(np.zeros((4, 4, 3)))", "this is float64, (4, 4, 3)"),
        ("import numpy as np\nshow(np.zeros((4, 4, 2), np.uint8))", "this one has 2"),
        (
            "import numpy as np\nshow(np.zeros((4097, 4096), np.uint8))",
            "16 megapixels is allowed",
        ),
        (
            "import numpy as np\nfor i in range(9): show(np.zeros((2, 2), np.uint8))",
            "more than 8 images",
        ),
        ("open('path_to_output_image.jpg', 'w').write('x')", "does not hold an image"),
        (
            "class E(Exception):\n    def __str__(self): raise E\nraise E",
            "E: <exception str() failed>",
        ),
        ("print(open('a', 'wb').write(bytes(2**27)))", "File too large"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_it_was(sandbox: Sandbox, code: str, error: str):
    outcome = sandbox.run(code)
    assert outcome.status == "error"
    assert error in (outcome.error or "")


def test_leaving_early_is_no_error(sandbox: Sandbox):
    assert sandbox.run("import sys; sys.exit()").status == "ok"


def test_a_busy_loop_ends_at_the_cpu_limit(sandbox: Sandbox):
    outcome = sandbox.run("print('on my way')\nwhile True: pass")
    assert (outcome.status, outcome.stdout) == ("timeout", "on my way\n")
    assert outcome.error == "ran longer than 0.4 s of CPU time"
    assert 0.39 < outcome.cpu_s < 0.9


def test_sleeping_ends_at_the_wall_limit_even_with_signals_ignored():
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    with Sandbox(limits=Limits(wall_s=0.4)) as sandbox:
        outcome = sandbox.run(code)
    assert (outcome.status, outcome.error) == ("timeout", "ran longer than 0.4 s")
    assert outcome.cpu_s < 0.3


@pytest.mark.parametrize(
    "code",
    [
        "x = [0] * 10**9",
        "import numpy as np\nnp.ones((10**5, 10**5))",
        "import cv2, numpy as np\ncv2.resize(np.ones((99, 99, 3), np.uint8), (30000, 30000))",
    ],
)
def test_memory_beyond_the_limit_is_named(sandbox: Sandbox, code: str):
    outcome = sandbox.run(code)
    assert outcome.status == "memory"
    assert outcome.error == "MemoryError: used more than 256 MB"


@pytest.mark.parametrize(
    ("code", "how"),
    [("os.abort()", "SIG"), ("os._exit(0)", "status 0"), ("os._exit(3)", "status 3")],
)
def test_ending_python_is_a_crash(sandbox: Sandbox, code: str, how: str):
    outcome = sandbox.run(f"import os\nprint('before')\n{code}")
    assert (outcome.status, outcome.stdout) == ("crashed", "before\n")
    assert how in (outcome.error or "")


def test_what_a_crash_has_used_is_known_from_the_zygote(sandbox: Sandbox):
    burn = "import os, time\nwhile time.process_time() < 0.3: pass\nx = b'1' * 10 ** 8\n"
    outcome = sandbox.run(burn + "os._exit(1)")
    assert outcome.status == "crashed"
    assert outcome.cpu_s > 0.25
    assert outcome.peak_mb > 100


def test_output_is_cut_at_its_bounds(sandbox: Sandbox):
    outcome = sandbox.run("for _ in range(99): print('x' * 999)")
    assert outcome.stdout == ("x" * 999 + "\n") * 65 + "x" * 536  # 65,536 in all
    assert len(sandbox.run("raise ValueError('x' * 10**6)").error or "") == 16 * 1024


def test_executions_share_nothing(sandbox: Sandbox):
    sandbox.run("import builtins\nbuiltins.leak = 1\nopen('leak', 'w').write('1')")
    outcome = sandbox.run("import os\nprint(os.listdir(), 'leak' in dir(__builtins__))")
    assert outcome.stdout == "[] False\n"


def test_the_same_code_makes_the_same_image_in_every_sandbox(sandbox: Sandbox):
    code = "import numpy as np\nprint(np.random.rand(), hash('a'), list({'a', 'b', 'c'}))"
    with Sandbox() as other:
        assert sandbox.run(code).stdout == other.run(code).stdout == sandbox.run(code).stdout


def test_waiting_executions_overlap_up_to_the_number_of_workers(sandbox: Sandbox):
    async def both() -> float:
        started = time.monotonic()
        outcomes = await asyncio.gather(*(sandbox.arun("import time; time.sleep(1)") for _ in "ab"))
        assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
        return time.monotonic() - started

    assert asyncio.run(both()) < 1.9


def test_another_system_than_linux_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with Sandbox() as sandbox, pytest.raises(UserError, match="needs Linux, not darwin; run in"):
        sandbox.run("")


def test_a_python_that_does_not_start_is_a_users_error(monkeypatch: pytest.MonkeyPatch):
    broken = (sys.executable, "-c", "raise SystemExit('No module named cv2')")
    monkeypatch.setattr("visual_arft.sandbox.process.command", lambda *_: broken)
    with (
        Sandbox() as sandbox,
        pytest.raises(UserError, match="no code is run without it: No module named cv2"),
    ):
        sandbox.run("")


def test_limits_that_let_nothing_run_are_refused():
    with pytest.raises(UserError, match=r"cpu_s is 0; give at least 0\.1"):
        Limits(cpu_s=0)


@pytest.mark.parametrize("name", ["../a.jpg", "", "a/b"])
def test_an_input_outside_the_scratch_is_refused(sandbox: Sandbox, picture: Pixels, name: str):
    with pytest.raises(ValueError, match="no plain file name"):
        sandbox.run("", {name: picture})
