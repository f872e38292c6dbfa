"""The embedded index beside bm25s and SQLite FTS5: build, memory, disk, latency, throughput.

The corpus is generated and seeded: passages of 100 words, drawn by Zipf's law from 400,000. A
question holds seven words of one passage, rare ones and common ones, among stop words; the passage
is what it should bring. Each build and each client is a process of its own.

    python benchmarks/search.py [--sizes 200000,1000000] [--queries 400] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import platform
import random
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import bm25s
import numpy as np
from rich.console import Console
from rich.table import Table

from visual_arft.envs.search.index import IndexSearcher, build

OUT = Path(__file__).parent / "out" / "search.json"
STOP = "the of and in to a is was for on as with by he that at from his it an were are which"
VOCABULARY = 400_000
QUESTION = "what is the {} of the {} and the {} in {} that was {} by {} with the {}"
LIMIT = 5

Ask = Callable[[str], list[str]]
"""The ids that a question brings."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--sizes", default="200000,1000000")
    options.add_argument("--queries", type=int, default=400)
    options.add_argument("--keep", type=Path, help="leave corpus and indexes in this folder")
    given = options.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        rows = [row for size in sizes for row in compare(folder, size, given.queries)]
    report(rows, sizes[-1])


def compare(folder: Path, size: int, queries: int) -> Iterator[dict[str, object]]:
    here = folder / str(size)
    here.mkdir(parents=True, exist_ok=True)
    corpus, asked = here / "corpus.jsonl", here / "questions.json"
    if not asked.exists():
        asked.write_text(json.dumps(write_corpus(corpus, size, queries)))
    questions = json.loads(asked.read_text())
    for engine in ENGINES:
        print(f"{size:,} passages: {engine}", flush=True)
        built = here / engine
        row: dict[str, object] = {"engine": engine, "passages": size}
        row |= in_process(_build, engine, corpus, built)
        row["disk_mb"] = sum(each.stat().st_size for each in built.rglob("*")) / 2**20
        few = questions if engine != "fts5" else questions[: max(20, len(questions) // 10)]
        row |= clients(engine, built, few, 1)
        if engine != "fts5":  # one client keeps it busy for minutes
            row |= clients(engine, built, few, 2)
            row |= clients(engine, built, few, 8)
        print(
            "   ",
            json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}),
        )
        yield row


def write_corpus(path: Path, size: int, queries: int) -> list[tuple[str, str]]:
    """Writes the passages; questions with the id of the passage that each is about."""
    rng = np.random.default_rng(0)
    words = np.array(vocabulary())
    likely = 1 / (np.arange(1, VOCABULARY + 1) + 2.7)
    edges = np.cumsum(likely / likely.sum())
    chosen = set(random.Random(0).sample(range(size), queries))
    questions: list[tuple[str, str]] = []
    with path.open("w") as file:
        for start in range(0, size, 1000):
            drawn = np.searchsorted(edges, rng.random((min(1000, size - start), 100)))
            for number, ranks in enumerate(np.minimum(drawn, VOCABULARY - 1), start=start):
                contents = f"Page {number}\n" + " ".join(words[ranks])
                file.write(json.dumps({"id": str(number), "contents": contents}) + "\n")
                if number in chosen:
                    questions.append((question(words, ranks), str(number)))
    random.Random(1).shuffle(questions)
    return questions


def question(words: np.ndarray, ranks: np.ndarray) -> str:
    """Two rare words and five common ones of a passage."""
    content = sorted({int(rank) for rank in ranks} - set(range(len(STOP.split()))), reverse=True)
    picked = [*content[:2], *content[len(content) // 2 :][:5]]
    return QUESTION.format(*words[picked])


def vocabulary() -> list[str]:
    syllables = [a + b for a, b in product("bcdfghjklmnprstvz", "aeiou")]
    made = ("".join(parts) for parts in product(syllables, repeat=3))
    words = [*STOP.split(), *(word for word, _ in zip(made, range(VOCABULARY), strict=False))]
    return words[:VOCABULARY]


def rows_of(corpus: Path) -> Iterator[tuple[str, str]]:
    with corpus.open() as file:
        for line in file:
            row = json.loads(line)
            yield row["id"], row["contents"]


# Engines: how each is built, and how it is asked.


def build_index(corpus: Path, built: Path) -> None:
    build([corpus], built)


def open_index(built: Path) -> Ask:
    searcher = IndexSearcher(built)
    return lambda text: [passage.id for _, passage in searcher.passages(text, LIMIT)]


def build_bm25s(corpus: Path, built: Path) -> None:
    ids, texts = zip(*rows_of(corpus), strict=True)
    engine = bm25s.BM25(backend="numpy")
    engine.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    engine.save(built)
    (built / "ids.pickle").write_bytes(pickle.dumps(ids))  # the texts would come on top


def open_bm25s(built: Path) -> Ask:
    engine = bm25s.BM25.load(built, mmap=True)
    ids = pickle.loads((built / "ids.pickle").read_bytes())

    def ask(text: str) -> list[str]:
        words = bm25s.tokenize([text], stopwords="en", show_progress=False, return_ids=False)
        found, _ = engine.retrieve(words, k=LIMIT, show_progress=False)
        return [ids[number] for number in found[0]]

    return ask


def build_fts5(corpus: Path, built: Path) -> None:
    built.mkdir()
    with sqlite3.connect(built / "fts5.sqlite") as database:
        database.execute("create virtual table passages using fts5(id unindexed, contents)")
        database.executemany("insert into passages values (?, ?)", rows_of(corpus))


def open_fts5(built: Path) -> Ask:
    database = sqlite3.connect(built / "fts5.sqlite")
    stop = set(STOP.split()) | {"what"}

    def ask(text: str) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in text.split() if word not in stop)
        query = "select id from passages where passages match ? order by rank limit ?"
        return [id for (id,) in database.execute(query, (words, LIMIT))]

    return ask


ENGINES: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path], Ask]]] = {
    "index": (build_index, open_index),
    "bm25s": (build_bm25s, open_bm25s),
    "fts5": (build_fts5, open_fts5),
}


