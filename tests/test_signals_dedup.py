"""The signals that tell duplicates: equal to their references, quiet about blank pictures, deaf to encodings."""

import io

import imagehash
import numpy as np
import pytest
from conftest import COLOURS, SHAPES, draw, encoded, pair
from PIL import Image

from curate import named
from curate.measure import Rows, measure


def rows_of(files: list[bytes]) -> Rows:
    return Rows(None, files)


def pictures() -> list[Image.Image]:
    """Drawn pictures of many shapes."""
    sizes = [(64, 64), (300, 200), (31, 400), (400, 31), (77, 99), (256, 256)]
    return [draw(COLOURS[i % 6], SHAPES[i % 3], i, 128).resize(size) for i, size in enumerate(sizes * 3)]


@pytest.mark.parametrize("size", [8, 16])
def test_phash_is_that_of_imagehash(size):
    files = [encoded(picture, "PNG") for picture in pictures()]
    found = named.load("signals", f"phash(size={size})").measure(rows_of(files))["phash"].to_pylist()
    wanted = [str(imagehash.phash(picture, hash_size=size)) for picture in pictures()]
    assert [code.hex() for code in found] == wanted


def test_equal_pixels_in_another_file_are_equal_pixels():
    picture = pictures()[0]
    first, second = encoded(picture, "PNG"), encoded(picture, "BMP")
    columns = named.load("signals", "exact").measure(rows_of([first, second]))
    assert columns["exact_pixels"][0] == columns["exact_pixels"][1]
    assert columns["exact_bytes"][0] != columns["exact_bytes"][1]


def test_equal_pixels_in_another_shape_differ():
    grey = Image.new("RGB", (40, 20), "grey")
    columns = named.load("signals", "exact").measure(
        rows_of([encoded(p, "PNG") for p in (grey, grey.resize((20, 40)))])
    )
    assert columns["exact_pixels"][0] != columns["exact_pixels"][1]


@pytest.mark.parametrize("signal", ["exact", "phash"])
def test_blank_tiny_and_broken_pictures_are_marked(signal):
    noise = np.random.default_rng(0).integers(250, 255, (64, 64, 3), np.uint8)
    files = [encoded(Image.fromarray(noise), "PNG"), encoded(draw("red", "circle", 1, 8), "PNG"), b"<html>",
             encoded(draw("red", "circle"), "PNG")]  # fmt: skip
    flat = named.load("signals", signal).measure(rows_of(files))[f"{signal}_flat"].to_pylist()
    assert flat == [True, True, None, False]


@pytest.mark.slow
def test_embedding_of_a_copy_is_near_and_of_another_picture_is_not():
    original, other = draw("red", "circle", 1, 224), draw("blue", "triangle", 2, 224)
    buffer = io.BytesIO()
    original.resize((200, 200)).save(buffer, "JPEG", quality=85)
    files = [encoded(original), buffer.getvalue(), encoded(other), b"broken", encoded(Image.new("RGB", (64, 64)))]
    columns = named.load("signals", "embedding").measure(rows_of(files))
    vectors = columns["embedding"]
    assert vectors.shape == (5, 1280)
    assert np.linalg.norm(vectors[:3], axis=1) == pytest.approx(1, abs=1e-5)
    assert float(vectors[0] @ vectors[1]) > 0.93
    assert float(vectors[0] @ vectors[2]) < 0.8
    assert not vectors[3:].any()
    assert columns["embedding_flat"].to_pylist() == [False, False, False, None, True]


@pytest.mark.slow
def test_embeddings_do_not_depend_on_the_workers(make_dataset):
    pairs = [pair(index) for index in range(12)]
    one = measure(make_dataset(pairs, per_shard=6), ["embedding"], "local(workers=1)")
    first = {name: one.folder.read_bytes(name) for name in one.folder.names("signals/embedding/*")}
    one.folder.remove("signals")
    two = measure(make_dataset(pairs, per_shard=6), ["embedding"], "local(workers=2)")
    assert len(first) == 4
    assert first == {name: two.folder.read_bytes(name) for name in two.folder.names("signals/embedding/*")}
