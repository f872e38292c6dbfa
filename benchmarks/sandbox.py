"""What it costs to run a piece of image code, in seven ways, on the same two workloads.

    pip install -e '.[bench]'        # jupyter_client and ipykernel; bubblewrap from the system
    python benchmarks/sandbox.py [EXECUTIONS]

Each way reads a 512 x 512 picture and gives one back. Latency is from asking to having the pixels,
with a pause before each so that what works ahead has done so; CPU time is everything that all
processes used, divided by the executions; throughput is back to back.
"""

import base64
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from visual_arft.jail.clock import cpu_s
from visual_arft.sandbox import Limits, Sandbox
from visual_arft.sandbox.pool import Pool
from visual_arft.sandbox.session import Session

OUT = Path(__file__).parent / "out" / "sandbox.json"
INPUT = "path_to_input_image.jpg"
PICTURE = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
PICTURE = cv2.GaussianBlur(PICTURE, (0, 0), 9)
WORKLOADS = {
    "crop": f"import cv2\nimg = cv2.imread('{INPUT}')\nshow(img[100:228, 100:356])",
    "edges": (
        f"import cv2\nimg = cv2.imread('{INPUT}')\n"
        "edges = cv2.Canny(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY), 50, 150)\n"
        "big = cv2.resize(edges, (800, 800))\n"
        "cv2.rectangle(big, (10, 10), (90, 90), 255, 2)\nprint(big.mean())\nshow(big)"
    ),
}
LIMITS = Limits(cpu_s=5, wall_s=60)
PAUSE_S = 0.02
# The same for a Python of its own: `show` writes raw pixels to a file.
SCRIPT = "import numpy as np\ndef show(image): np.save('out.npy', image)\n"
KERNEL = (
    "import base64, cv2\nfrom IPython.display import publish_display_data\n"
    "def show(image):\n"
    "    png = base64.b64encode(cv2.imencode('.png', image)[1]).decode()\n"
    "    publish_display_data({'image/png': png})\n"
)

Run = Callable[[str], object]
Cpu = Callable[[], float]


