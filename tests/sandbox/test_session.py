from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from processes import children, soon, state_of

from visual_arft.errors import SessionOver, ToolFailure
from visual_arft.jail.clock import cpu_s
from visual_arft.sandbox import Limits, Sandbox

INPUT = "path_to_input_image.jpg"
PICTURE = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
WRITE = "cv2.imwrite('path_to_output_image.jpg', np.full((4, 4, 3), 30, np.uint8))"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(limits=Limits(cpu_s=0.4, wall_s=30, memory_mb=256)) as running:
        yield running


def test_variables_imports_functions_and_files_stay(sandbox: Sandbox):
    with sandbox.session() as session:
        session.run("import cv2, numpy as np\ndef double(x): return 2 * x\ny = 21")
        session.run("open('note', 'w').write('kept')")
        outcome = session.run("print(double(y), open('note').read(), np.ones(1)[0])")
    assert outcome.stdout == "42 kept 1.0\n"


def test_sessions_share_nothing(sandbox: Sandbox):
    with sandbox.session() as one, sandbox.session() as other:
        one.run("x = 1\nopen('f', 'w')")
        assert "NameError" in (other.run("x").error or "")
        assert other.run("import os; print(os.listdir())").stdout == "[]\n"


def test_the_inputs_of_a_session_are_there_and_can_be_replaced(sandbox: Sandbox):
    with sandbox.session(images={INPUT: PICTURE}) as session:
        shown = session.run(f"import cv2\nshow(cv2.imread('{INPUT}'))")
        np.testing.assert_array_equal(shown.images[0], PICTURE)
        shown = session.run(f"show(cv2.imread('{INPUT}'))", {INPUT: PICTURE[:10]})
        assert shown.images[0].shape == (10, 60, 3)


def test_an_image_comes_back_from_the_step_that_wrote_it_and_from_no_other(sandbox: Sandbox):
    with sandbox.session() as session:
        assert len(session.run("import cv2, numpy as np\n" + WRITE).images) == 1
        assert session.run("pass").images == ()
        assert len(session.run(WRITE).images) == 1


def test_a_mistake_keeps_what_was_there_and_names_the_step_of_each_line(sandbox: Sandbox):
    with sandbox.session() as session:
        session.run("x = 7\ndef broken():\n    return 1 / 0")
        assert session.run("broken()").error == (
            "line 1: broken()\nstep 1, line 3: return 1 / 0\nZeroDivisionError: division by zero"
        )
        assert session.run("print(x)").stdout == "7\n"
        assert not session.is_over


def test_running_out_of_memory_keeps_what_was_there(sandbox: Sandbox):
    with sandbox.session() as session:
        session.run("x = 7")
        assert session.run("[0] * 10 ** 9").status == "memory"
        assert session.run("print(x)").stdout == "7\n"


@pytest.mark.parametrize(
    "code", ["while True: pass", "import os; os._exit(1)", "import os; os.write(3, b'x' * 9)"]
)
def test_a_step_that_ends_the_process_ends_the_session(sandbox: Sandbox, code: str):
    with sandbox.session() as session:
        session.run("x = 7")
        session.run("x = 8; 1 / 0")
        assert session.run(code).status in ("timeout", "crashed", "rejected")
        assert session.is_over
        with pytest.raises(SessionOver, match="restart it"):
            session.run("print(x)")
        session.restart(replay=True)
        assert session.run("print(x)").stdout == "7\n"  # the step that failed is not replayed


def test_a_restart_without_replay_begins_with_the_inputs_alone(sandbox: Sandbox):
    with sandbox.session(images={INPUT: PICTURE}) as session:
        session.run("x = 7")
        session.restart()
        assert "NameError" in (session.run("x").error or "")
        assert session.run("import os; print(os.listdir())").stdout == f"['{INPUT}']\n"


def test_steps_that_cannot_be_replayed_are_a_failure_of_the_machinery(sandbox: Sandbox):
    with sandbox.session() as session:
        session.run(
            "import os, time\nassert time.time() < float(open('t').read()) if os.path.exists('t') else True"
        )
        session.run(f"import time\nassert time.time() < {time.time() + 0.3}")
        time.sleep(0.4)
        with pytest.raises(ToolFailure, match="cannot be replayed: line 2"):
            session.restart(replay=True)


def test_a_step_that_was_answered_in_advance_is_not_believed(sandbox: Sandbox):
    forged = "import os, struct\nos.write(3, struct.pack('!cI', b'D', 0) * 2)"
    with sandbox.session() as session:
        session.run(forged)
        assert session.run("print(1)").status == "rejected"
        assert session.is_over


def stopped() -> list[int]:
    return [pid for pid in children(os.getpid()) if state_of(pid) == "T"]


def test_code_that_claims_to_have_ended_gets_no_time_between_steps(sandbox: Sandbox):
    forged = "import os, struct\nos.write(3, struct.pack('!cI', b'D', 0))\nwhile True: pass"
    with sandbox.session() as session:
        assert session.run(forged).status == "ok"
        assert soon(lambda: stopped() != [])
        [looping] = stopped()
        before = cpu_s(looping)
        time.sleep(0.3)
        assert cpu_s(looping) - before < 0.05
        assert session.run("print(1)").status == "timeout"


def test_closing_a_session_cuts_its_step_short(sandbox: Sandbox):
    session = sandbox.session()
    session.run("pass")
    closer = threading.Timer(0.3, session.close)
    closer.start()
    with pytest.raises(ToolFailure):
        session.run("import time; time.sleep(20)")
    closer.join()
    assert session.is_over


def test_each_step_has_the_cpu_time_of_an_execution(sandbox: Sandbox):
    burn = "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    with sandbox.session() as session:
        for _ in range(3):
            outcome = session.run(burn)
            assert outcome.status == "ok"
            assert 0.29 < outcome.cpu_s < 0.4


def test_many_sessions_live_side_by_side(sandbox: Sandbox):
    async def play() -> list[str]:
        sessions = [sandbox.session() for _ in range(20)]
        await asyncio.gather(*(each.arun(f"x = {n}") for n, each in enumerate(sessions)))
        said = await asyncio.gather(*(each.arun("print(x)") for each in sessions))
        for each in sessions:
            each.close()
        return [outcome.stdout for outcome in said]

    assert asyncio.run(play()) == [f"{n}\n" for n in range(20)]
