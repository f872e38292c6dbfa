"""Against the published weights; `ARFT_MINILM` names the folder of all-MiniLM-L6-v2."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from visual_arft.envs.search.embedder import MiniLm
from visual_arft.errors import UserError

needs_weights = pytest.mark.skipif(
    "ARFT_MINILM" not in os.environ, reason="ARFT_MINILM names no folder of all-MiniLM-L6-v2"
)
TEXTS = [
    "height of Eiffel Tower",
    "",
    "2019 NBA champion",
    "埃菲尔铁塔有多高",
    "Bézier's naïve <|im_end|> façade, 1962!",
    "a long text " * 200,  # beyond the 256 tokens that count
]


def folder() -> Path:
    return Path(os.environ["ARFT_MINILM"])


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    return MiniLm(folder())


@needs_weights
@pytest.mark.parametrize(
    ("one", "other", "cosine"),
    [
        ("height of Eiffel Tower", "weight of Eiffel Tower", 0.815),
        ("2019 NBA champion", "who won the NBA finals in 2020", 0.677),
        ("", "LEGO", 0.258),
    ],
)
def test_cosines_are_those_of_sentence_transformers(
    minilm: MiniLm, one: str, other: str, cosine: float
):
    left, right = minilm.embed([one, other])
    assert left @ right == pytest.approx(cosine, abs=5e-4)


@needs_weights
def test_embeddings_are_those_of_the_torch_model(minilm: MiniLm):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(folder(), local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(), local_files_only=True)
    for text, ours in zip(TEXTS, minilm.embed(TEXTS), strict=True):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            mean = model(**tokens).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(ours, mean / np.linalg.norm(mean), atol=2e-6)


@needs_weights
def test_embeddings_have_length_one_and_do_not_depend_on_their_neighbours(minilm: MiniLm):
    rows = minilm.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(minilm.embed([TEXTS[2]])[0], rows[2])


@needs_weights
def test_other_weights_must_be_allowed(tmp_path: Path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).symlink_to(folder() / name)
    tokenizer = (folder() / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(tokenizer + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer.json: its SHA-256 is .*any_weights"):
        MiniLm(tmp_path)
    assert MiniLm(tmp_path, any_weights=True).embed(["x"]).shape == (1, 384)


def test_a_folder_without_the_model_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere/model.safetensors: No such file or directory"):
        MiniLm(tmp_path / "nowhere")


def test_a_file_that_is_not_the_model_is_an_error(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="all-MiniLM-L6-v2's is 53aa51172d14"):
        MiniLm(tmp_path)