def main(count: int) -> None:
    rows = []
    for way, (open_way, share) in WAYS.items():
        try:
            with open_way() as (run, cpu):
                for workload, code in WORKLOADS.items():
                    rows.append(measured(way, workload, run, cpu, code, max(10, count // share)))
                    show(rows[-1])
        except (ImportError, FileNotFoundError) as missing:
            print(f"{way}: left out, {missing}")
    for workers in (1, 2):
        for workload, code in WORKLOADS.items():
            rows.append(throughput(workers, workload, code, count))
            show(rows[-1])
    rows.append({"way": "child", "private_mb": private_mb()})
    show(rows[-1])
    report = {
        "name": "sandbox",
        "commit": commit(),
        "machine": f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores",
        "checks": checks(rows),
        "rows": rows,
    }
    for check in report["checks"]:
        print("  ".join(f"{key} {value}" for key, value in check.items()))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(report, indent=2) + "\n")


def measured(way: str, workload: str, run: Run, cpu: Cpu, code: str, count: int) -> dict:
    for _ in range(3):
        run(code)
    taken = []
    time.sleep(0.2)
    used = cpu()
    for _ in range(count):
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        run(code)
        taken.append(1000 * (time.perf_counter() - start))
    time.sleep(0.2)
    return {
        "way": way,
        "workload": workload,
        "n": count,
        "median_ms": round(statistics.median(taken), 3),
        "p99_ms": round(statistics.quantiles(taken, n=100, method="inclusive")[-1], 3),
        "cpu_ms": None if math.isnan(used) else round(1000 * (cpu() - used) / count, 2),
    }


def throughput(workers: int, workload: str, code: str, count: int) -> dict:
    with Sandbox(limits=LIMITS, workers=workers) as sandbox:
        images = {INPUT: PICTURE}
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(lambda _: sandbox.run(code, images), range(8)))
            start = time.perf_counter()
            list(threads.map(lambda _: sandbox.run(code, images), range(count)))
            seconds = time.perf_counter() - start
    return {
        "way": f"{workers} workers",
        "workload": workload,
        "n": count,
        "per_s": round(count / seconds, 1),
    }


def private_mb() -> float | None:
    """Memory of a child after a step that it shares with no other process."""
    with Sandbox(limits=LIMITS) as sandbox, sandbox.session({INPUT: PICTURE}) as session:
        session.run(WORKLOADS["crop"])
        assert session._child is not None
        try:
            text = Path(f"/proc/{session._child.pid}/smaps_rollup").read_text()
        except PermissionError:
            return None  # only root may look
        fields = text.split()
        private = [int(fields[fields.index(f"Private_{kind}:") + 1]) for kind in ("Clean", "Dirty")]
        return round(sum(private) / 1024, 2)


@contextmanager
def in_process() -> Iterator[tuple[Run, Cpu]]:
    with folder():

        def run(code: str) -> object:
            shown: list[np.ndarray] = []
            Path(INPUT).write_bytes(cv2.imencode(".bmp", PICTURE)[1].tobytes())
            exec(compile(code, "<code>", "exec"), {"show": shown.append, "print": lambda *_: None})
            return shown[0]

        yield run, time.process_time


@contextmanager
def session_step() -> Iterator[tuple[Run, Cpu]]:
    with Sandbox(limits=LIMITS) as sandbox, sandbox.session({INPUT: PICTURE}) as session:
        session.run("pass")
        pid = session._child.pid  # type: ignore[union-attr]
        yield session.run, lambda: time.process_time() + cpu_s(pid)


@contextmanager
def pooled(spares: int) -> Iterator[tuple[Run, Cpu]]:
    pool = Pool(LIMITS, 1, spares=spares)

    def run(code: str) -> object:
        with Session(pool, {INPUT: PICTURE}) as session:
            outcome = session.run(code)
        assert outcome.status == "ok", outcome
        return outcome.images[0]

    try:
        run("show(__import__('numpy').zeros((2, 2), 'uint8'))")
        yield run, lambda: time.process_time() + sum(map(family_s, below(os.getpid())))
    finally:
        pool.close()


@contextmanager
def subprocesses(*prefix: str) -> Iterator[tuple[Run, Cpu]]:
    if prefix and shutil.which(prefix[0]) is None:
        raise FileNotFoundError(f"{prefix[0]} is not installed")
    with folder() as here:

        def run(code: str) -> object:
            Path(INPUT).write_bytes(cv2.imencode(".bmp", PICTURE)[1].tobytes())
            Path("code.py").write_text(SCRIPT + code)
            wrap = [each.replace("HERE", here) for each in prefix]
            command = [*wrap, sys.executable, "code.py"]
            subprocess.run(command, check=True, capture_output=True)
            return np.load("out.npy")

        def used() -> float:
            if prefix:
                return float("nan")  # what runs in another process namespace is not accounted to us
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            return time.process_time() + children.ru_utime + children.ru_stime

        yield run, used


@contextmanager
def jupyter() -> Iterator[tuple[Run, Cpu]]:
    from jupyter_client.manager import start_new_kernel

    with folder():
        Path(INPUT).write_bytes(cv2.imencode(".bmp", PICTURE)[1].tobytes())
        start = time.perf_counter()
        manager, client = start_new_kernel(kernel_name="python3")
        try:
            execute(client, KERNEL)
            print(f"jupyter: a kernel starts in {time.perf_counter() - start:.2f} s")
            pid = manager.provisioner.process.pid
            yield lambda code: execute(client, code), lambda: time.process_time() + cpu_s(pid)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def execute(client: object, code: str) -> object:
    client.execute(code)  # type: ignore[attr-defined]
    image = None
    while True:
        message = client.get_iopub_msg(timeout=60)  # type: ignore[attr-defined]
        content = message["content"]
        if message["msg_type"] == "error":
            raise RuntimeError(content["evalue"])
        if message["msg_type"] == "display_data":
            data = np.frombuffer(base64.b64decode(content["data"]["image/png"]), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return image


@contextmanager
def folder() -> Iterator[str]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        try:
            yield here
        finally:
            os.chdir(before)


def below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *below(child)]
    return found


def family_s(pid: int) -> float:
    """CPU seconds of a process and of the children it has seen end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


BUBBLEWRAP = (
    *("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--bind", "HERE", "HERE"),
    *("--chdir", "HERE", "--"),
)
WAYS = {
    "in-process exec": (in_process, 1),
    "session step": (session_step, 1),
    "pre-forked": (lambda: pooled(2), 1),
    "fork per execution": (lambda: pooled(0), 1),
    "subprocess": (subprocesses, 10),
    "bubblewrap + subprocess": (lambda: subprocesses(*BUBBLEWRAP), 10),
    "jupyter kernel, a step": (jupyter, 2),
}
"""How each is opened, and by what its number of executions is divided, for it is slow."""


def checks(rows: list[dict]) -> list[dict]:
    def value(way: str, key: str, workload: str | None = "crop") -> float:
        found = (row for row in rows if row["way"] == way and row.get("workload") == workload)
        return next(found, {}).get(key) or float("nan")

    slow, fast = "subprocess", "pre-forked"
    found = [
        ("session step, crop, median ms", value("session step", "median_ms"), "<=", 1.5),
        (
            "subprocess / pre-forked, crop, median",
            value(slow, "median_ms") / value(fast, "median_ms"),
            ">=",
            15,
        ),
        (
            "subprocess / pre-forked, crop, CPU",
            value(slow, "cpu_ms") / value(fast, "cpu_ms"),
            ">=",
            10,
        ),
        ("executions a second, crop, 2 workers", value("2 workers", "per_s"), ">=", 120),
        ("private MB of a child", value("child", "private_mb", None), "<=", 6),
    ]
    return [
        {
            "name": name,
            "value": round(number, 2),
            "op": op,
            "target": target,
            "ok": number <= target if op == "<=" else number >= target,
        }
        for name, number, op, target in found
    ]


def show(row: dict) -> None:
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return said.stdout.strip()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
