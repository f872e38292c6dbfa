"""A small attack from inside, made on every zygote before it is used.

It tells a sandbox that is not one: a filter that the kernel took but does not enforce, a folder
that a rule left open.
"""

from __future__ import annotations

from visual_arft.sandbox.outcome import Limits
from visual_arft.sandbox.running import Child, Unconfined

ATTACKS = {
    "read a file of the system": "open('/etc/passwd')",
    "list the root folder": "os.listdir('/')",
    "read the environment of a process": "open('/proc/self/environ')",
    "write to a shared folder": "open('/dev/shm/arft-self-test', 'w')",
    "leave its folder": "open('../arft-self-test', 'w')",
    "make a link": "os.symlink('/etc', 'etc')",
    "change a mode": "os.chmod('/', 0o755)",
    "fork": "os._exit(0) if os.fork() == 0 else None",
    "start a program": "os.execv('/bin/true', ['true'])",
    "start a thread": "threading.Thread(target=print).start()",
    "open a socket": "socket.socket()",
    "signal another process": "os.kill(os.getppid(), 0)",
    "raise its limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))",
    "have memory outside its limit": "os.memfd_create('m')",
    "trace itself": "check(libc.ptrace(0, 0, 0, 0))",
    "unshare a namespace": "check(libc.unshare(0x10000000))",
    "mount": "check(libc.mount(b'none', b'.', b'tmpfs', 0, None))",
}
"""What is tried, and must raise an error."""

_PROGRAM = """
import ctypes, os, resource, socket, threading
libc = ctypes.CDLL(None)
def check(result):
    if result < 0:
        raise OSError
for name, attack in {attacks!r}.items():
    try:
        exec(attack)
    except (OSError, RuntimeError, ValueError):
        continue
    print(name)
print("end")
"""
_LIMITS = Limits(cpu_s=5, wall_s=30)


def attack(child: Child) -> None:
    """Uses up a child; raises `Unconfined` with what it could do and should not."""
    try:
        outcome = child.step(_PROGRAM.format(attacks=ATTACKS), {}, _LIMITS)
    finally:
        child.end()
    *done, end = outcome.stdout.splitlines() or [""]
    if done:
        raise Unconfined(f"code in it could {', '.join(done)}")
    if end != "end":
        raise Unconfined(f"its self-test did not end: {outcome.error}")
