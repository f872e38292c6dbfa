"""Running Python that nobody has read: one confined process per execution, in milliseconds.

A zygote (a Python with numpy, OpenCV and Pillow loaded) forks a child for each piece of code. The
child has limits on CPU time, memory, file size and open files, an empty environment, a scratch
folder of its own and no descriptor but its channel; the zygote kills it at the wall limit and
cleans up. What it sends back is bounded, and is neither unpickled nor decoded.

Not protected against yet: there is no system call filter and no file system rule, so hostile code
can read what the user can read, write where the user can write (and fill the disk), open network
connections, signal processes of the same user (the zygote too) and, as root, start processes
without a limit while it runs. It is made for the mistakes of a model, not yet for an attacker.

>>> with Sandbox(limits=Limits(cpu_s=2)) as sandbox:
...     sandbox.run("print(6 * 7)").stdout.split()
['42']
"""

from visual_arft.sandbox.frames import OUTPUT_FILE
from visual_arft.sandbox.outcome import Limits, Outcome, Status
from visual_arft.sandbox.pool import Sandbox

__all__ = ["OUTPUT_FILE", "Limits", "Outcome", "Sandbox", "Status"]
