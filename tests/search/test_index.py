from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.envs.search.corpus import corpus_files, cut, read_passages
from visual_arft.envs.search.index import IndexSearcher, build
from visual_arft.envs.search.index.folder import being_built
from visual_arft.envs.search.results import Passage
from visual_arft.errors import UserError

ROWS = [
    {"id": "eiffel", "contents": '"Eiffel Tower"\nAn iron tower in Paris, 330 m high.'},
    {"id": "ben", "title": "Big Ben", "text": "The bell of a clock tower.", "url": "http://ben/"},
    {"id": 3, "contents": "故宫\n故宫在北京。"},
    {"id": "who", "contents": "The Who\nA band from London."},
]


def write(path: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def index(tmp_path: Path) -> IndexSearcher:
    build([write(tmp_path / "c.jsonl")], tmp_path / "i")
    return IndexSearcher(tmp_path / "i")


def ids(index: IndexSearcher, query: str, limit: int = 4) -> list[str]:
    return [passage.id for _, passage in index.passages(query, limit)]


def test_the_rarest_words_decide_and_each_chinese_character_is_one(index: IndexSearcher):
    assert ids(index, "How high is the EIFFEL tower?")[0] == "eiffel"
    assert ids(index, "北京") == ["3"]
    assert ids(index, "The Who")[0] == "who"
    assert ids(index, "zebra?!") == []
    assert ids(index, "") == []


def test_a_result_is_the_passage_as_it_was(index: IndexSearcher):
    [result] = asyncio.run(index.search("clock bell", 1))
    assert (result.title, result.url) == ("Big Ben", "http://ben/")
    assert result.text == "Big Ben\nThe bell of a clock tower."


def test_common_words_are_left_out_only_where_they_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("visual_arft.envs.search.index.searcher._FEW", 10)
    rows = [{"id": n, "contents": f"the word{n % 7} word {n}"} for n in range(50)]
    build([write(tmp_path / "c.jsonl", rows)], tmp_path / "i")
    index = IndexSearcher(tmp_path / "i")
    assert index._telling("the word word3 17") == ["17", "word3"]  # 1 + 7 of 10
    assert index._telling("the") == ["the"]


def test_a_build_that_was_killed_goes_on_and_is_never_opened_before(tmp_path: Path):
    corpus = write(
        tmp_path / "c.jsonl", [{"id": n, "contents": f"page {n}"} for n in range(30_000)]
    )
    script = (
        "import sys, pathlib; from visual_arft.envs.search.index import build;"
        "build([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), print, commit_every=2000)"
    )
    for _ in range(2):
        going = subprocess.Popen(
            [sys.executable, "-u", "-c", script, str(corpus), str(tmp_path / "i")],
            stdout=subprocess.PIPE,
        )
        assert going.stdout is not None
        for _ in range(5):
            going.stdout.readline()
        os.kill(going.pid, signal.SIGKILL)
        going.stdout.close()
        going.wait()
        with pytest.raises(UserError, match="its build has not ended; run"):
            IndexSearcher(tmp_path / "i")
    seen: list[int] = []
    manifest = build([corpus], tmp_path / "i", seen.append)
    assert manifest.passages == 30_000
    assert seen[0] > 4000  # what was committed is not built again
    index = IndexSearcher(tmp_path / "i")
    assert [ids(index, f"{n}") for n in (0, 5999, 29_999)] == [["0"], ["5999"], ["29999"]]
    assert not being_built(tmp_path / "i").exists()


def test_a_build_from_files_that_have_changed_starts_clean(tmp_path: Path):
    rows = [{"id": n, "contents": f"page {n}"} for n in range(10)]
    corpus = write(tmp_path / "c.jsonl", [*rows, {"id": "bad"}])
    with pytest.raises(UserError, match=r"c.jsonl, row 11, key 'contents': field required"):
        build([corpus], tmp_path / "i", commit_every=5)
    write(corpus, [{"id": "new", "contents": "another page"}])
    os.utime(corpus, ns=(time.time_ns(), time.time_ns() + 1))
    assert build([corpus], tmp_path / "i").passages == 1


def test_an_index_that_is_there_is_not_built_again_and_not_overwritten(tmp_path: Path):
    corpus = write(tmp_path / "c.jsonl")
    first = build([corpus], tmp_path / "i")
    assert build([corpus], tmp_path / "i") == first
    write(tmp_path / "d.jsonl", ROWS[:1])
    with pytest.raises(UserError, match="an index of other files stands there; choose another"):
        build([tmp_path / "d.jsonl"], tmp_path / "i")
    with pytest.raises(UserError, match="not an index; build one by arft search build"):
        build([corpus], tmp_path)


def test_two_builds_of_one_index_do_not_mix(tmp_path: Path):
    corpus = write(tmp_path / "c.jsonl", [{"id": n, "contents": "page"} for n in range(2000)])

    def second(_: int) -> None:
        with pytest.raises(UserError, match="another process builds this index"):
            build([corpus], tmp_path / "i")

    assert build([corpus], tmp_path / "i", second).passages == 2000


def test_an_index_may_lie_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build([write(tmp_path / "c.jsonl")], tmp_path / "i")
    before = sorted(path.name for path in (tmp_path / "i").iterdir())
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert ids(IndexSearcher(tmp_path / "i"), "iron") == ["eiffel"]
    assert sorted(path.name for path in (tmp_path / "i").iterdir()) == before


def test_a_folder_of_texts_is_cut_into_passages_under_their_titles(tmp_path: Path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "a.md").write_text("# Towers\n\n" + "An iron tower. " * 100)
    (tmp_path / "docs" / "deep" / "b.txt").write_text("Plain.")
    (tmp_path / "docs" / "c.jsonl.gz").write_bytes(
        gzip.compress(json.dumps(ROWS[0]).encode() + b"\n")
    )
    (tmp_path / "docs" / "picture.png").write_bytes(b"\x89PNG")
    passages = list(read_passages(corpus_files([tmp_path / "docs"])))
    assert [passage.id for passage in passages] == ["a.md#1", "a.md#2", "eiffel", "deep/b.txt#1"]
    assert passages[0].title == "Towers"
    assert passages[3].contents == "b\nPlain."


def test_parquet_is_read_in_batches_and_its_bad_row_is_named(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the dense extra")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [1, 2], "title": ["A", "B"], "text": ["x", None]})
    parquet.write_table(table, tmp_path / "c.parquet")
    passages = read_passages([tmp_path / "c.parquet"])
    assert next(passages) == Passage(id="1", contents="A\nx")
    with pytest.raises(UserError, match=r"c.parquet, row 2, key 'contents': field required"):
        next(passages)
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"bad.parquet: not a parquet file"):
        next(read_passages([tmp_path / "bad.parquet"]))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.jsonl", b'{"id": 1, "contents": "x"}\nLEGO\n', "c.jsonl, row 2: not JSON"),
        ("c.jsonl", b'{"id": 1, "contents": ""}\n', "row 1, key 'contents': .*at least 1"),
        ("c.jsonl", b"\xff\xfe\n", "c.jsonl, after row 0: .*save the file as UTF-8"),
        ("c.jsonl.gz", b"not gzip", "c.jsonl.gz, after row 0: .*download the file again"),
        ("c.txt", b"\xff", "c.txt: .*save the file as UTF-8"),
        ("c.jsonl", b"\n\n", "there is no passage in it"),
        ("c.csv", b"", "c.csv: not a corpus; give a folder, or a file in .jsonl"),
        ("empty/c.png", b"", "empty: no file there ends in"),
        ("none", None, "none: No such file"),
    ],
)
def test_a_corpus_that_cannot_be_read_names_what_is_wrong(
    tmp_path: Path, name: str, data: bytes | None, message: str
):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        build([path.parent if "/" in name else path], tmp_path / "i")
    assert not (tmp_path / "i").exists()


@given(st.text("ab .\n中。", max_size=80), st.integers(1, 12))
def test_cutting_loses_only_blanks_and_keeps_to_the_length(text: str, most: int):
    pieces = cut(text, most)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(1 <= len(piece) <= most for piece in pieces)


def test_many_processes_read_one_index_at_once(tmp_path: Path):
    build([write(tmp_path / "c.jsonl")], tmp_path / "i")
    script = (
        "import sys, pathlib; from visual_arft.envs.search.index import IndexSearcher;"
        "s = IndexSearcher(pathlib.Path(sys.argv[1]));"
        "print(s.passages('iron tower', 1)[0][1].id)"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "i")], stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert [reader.communicate()[0] for reader in readers] == [b"eiffel\n"] * 3
