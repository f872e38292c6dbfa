from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from visual_arft.envs.search.backends.dense import DenseSearcher, HybridSearcher
from visual_arft.envs.search.backends.memory import OfflineSearcher
from visual_arft.envs.search.engines import open_engine
from visual_arft.errors import UserError

faiss = pytest.importorskip("faiss", reason="needs the dense extra")


class Letters:
    """Embeds a text by how often each letter occurs in it."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = [[text.count(chr(97 + n)) for n in range(26)] for text in texts]
        rows = np.array(counts, dtype=np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


WORDS = [f"{a}{b}{a}" for a in "abcdefgh" for b in "klmnopqr"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = (json.dumps({"id": n, "contents": word}) + "\n" for n, word in enumerate(WORDS))
    (tmp_path / "c.jsonl").write_text("".join(lines) + "\n")
    return tmp_path / "c.jsonl"


def saved(index: object, path: Path) -> Path:
    index.add(Letters().embed(WORDS))  # type: ignore[attr-defined]
    faiss.write_index(index, str(path))
    return path


def trained(index: object) -> object:
    index.train(Letters().embed(WORDS))  # type: ignore[attr-defined]
    return index


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_every_passage_is_nearest_to_itself(tmp_path: Path, corpus: Path, kind: str):
    metric = faiss.METRIC_INNER_PRODUCT
    made = {
        "flat": lambda: faiss.IndexFlatIP(26),
        "ivf": lambda: trained(faiss.index_factory(26, "IVF4,SQ8", metric)),
        "hnsw": lambda: faiss.IndexHNSWFlat(26, 8, metric),
    }[kind]()
    path = saved(made, tmp_path / "i.faiss")
    searcher = DenseSearcher(path, corpus, Letters(), nprobe=4)
    missed = []
    for word in WORDS:
        best = asyncio.run(searcher.search(word, 1))[0]
        if best.text != word:
            missed.append((word, best.text))
    assert missed == []
    assert asyncio.run(searcher.search("  ", 3)) == []
    assert len(asyncio.run(searcher.search("aka", 1000))) <= len(WORDS)


def test_a_corpus_that_changed_is_counted_again(tmp_path: Path, corpus: Path):
    path = saved(faiss.IndexFlatIP(26), tmp_path / "i.faiss")
    DenseSearcher(path, corpus, Letters())
    corpus.write_text('{"id": 0, "contents": "one line"}\n')
    os.utime(corpus, ns=(2**62, 2**62))
    with pytest.raises(UserError, match=r"it has 64 vectors, and .*c.jsonl has 1 lines"):
        DenseSearcher(path, corpus, Letters())


def test_what_is_no_index_or_of_another_model_is_told(tmp_path: Path, corpus: Path):
    with pytest.raises(UserError, match=r"none: no such file"):
        DenseSearcher(tmp_path / "none", corpus, Letters())
    (tmp_path / "text").write_text("x" * 100)
    with pytest.raises(UserError, match=r"text: not a faiss index"):
        DenseSearcher(tmp_path / "text", corpus, Letters())
    other = faiss.IndexFlatIP(3)
    other.add(np.ones((len(WORDS), 3), dtype=np.float32))
    faiss.write_index(other, str(tmp_path / "i.faiss"))
    searcher = DenseSearcher(tmp_path / "i.faiss", corpus, Letters())
    with pytest.raises(UserError, match="its vectors have 3 numbers, the model's 26"):
        asyncio.run(searcher.search("aka", 1))


def test_what_two_engines_agree_on_comes_first():
    one = OfflineSearcher({"q": ["a", "b", "c"]})
    other = OfflineSearcher({"q": ["c", "d"]})
    found = asyncio.run(HybridSearcher([one, other]).search("q", 3))
    # c: 1/63 + 1/61; a: 1/61; b and d: 1/62, b being seen first
    assert [each.snippet for each in found] == ["c", "a", "b"]
    assert found[0].score == pytest.approx(1 / 63 + 1 / 61)


def test_a_toml_file_names_several_engines(tmp_path: Path, corpus: Path):
    saved(faiss.IndexFlatIP(26), tmp_path / "i.faiss")
    (tmp_path / "e.toml").write_text(
        f'engines = ["{corpus}", {{faiss = "{tmp_path}/i.faiss", corpus = "{corpus}", model = "m"}}]'
    )
    engine = open_engine(str(tmp_path / "e.toml"), load=lambda folder: Letters())
    assert asyncio.run(engine.search("aka", 2))[0].text == "aka"
    (tmp_path / "e.toml").write_text("engines = [{faiss = 'x'}]")
    with pytest.raises(UserError, match=r"e.toml, key 'engines.0"):
        open_engine(str(tmp_path / "e.toml"))


@pytest.mark.parametrize("pooling", ["mean", "cls_token", "lasttoken"])
def test_a_model_of_transformers_embeds_a_text_alike_alone_and_among_longer_ones(
    tmp_path: Path, pooling: str
):
    transformers = pytest.importorskip("transformers", reason="needs the train extra")
    tokenizers = pytest.importorskip("tokenizers")
    from visual_arft.model.embedding import SentenceModel

    words = {"[PAD]": 0, "[UNK]": 1, **{word: n for n, word in enumerate(WORDS, start=2)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]")
    fast.save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, initializer_range=0.5,  # so that words matter
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{pooling}": True})
    )
    model = SentenceModel(tmp_path)
    [alone] = model.embed(["aka bkb"])
    together = model.embed(["aka bkb", "aka bkb ckc dkd eke"])
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert np.abs(alone - together[0]).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3
