"""The clock of one step: what the kernel says a child has used, held against its limits."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from visual_arft.jail.clock import cpu_s
from visual_arft.sandbox.outcome import Limits


class Overran(Exception):
    """A step reached a limit; the message is for the model."""


class Starved(Exception):
    """A step reached the wall limit because the machine was busy; the code is not to blame."""


class Watch:
    """One step of one child; the child has no say in what is measured."""

    def __init__(self, pid: int, limits: Limits) -> None:
        """Starts now."""
        self.limits = limits
        self._pid = pid
        self._start_s = time.monotonic()
        self.start_cpu_s = self._last_cpu_s = 0.0
        """What the child had used before."""
        with suppress(OSError):
            self.start_cpu_s = self._last_cpu_s = cpu_s(pid)
        self._start_waited_s = self._waited_s()

    @property
    def wall_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_s

    @property
    def cpu_s(self) -> float:
        """CPU seconds since the start; the last that was known, once the child is gone."""
        with suppress(OSError):
            self._last_cpu_s = cpu_s(self._pid)
        return self._last_cpu_s - self.start_cpu_s

    @property
    def peak_mb(self) -> float:
        """Largest resident memory so far; 0.0 once the child is gone."""
        fields = self._read("status").partition("VmHWM:")[2].split()
        return int(fields[0]) / 1024 if fields else 0.0

    def patience_s(self) -> float:
        """When to look again; raises `Overran` or `Starved` at a limit."""
        # With its one thread the child cannot reach the CPU limit any sooner.
        cpu_left = self.limits.cpu_s - self.cpu_s
        wall_left = self.limits.wall_s - self.wall_s
        if cpu_left <= 0:
            raise Overran(f"ran longer than {self.limits.cpu_s:g} s of CPU time")
        if wall_left <= 0:
            self._blame()
        return min(max(cpu_left, 0.001), wall_left)

    def _blame(self) -> None:
        """Raises `Starved` where the machine held the code up, `Overran` where it slept or ran."""
        waited_s = self._waited_s() - self._start_waited_s
        if self._is_held() or waited_s > self.limits.wall_s / 2:
            raise Starved(f"of {self.wall_s:.1f} s it had {self.cpu_s:.1f} s of CPU time")
        raise Overran(f"ran longer than {self.limits.wall_s:g} s")

    def _waited_s(self) -> float:
        """Seconds for which it was ready to run and had no CPU; see proc_pid_schedstat(5)."""
        fields = self._read("schedstat").split()
        return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0

    def _is_held(self) -> bool:
        """Whether it is stopped or waits for a disk, neither of which is its own doing."""
        return self._read("stat").rpartition(")")[2].split()[:1] in (["T"], ["t"], ["D"])

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self._pid}/{name}").read_text()
        except OSError:
            return ""
