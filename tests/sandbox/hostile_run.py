"""Plays every hostile case under the conditions it is started in, and prints what got through.

    python hostile_run.py [no-landlock]

As another user, without bubblewrap on the PATH, and so on: that is for who starts it. Prints JSON:
what confined the code, how many cases there were, and those that were not met.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_cases import BEHAVIOURS, DENIED, EXISTENCE, RAW
from processes import descendants, soon, state_of

from visual_arft.errors import ArftError
from visual_arft.jail import libc, seccomp
from visual_arft.sandbox import Limits, Outcome, Sandbox

_PREAMBLE = """
import importlib
for name in ('asyncio concurrent.futures ctypes fcntl multiprocessing.shared_memory os resource '
             'select shutil signal socket subprocess threading time urllib.request').split():
    try:
        importlib.import_module(name)
        globals()[name.partition('.')[0]] = importlib.import_module(name.partition('.')[0])
    except ImportError:
        pass
import numpy as np
from PIL import Image
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), 'denied')
    return result
def attempt(attack):
    try:
        got = attack()
    except Exception as error:
        print('denied', type(error).__name__, error)
    else:
        print('GOT', repr(got)[:80])
"""
_TYPOS = ("NameError", "AttributeError", "TypeError", "SyntaxError")
_DENIALS = (1, 38)  # EPERM, ENOSYS
_LIMITS = Limits(cpu_s=0.4, wall_s=30, memory_mb=256)


class Outside:
    """What hostile code is after: a file, listeners and a process, and whether they are well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outside"
        self.folder.mkdir()
        self.canary = self.folder / "canary"
        self.canary.write_text("alive")
        self.canary.chmod(0o666)
        os.utime(self.canary, (1, 1))
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._abstract = socket.socket(socket.AF_UNIX)
        name = f"arft-{os.getpid()}"
        self._abstract.bind(f"\0{name}")
        self._abstract.listen()
        for listener in (self._tcp, self._udp, self._abstract):
            listener.setblocking(False)
        self._victim = subprocess.Popen(["/bin/sleep", "3600"])
        source = importlib.util.find_spec("visual_arft.doctor")
        self._places = {
            "@CANARY@": str(self.canary),
            "@FOLDER@": str(self.folder),
            "@TCP@": str(self._tcp.getsockname()[1]),
            "@UDP@": str(self._udp.getsockname()[1]),
            "@ABSTRACT@": name,
            "@VICTIM@": str(self._victim.pid),
            "@SOURCE@": repr(source and source.origin),
        }
        self._before = self._state()

    def aim(self, code: str) -> str:
        """The code with its targets in it."""
        for name, place in self._places.items():
            code = code.replace(name, place)
        return code

    def harm(self) -> str | None:
        """What happened out here; None if nothing."""
        if self._victim.poll() is not None or state_of(self._victim.pid) != "S":
            return "the victim was harmed"
        for listener in (self._tcp, self._abstract, self._udp):
            try:
                listener.recv(1) if listener is self._udp else listener.accept()
            except BlockingIOError:
                continue
            return "a listener was reached"
        return None if self._state() == self._before else f"changed outside: {self._state()}"

    def close(self) -> None:
        self._victim.kill()
        self._victim.wait()

    def _state(self) -> object:
        found = self.canary.stat()
        places = (self.folder, Path("/dev/shm"), Path("/var/tmp"))
        names = [
            sorted(p.name for p in place.iterdir() if "python" not in p.name) for place in places
        ]
        strays = sorted(map(str, Path("/tmp").glob("arft-hostile*")))
        what = (found.st_mode, found.st_uid, found.st_mtime, found.st_nlink)
        return self.canary.read_text(), what, names, strays


