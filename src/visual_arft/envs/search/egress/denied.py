"""Where the answers of benchmarks lie: evaluation must not read them there.

Agents do find the very questions on dataset hosts (arXiv 2508.13180 counts about 3% for some
benchmarks). An address is denied that holds one of these anywhere, since archives, translators
and readers carry the address of the page they show in their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

DATASET_HOSTS = (
    "huggingface.co",
    "hf.co",
    "hf-mirror.com",
    "huggingface.tw",
    "modelscope.cn",
    "modelscope.ai",
    "opendatalab.com",
    "opendatalab.org.cn",
    "aifasthub.com",
    "gitee.com/hf-datasets",
    "kaggle.com/datasets",
    "github.com/Liuziyu77/Visual-RFT",
    "githubusercontent.com/Liuziyu77/Visual-RFT",
    "github.com/RUC-NLPIR/FlashRAG",
    "githubusercontent.com/RUC-NLPIR/FlashRAG",
    "github.com/hotpotqa",
    "hotpotqa.github.io",
    "github.com/stonybrooknlp/musique",
    "github.com/Alab-NII/2wikimultihop",
    "github.com/ofirpress/self-ask",
    "arxiv.org/abs/2505.14246",
    "arxiv.org/pdf/2505.14246",
)
"""Hosts, or hosts with the beginning of a path, of the benchmarks this package plays."""


def denying(address: str, denied: Sequence[str]) -> str | None:
    """The entry that denies an address, None where none does.

    >>> denying("https://web.archive.org/web/2024/https://Huggingface.co/x", DATASET_HOSTS)
    'huggingface.co'
    """
    # Twice, for an address that was quoted to stand in another; translators write dots as dashes.
    plain = unquote(unquote(address)).lower()
    for entry in denied:
        host, _, path = entry.lower().partition("/")
        dashed = re.escape(host).replace("-", "--").replace(r"\.", "-")
        tail = f"/{re.escape(path)}" if path else ""
        ends = r"(?![\w-])(?!\.\w)" if not path else r"(?![\w])"
        if re.search(rf"(?<![\w-])(?:{re.escape(host)}\.?(?::\d+)?{tail}){ends}", plain):
            return entry
        if re.search(rf"(?<![\w.-]){dashed}\.translate\.goog(?:/.*)?{tail}", plain):
            return entry
    return None
