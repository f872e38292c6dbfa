"""CPU time: what a process has used, and what a child may use."""

from __future__ import annotations

import time


def cpu_s(pid: int) -> float:
    """Seconds of CPU time that a process has used; raises `OSError` when it is gone."""
    if pid <= 0:
        raise ProcessLookupError("the process is gone")
    # The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED); see clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


def lifetime_cpu_s(step_s: float) -> int:
    """Seconds that a child may use in all its steps, by a limit of the kernel's.

    Each step is timed from outside; this is for when nobody looks, as in a trainer that is stopped.
    """
    return 200 * (int(step_s) + 1)
