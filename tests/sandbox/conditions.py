"""Commands that run a script as another user, or on another machine than this one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NOBODY = 65534
_REPOSITORY = Path(__file__).parents[2]

_RUN = (sys.executable, str(Path(__file__).with_name("hostile_run.py")))


def hostile_run(*, as_nobody: bool, bubblewrap: bool, landlock: bool) -> list[str]:
    """The command that plays the hostile cases under these conditions."""
    arguments = () if landlock else ("no-landlock",)
    path = os.environ["PATH"] if bubblewrap else "/nowhere"
    command = ["/usr/bin/env", f"PATH={path}", *_RUN, *arguments]
    return unprivileged(command) if as_nobody and os.getuid() == 0 else command


def is_possible(*, as_nobody: bool, bubblewrap: bool) -> bool:
    """Whether this machine has what the conditions need."""
    if bubblewrap and shutil.which("bwrap") is None:
        return False
    return not as_nobody or os.getuid() != 0 or bool(shutil.which("setpriv"))


def unprivileged(command: list[str]) -> list[str]:
    """The command run as nobody by root, who first opens the way to this Python.

    A Python below /root can be reached by root alone. So, for the command only, an empty folder is
    mounted over each that bars the way, and what is needed is bound into it.
    """
    needed = {Path(sys.base_prefix), Path(sys.prefix), _REPOSITORY}
    script = ["set -e"]
    for closed in sorted({barrier for path in needed if (barrier := _barrier(path))}):
        inside = sorted(path for path in needed if path.is_relative_to(closed))
        script.append("stash=$(mktemp -d) && chmod 755 $stash")
        script += [f"mkdir $stash/{n} && mount --bind {p} $stash/{n}" for n, p in enumerate(inside)]
        script.append(f"mount -t tmpfs -o mode=755 none {closed}")
        script += [f"mkdir -p {p} && mount --bind $stash/{n} {p}" for n, p in enumerate(inside)]
    script.append('exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"')
    return ["unshare", "--mount", "/bin/sh", "-c", "\n".join(script), "sh", *command]


def _barrier(path: Path) -> Path | None:
    """The outermost folder on the way to `path` that others may not enter."""
    way = [*reversed(path.parents), path]
    return next((folder for folder in way if not folder.stat().st_mode & 0o001), None)
