"""Processes that are killed, at any moment, and what is left of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import are_gone, children, descendants, soon, zygotes

from visual_arft.errors import ToolFailure
from visual_arft.jail import scratch
from visual_arft.sandbox import Limits, Outcome, Sandbox

ME = os.getpid()
SLEEP = "import time\nopen('f', 'w').write('x')\ntime.sleep(60)"
TRAINER = """
import sys, threading
from visual_arft.sandbox import Sandbox
sandbox = Sandbox(workers=2)
print('begun', flush=True)
for _ in range(2):
    threading.Thread(target=sandbox.run, args=['import time; time.sleep(60)']).start()
"""


@pytest.fixture(params=["as it is", "without bubblewrap"])
def sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    if request.param != "as it is":
        monkeypatch.setenv("PATH", "/nowhere")
    with Sandbox(limits=Limits(wall_s=30)) as running:
        running.run("pass")
        yield running


class Running:
    """An execution in a thread of its own."""

    def __init__(self, run: Callable[[], Outcome]) -> None:
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._run = run
        self._thread = threading.Thread(target=self._go)
        self._thread.start()

    def end(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _go(self) -> None:
        try:
            self.outcome = self._run()
        except BaseException as error:
            self.error = error


def test_a_zygote_that_died_idle_is_restarted(sandbox: Sandbox):
    [zygote] = zygotes(ME)
    os.kill(zygote, signal.SIGKILL)
    assert soon(lambda: are_gone([zygote]))
    assert sandbox.run("print(1)").stdout == "1\n"


def test_what_ran_in_a_zygote_that_died_is_an_infrastructure_failure(sandbox: Sandbox):
    before = descendants(ME)
    running = Running(lambda: sandbox.run(SLEEP))
    time.sleep(0.3)
    for zygote in zygotes(ME):
        os.kill(zygote, signal.SIGKILL)
    running.end()
    assert isinstance(running.error, ToolFailure)
    assert soon(lambda: are_gone(before))
    assert sandbox.run("print(1)").stdout == "1\n"


def test_only_the_executions_of_the_zygote_that_died_are_lost():
    with Sandbox(workers=2, limits=Limits(wall_s=30)) as sandbox:
        with sandbox.session() as one, sandbox.session() as other:
            one.run("x = 1")
            other.run("x = 2")
            zygote = zygotes(ME)[0]
            os.kill(zygote, signal.SIGKILL)
            assert soon(lambda: are_gone([zygote]))
            left: list[str] = []
            for session in (one, other):
                try:
                    left.append(session.run("print(x)").stdout)
                except ToolFailure:
                    session.restart(replay=True)
                    assert session.run("print(x)").status == "ok"
        assert len(left) == 1


def test_a_child_killed_from_outside_is_an_infrastructure_failure(sandbox: Sandbox):
    running = Running(lambda: sandbox.run(SLEEP))
    time.sleep(0.3)
    killed = children(ME)
    for child in killed:
        os.kill(child, signal.SIGKILL)
    running.end()
    assert soon(lambda: are_gone(killed))
    assert isinstance(running.error, ToolFailure)
    assert "killed from outside" in str(running.error)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_child_that_is_held_up_is_tried_again_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch,
):
    with Sandbox(limits=Limits(wall_s=0.5)) as sandbox:
        sandbox.run("pass")
        is_over = threading.Event()
        stopper = threading.Thread(target=stop_all_children, args=[is_over])
        stopper.start()
        try:
            with pytest.raises(ToolFailure, match="the machine is too busy"):
                sandbox.run("while True: pass")
        finally:
            is_over.set()
            stopper.join()
        assert sandbox.run("print(1)").stdout == "1\n"


def stop_all_children(is_over: threading.Event) -> None:
    """Stops every child that computes, as a machine without time for it would."""
    while not is_over.wait(0.02):
        for child in children(ME):
            if "Z" not in stat_of(child) and cpu_ticks(child) > 5:
                os.kill(child, signal.SIGSTOP)


def stat_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z"] * 20


def cpu_ticks(pid: int) -> int:
    fields = stat_of(pid)
    return 0 if fields[0] == "Z" else int(fields[11])


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nowhere"])
def test_after_close_no_process_and_no_file_remain(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", path)
    with Sandbox() as sandbox:
        sandbox.run("open('f', 'w').write('x')")
        pids = descendants(ME)
    assert len(pids) >= 2
    assert soon(lambda: are_gone(pids))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nowhere"])
@pytest.mark.parametrize("times", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_killing_the_trainer_at_any_moment_leaves_nothing(
    path: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    moments = random.Random(times)
    environment = {"PATH": path, "TMPDIR": str(tmp_path)}
    for _ in range(times):
        command = [sys.executable, "-c", TRAINER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as trainer:
            assert trainer.stdout is not None
            trainer.stdout.readline()
            time.sleep(moments.uniform(0, 1))
            pids = descendants(trainer.pid)
            trainer.kill()
        assert soon(lambda pids=pids: are_gone(pids))
        scratch.sweep()
        assert not list(tmp_path.glob("arft-sandbox-*"))


def test_scratch_of_a_run_that_was_killed_is_swept_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "arft-sandbox-left"
    deep = left / "3"
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    with Sandbox() as other, Sandbox() as sandbox:
        other.run("pass")
        sandbox.run("pass")
        assert not left.exists()
        assert other.run("open('f', 'w').write('x')").status == "ok"


def test_scratch_in_use_is_not_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root, lock = scratch.create_root()
    scratch.sweep()
    assert Path(root).is_dir()
    os.close(lock)
    scratch.sweep()
    assert not Path(root).exists()


def test_folders_nested_deeper_than_a_path_can_name_are_removed(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for level in range(300):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        if level % 7 == 0:
            os.chmod("d" * 200, 0, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert scratch.is_over_quota(str(root))
    scratch.wipe(str(root))
    assert not root.exists()
