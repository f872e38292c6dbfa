"""Lets servers import a torchvision that was built for another torch than the one beside it.

On the PYTHONPATH of a server's process. The processors of Qwen2.5-VL ask for torchvision; of its
operators only the decoding of a picture is used, and Pillow does that.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _Declare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare():
    import torch

    for name, operators in {
        "torchvision": (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ),
        "image": (
            "decode_image(Tensor data, int mode, bool apply_exif_orientation=False) -> Tensor",
        ),
    }.items():
        library = torch.library.Library(name, "DEF")
        for each in operators:
            library.define(each)
        _LIBRARIES[name] = library
    _LIBRARIES["image"].impl("decode_image", _decoded, "CPU")
    load = torch.ops.load_library
    torch.ops.load_library = lambda path: None if str(path).endswith("image.so") else load(path)


def _decoded(data, mode, apply_exif_orientation=False):
    import io

    import numpy as np
    import torch
    from PIL import Image

    with Image.open(io.BytesIO(data.numpy().tobytes())) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


_LIBRARIES = {}
sys.meta_path.insert(0, _Declare())
