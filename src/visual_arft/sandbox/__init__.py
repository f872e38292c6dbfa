"""Running Python that nobody has read: safe against a hostile author, in milliseconds, with state.

A zygote (a Python with numpy, OpenCV and Pillow loaded) forks a child for each execution or
session. Before it runs code the child gives up, for good, all that code does not need: system calls
but those of an allowlist, files but its scratch folder and the libraries, and its limits on memory,
files and time stay. What it sends back is bounded, and is neither unpickled nor decoded.

Not protected against: errors of the kernel in the calls that are allowed, and code that lies about
its own output. docs/sandbox.md says what is promised and how it is tested.

>>> with Sandbox(limits=Limits(cpu_s=2)) as sandbox:
...     sandbox.run("print(6 * 7)").stdout.split()
['42']
"""

from visual_arft.jail.frames import OUTPUT_FILE
from visual_arft.sandbox.outcome import Limits, Outcome, Status
from visual_arft.sandbox.pool import Confinement
from visual_arft.sandbox.sandbox import Sandbox, UnsafeSandbox
from visual_arft.sandbox.session import Session

__all__ = [
    "OUTPUT_FILE",
    "Confinement",
    "Limits",
    "Outcome",
    "Sandbox",
    "Session",
    "Status",
    "UnsafeSandbox",
]