# Processes: a build, and clients that start together.


def _build(engine: str, corpus: Path, built: Path) -> dict[str, float]:
    if built.exists():
        shutil.rmtree(built)
    start = time.perf_counter()
    ENGINES[engine][0](corpus, built)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"build_s": seconds, "build_peak_mb": peak}


def clients(engine: str, built: Path, questions: list[tuple[str, str]], count: int) -> dict:
    """Latency and throughput of so many processes, each with its own share of the questions."""
    each = len(questions) // count
    with multiprocessing.get_context("spawn").Manager() as manager:
        together = manager.Barrier(count)
        share = [questions[n * each : (n + 1) * each] for n in range(count)]
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            jobs = [(engine, built, questions, part, together) for part in share]
            answers = pool.starmap(_client, jobs, chunksize=1)
    times = sorted(seconds for times, _, _ in answers for seconds in times)
    wall = max(wall for _, wall, _ in answers)
    hits = sum(hits for _, _, hits in answers)
    name = f"_{count}"
    return {
        f"p50_ms{name}": 1000 * times[len(times) // 2],
        f"p95_ms{name}": 1000 * times[int(len(times) * 0.95)],
        f"qps{name}": len(times) / wall,
        f"hit_at_5{name}": hits / len(times),
    }


def _client(engine, built, warm, questions, together) -> tuple[list[float], float, int]:
    ask = ENGINES[engine][1](built)
    for text, _ in warm[-10:]:
        ask(text)
    together.wait()
    times, hits = [], 0
    begun = time.perf_counter()
    for text, wanted in questions:
        start = time.perf_counter()
        found = ask(text)
        times.append(time.perf_counter() - start)
        hits += wanted in found
    return times, time.perf_counter() - begun, hits


def in_process(function, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def report(rows: list[dict], largest: int) -> None:
    ours = next(row for row in rows if row["engine"] == "index" and row["passages"] == largest)
    theirs = next(row for row in rows if row["engine"] == "bm25s" and row["passages"] == largest)
    wanted = [
        ("build peak, MB", ours["build_peak_mb"], "<=", 800),
        ("p50 with stop words, ms", ours["p50_ms_1"], "<=", 5),
        ("queries a second over 2 processes", ours["qps_2"], ">=", 300),
        ("known-item hit@5", ours["hit_at_5_1"], ">=", 0.99),
        ("queries a second, 1 client, over bm25s", ours["qps_1"] / theirs["qps_1"], ">=", 1),
        ("build peak, over bm25s", ours["build_peak_mb"] / theirs["build_peak_mb"], "<=", 1),
    ]
    checks = [
        {"name": name, "value": value, "op": op, "target": target,
         "ok": value <= target if op == "<=" else value >= target}
        for name, value, op, target in wanted
    ]  # fmt: skip
    console = Console(width=160)
    table = Table(*rows[0], box=None, title=f"search, questions with stop words, top {LIMIT}")
    for row in rows:
        cells = (row.get(key, "") for key in rows[0])
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)
    for check in checks:
        said = "ok" if check["ok"] else "NO"
        reach = f"(to reach {check['op']} {check['target']})"
        console.print(f"{said:3}{check['name']}: {check['value']:.3f} {reach}")
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    OUT.parent.mkdir(exist_ok=True)
    machine = f"{platform.processor() or platform.machine()}, {multiprocessing.cpu_count()} cores"
    record = {
        "name": "search",
        "commit": commit,
        "machine": machine,
        "checks": checks,
        "rows": rows,
    }
    OUT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
