"""The command that starts a zygote: a bare Python, or one that bubblewrap shuts away first."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from visual_arft import jail

SCRATCH = "/scratch"
"""Where the children's own file systems are mounted, inside bubblewrap."""

_PACKAGES = ("numpy", "cv2", "PIL")
_JAIL = Path(jail.__file__).parent
_BOOT = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1])['imports'];"
    "from visual_arft.jail import zygote; zygote.main()"
)
# As a first victim, should the machine run out of memory.
_EXPENDABLE = ("/bin/sh", "-c", 'echo 1000 2>&- > /proc/self/oom_score_adj; exec "$@"', "sh")
_NAMESPACES = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    *("--unshare-cgroup-try", "--as-pid-1", "--hostname", "sandbox"),
    # Of these namespaces only, and gone before code runs: to mount the scratch folders.
    *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
)


@dataclass(frozen=True)
class Layers:
    """What the confinement is made of, beside what every child does to itself."""

    bubblewrap: str | None
    """The path of bubblewrap; None to go without."""
    is_confined: bool = True
    """False only where the user asked for no confinement at all."""


def find_bubblewrap() -> str | None:
    """The path of the installed bubblewrap; whether it works is for an attempt to show."""
    return shutil.which("bwrap")


def command(layers: Layers, settings: Mapping[str, Any]) -> list[str]:
    """What to execute for a zygote with these settings."""
    folders = _package_folders()
    everything = {
        **settings,
        "imports": sorted({*(str(folder.parent) for folder in folders), str(_JAIL.parents[1])}),
        "libraries": [str(folder) for folder in folders],
        "is_private": layers.bubblewrap is not None,
        "confined": layers.is_confined,
    }
    flags = ("-s", "-S", "-P", "-B", "-W", "ignore")
    python = (os.path.realpath(sys.executable), *flags, "-c", _BOOT, json.dumps(everything))
    wrapped = [layers.bubblewrap, *_NAMESPACES, *_view(folders)] if layers.bubblewrap else []
    return [*_EXPENDABLE, *wrapped, *python]


@cache
def _package_folders() -> tuple[Path, ...]:
    """The folders of the libraries that code uses, and of the binaries they come with."""
    found: dict[Path, None] = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"No module named {name!r}")
        folder = Path(spec.submodule_search_locations[0])
        found |= dict.fromkeys((folder, *folder.parent.glob("*.libs")))
    return tuple(found)


def _view(folders: tuple[Path, ...]) -> Iterator[str]:
    """What there is to see inside: the system's libraries, Python, its packages, and no more."""
    for path in map(Path, ("/usr", "/lib", "/lib64", "/lib32", "/bin")):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.exists():
            yield from _read_only(path)
    yield from _read_only(Path("/etc/ld.so.cache"))
    for path in (Path(sys.base_prefix), *folders, _JAIL.parent / "__init__.py", _JAIL):
        yield from _read_only(path)
    yield from ("--dev-bind", "/dev/null", "/dev/null", "--dir", SCRATCH, "--remount-ro", "/")
    yield from ("--chdir", "/", "--")


def _read_only(path: Path) -> tuple[str, ...]:
    return ("--ro-bind-try", str(path), str(path))
