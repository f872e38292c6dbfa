from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image as Pil

from visual_arft.errors import UserError
from visual_arft.images import FolderImages, Images, MemoryImages, decode, encode, identify, load
from visual_arft.types import Image

RED = encode(np.full((4, 6, 3), (255, 0, 0), dtype=np.uint8))


@pytest.fixture(params=["memory", "folder"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Images:
    return MemoryImages() if request.param == "memory" else FolderImages(tmp_path / "images")


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=5).map(lambda size: (*size, 3)))
)
def test_pixels_come_back_as_they_were(pixels: np.ndarray):
    assert np.array_equal(decode(encode(pixels)), pixels)
    assert encode(decode(encode(pixels))) == encode(pixels)


def test_a_store_gives_back_the_bytes_and_the_same_bytes_are_one_image(images: Images):
    image = images.add(RED)
    assert images.read(image) == RED
    assert images.add(RED) == image
    assert (image.width, image.height) == (6, 4)


def test_an_image_that_was_never_added_is_an_error(images: Images):
    with pytest.raises(UserError, match="000000000000"):
        images.read(Image(sha256="0" * 64, width=1, height=1))


def test_a_folder_is_shared_by_its_stores_and_holds_one_file_per_picture(tmp_path: Path):
    image = FolderImages(tmp_path).add(RED)
    assert FolderImages(tmp_path).read(image) == RED
    assert [path.name for path in tmp_path.iterdir()] == [image.sha256]


def test_threads_may_add_the_same_picture_at_once(tmp_path: Path):
    large = encode(np.zeros((500, 500, 3), dtype=np.uint8))
    with ThreadPoolExecutor(8) as pool:
        added = set(pool.map(FolderImages(tmp_path).add, [large] * 32))
    assert len(added) == len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("data", [b"", b"not a picture", RED[:20]])
def test_bytes_that_are_no_picture_are_an_error_with_a_remedy(data: bytes):
    with pytest.raises(UserError, match="give a PNG, JPEG or WebP file"):
        identify(data)


def test_a_picture_cut_short_is_found_out_when_it_is_decoded():
    noise = encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(noise[:-2000])


def test_a_bad_file_is_named(tmp_path: Path):
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(UserError, match=r"empty\.png: the image has 0 bytes"):
        load(empty, MemoryImages())
    with pytest.raises(UserError, match=r"gone\.png: No such file or directory; give the path"):
        load(tmp_path / "gone.png", MemoryImages())
    with pytest.raises(UserError, match="Is a directory"):
        load(tmp_path, MemoryImages())


def test_transparency_is_laid_on_white():
    # half of red over white: 255 * 0.5 + 255 * 0.5, and 0 * 0.5 + 255 * 0.5
    buffer = io.BytesIO()
    Pil.new("RGBA", (1, 1), (255, 0, 0, 128)).save(buffer, format="PNG")
    assert decode(buffer.getvalue())[0, 0].tolist() == [255, 127, 127]


@given(st.sampled_from(["L", "1", "P", "CMYK", "RGB"]))
def test_every_mode_decodes_to_rgb(mode: str):
    buffer = io.BytesIO()
    picture = Pil.new(mode, (3, 2))
    picture.save(buffer, format="JPEG" if mode == "CMYK" else "PNG")
    assert decode(buffer.getvalue()).shape == (2, 3, 3)


def test_what_memory_lacks_is_read_from_the_store_behind_it(tmp_path: Path):
    behind = FolderImages(tmp_path)
    kept, new = behind.add(RED), encode(np.zeros((2, 2, 3), np.uint8))
    memory = MemoryImages(behind=behind)
    assert memory.read(kept) == RED
    assert memory.read(memory.add(new)) == new
    assert len(list(tmp_path.iterdir())) == 1


def test_the_picture_that_was_added_longest_ago_is_forgotten_first():
    memory = MemoryImages(2)
    one, two, three = (encode(np.full((2, 2, 3), n, np.uint8)) for n in range(3))
    first, second = memory.add(one), memory.add(two)
    memory.add(one)
    memory.add(three)
    assert memory.read(first) == one
    with pytest.raises(UserError, match="is not in this store"):
        memory.read(second)
