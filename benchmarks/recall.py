"""How well a model finds a fact by its content: told some facts, it restates one of them.

The reply is begun with the fact's name and relation; what is measured is the value's two
syllables, the second given the first. By chance a model is right once in as many times as there are
facts.

    python benchmarks/recall.py [MODEL]
"""

import json
import platform
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import torch

from visual_arft.images import MemoryImages
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.synth.practice import Practice
from visual_arft.training.cold_start import demonstration_rows
from visual_arft.training.updates import prepare

OUT = Path(__file__).parent / "out" / "recall.json"
SEED = 4242  # a stream that no base was trained on


def main(model: str) -> None:
    images = MemoryImages()
    vlm = load(ModelConfig(path=model), images)
    right: dict[tuple[int, int], list[bool]] = defaultdict(list)
    for each in Practice(SEED, images)(0, 1500):
        told, reply = each.turns[0].prompt.messages[0].text, each.turns[0].completion.text
        if not told.startswith("1. Content:"):
            continue
        [row] = demonstration_rows(each, vlm.chat)
        start = row.mask.index(True)
        begun = len(vlm.chat.tokenize(re.match(r"\w+ \w+: ", reply)[0]))
        _, inputs = prepare(vlm, [row])
        with torch.no_grad():
            states = vlm.hidden(inputs, use_cache=False).last_hidden_state[0]
            said = vlm.log_probabilities(states, 1.0).argmax(-1).tolist()
        for syllable in (0, 1):
            place = start + begun + syllable
            right[told.count("Content:"), syllable].append(said[place - 1] == row.ids[place])
    rows = [
        {"facts": n, "syllable": s + 1, "n": len(v), "right": sum(v) / len(v), "chance": 1 / n}
        for (n, s), v in sorted(right.items())
    ]
    for row in rows:
        print(
            "  ".join(
                f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    report = {"name": "recall", "commit": commit, "machine": platform.platform(), "checks": []}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({**report, "model": model, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["tiny"]))
