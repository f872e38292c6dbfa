"""What this machine offers a run, and what to do about what is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from PIL import features
from rich.markup import escape
from rich.table import Table

from visual_arft.envs.search.look.browser import find_chromium
from visual_arft.errors import ArftError
from visual_arft.provenance import versions
from visual_arft.sandbox import Sandbox
from visual_arft.sandbox.self_test import ATTACKS
from visual_arft.types import Record

_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"threads": torch.get_num_threads(), "gpus": gpus}))
"""


class Finding(Record):
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """Everything worth knowing before a run."""
    yield Finding(name="python", ok=True, found=platform.python_version())
    yield _machine()
    yield _disk()
    yield from _packages()
    yield from _extras()
    yield from _torch()
    yield from _sandbox()
    yield _fonts()
    yield _chromium()


def table(found: list[Finding]) -> Table:
    """The findings for a terminal."""
    view = Table(box=None, header_style="bold")
    for heading in ("", "what", "found", "what to do"):
        view.add_column(heading, overflow="fold")
    for each in found:
        mark = "[green]ok[/]" if each.ok else "[red]--[/]"
        view.add_row(mark, escape(each.name), escape(each.found), escape(each.remedy))
    return view


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    remedy = "" if gib >= 5 else "the demo needs 5 GB; close other programs"
    return Finding(
        name="machine", ok=not remedy, found=f"{cores} cores, {gib:.0f} GiB", remedy=remedy
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = "" if free >= 1 else "a run writes some hundred MB here; free some space"
    return Finding(name="disk", ok=not remedy, found=f"{free:.1f} GiB free here", remedy=remedy)


def _packages() -> Iterator[Finding]:
    for name, version in versions().items():
        if version is not None:
            yield Finding(name=name, ok=True, found=version)


def _extras() -> Iterator[Finding]:
    """For each extra of this package, whether all of it is there."""
    members: dict[str, list[str]] = defaultdict(list)
    for line in requires("visual-arft") or []:
        if match := re.match(r"([\w-]+).*extra == ['\"](\w+)['\"]", line):
            members[match[2]].append(match[1])
    for extra, names in members.items():
        missing = [name for name, version in versions(names).items() if version is None]
        yield Finding(
            name=f"extra [{extra}]",
            ok=not missing,
            found=f"lacks {', '.join(missing)}" if missing else "complete",
            remedy=f"pip install 'visual-arft[{extra}]'" if missing else "",
        )


def _torch() -> Iterator[Finding]:
    """What torch sees, asked in a process of its own: a broken torch may crash as it loads."""
    if versions(["torch"])["torch"] is None:
        return
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        yield Finding(name="torch loads", ok=False, found=last[0], remedy="install torch again")
        return
    seen: dict[str, Any] = json.loads(done.stdout)
    yield Finding(name="torch threads", ok=True, found=str(seen["threads"]))
    yield Finding(name="GPU", ok=True, found=", ".join(seen["gpus"]) or "none; the demo needs none")


def _sandbox() -> Iterator[Finding]:
    """What confines the model's code, and how long one line takes once the sandbox is up."""
    try:
        with Sandbox() as sandbox:
            sandbox.run("pass")
            start = time.perf_counter()
            sandbox.run("print(6 * 7)")
            milliseconds = 1000 * (time.perf_counter() - start)
            confinement = sandbox.confinement
    except ArftError as error:
        yield Finding(name="sandbox", ok=False, found=str(error), remedy="see docs/sandbox.md")
        return
    yield Finding(name="sandbox", ok=True, found=f"runs a line in {milliseconds:.0f} ms")
    yield Finding(
        name="confinement",
        ok=True,
        found=f"{confinement}; {len(ATTACKS)} attacks on itself failed",
        remedy=confinement.advice,
    )


def _chromium() -> Finding:
    path = find_chromium()
    return Finding(
        name="Chromium",
        ok=path is not None,
        found=path or "none; only looking at pages needs it",
        remedy="" if path else "install the package chromium-headless-shell or chromium",
    )


def _fonts() -> Finding:
    ok = bool(features.check("freetype2"))
    return Finding(
        name="fonts",
        ok=ok,
        found="Pillow has FreeType" if ok else "Pillow lacks FreeType",
        remedy="" if ok else "pip install --force-reinstall pillow",
    )