class Suite:
    """The cases, each followed by a look at what they left."""

    def __init__(self, sandbox: Sandbox, outside: Outside) -> None:
        self._sandbox = sandbox
        self._outside = outside
        self._has_files = sandbox.confinement.landlock_abi > 0
        self._has_namespaces = sandbox.confinement.without_bubblewrap is None
        sandbox.run("pass")
        time.sleep(2)  # until the children that wait have all been forked
        self._processes = len(descendants(os.getpid()))
        self.cases = 0

    def failures(self) -> Iterator[str]:
        for name, attack in DENIED.items():
            yield from self._case(name, _PREAMBLE + f"attempt(lambda: {attack})", self._denied)
        for name, attack in EXISTENCE.items():
            is_hidden = self._has_namespaces or not self._has_files
            right = self._denied if is_hidden else _any
            yield from self._case(name, _PREAMBLE + f"attempt(lambda: {attack})", right)
        for name, (code, right) in BEHAVIOURS.items():
            yield from self._case(name, code, self._is(right))
        column = ("x86_64", "aarch64").index(platform.machine())
        for name, numbers in RAW.items():
            number = numbers[column]
            if number is not None:
                code = (
                    _PREAMBLE
                    + f"print(libc.syscall({number}, 0, 0, 0, 0, 0, 0), ctypes.get_errno())"
                )
                yield from self._case(f"raw {name}", code, _refused)

    def _case(self, name: str, code: str, fault: Callable[[Outcome], str | None]) -> Iterator[str]:
        self.cases += 1
        try:
            outcome = self._sandbox.run(self._outside.aim(code))
        except ArftError as error:
            yield f"{name}: {type(error).__name__}: {error}"
            return
        if found := fault(outcome):
            yield f"{name}: {found} ({outcome.status}, {outcome.stdout[:200]!r}, {(outcome.error or '')[-300:]!r})"
        if outcome.stdout.count("True"):
            yield f"{name}: it says True"
        if harm := self._outside.harm():
            yield f"{name}: {harm}"
        if self._sandbox.run("print(6 * 7)").stdout != "42\n":
            yield f"{name}: the next execution fails"
        if not soon(lambda: len(descendants(os.getpid())) <= self._processes):
            yield f"{name}: processes were left"

    def _denied(self, outcome: Outcome) -> str | None:
        words = outcome.stdout.split(maxsplit=2)
        if outcome.status != "ok" or words[:1] != ["denied"]:
            return "it was not denied"
        return "a typo" if self._has_files and words[1] in _TYPOS else None

    def _is(self, right: str | tuple[str, ...]) -> Callable[[Outcome], str | None]:
        if right == "files":
            right = "ok" if self._has_files else ("ok", "error")
        wanted = (right,) if isinstance(right, str) else right

        def fault(outcome: Outcome) -> str | None:
            if outcome.status not in wanted:
                return f"{outcome.status} is not {' or '.join(wanted)}"
            if outcome.status != "ok" and not outcome.error:
                return "no error is shown"
            return None

        return fault


def _any(outcome: Outcome) -> str | None:
    return None if outcome.status in ("ok", "error") else "it broke"


def _refused(outcome: Outcome) -> str | None:
    if outcome.status == "crashed":
        return None  # killed
    words = outcome.stdout.split()
    refused = words[:1] == ["-1"] and int(words[1]) in _DENIALS
    return None if refused else "the kernel took it"


def _switch_landlock_off() -> None:
    """Makes this kernel one without Landlock, for this process and those it starts."""
    program = [(0x20, 0, 0, 0)]
    for number in (444, 445, 446):
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38)]
    libc.prctl(38, 1)
    seccomp.load([*program, (0x06, 0, 0, 0x7FFF0000)])


def main() -> None:
    if "no-landlock" in sys.argv:
        _switch_landlock_off()
    os.environ["ARFT_SECRET"] = "1"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outside = Outside(Path(folder))
        try:
            with Sandbox(limits=_LIMITS, workers=1) as sandbox:
                suite = Suite(sandbox, outside)
                failures = list(suite.failures())
                confinement = str(sandbox.confinement)
        finally:
            outside.close()
    report = {
        "confinement": confinement,
        "uid": os.getuid(),
        "cases": suite.cases,
        "seconds": round(time.monotonic() - started, 1),
        "failures": failures,
    }
    sys.stdout.write(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
