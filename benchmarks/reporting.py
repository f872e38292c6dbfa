"""What a benchmark says at its end: its table, what was to be reached, and a record on disk."""

from __future__ import annotations

import json
import operator
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

HOLDS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "=": operator.eq}

Wanted = tuple[str, float, str, float]
"""What a value is of, the value, how it compares, and with what."""


def report(
    name: str, title: str, rows: Sequence[dict[str, Any]], wanted: Sequence[Wanted], **more: object
) -> None:
    """Prints all and leaves it in out/NAME.json, with the commit and the machine."""
    checks = [
        {"name": of, "value": round(value, 2), "op": op, "target": to, "ok": HOLDS[op](value, to)}
        for of, value, op, to in wanted
    ]
    console = Console(width=170)
    table = Table(*rows[0], box=None, title=title)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)
    for check in checks:
        said = "ok" if check["ok"] else "NO"
        reach = f"(to reach {check['op']} {check['target']})"
        console.print(f"{said:3}{check['name']}: {check['value']} {reach}")
    git = ["git", "rev-parse", "HEAD"]
    record = {
        "name": name,
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} torch threads",
        **more,
        "checks": checks,
        "rows": rows,
    }
    out = Path(__file__).parent / "out" / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
