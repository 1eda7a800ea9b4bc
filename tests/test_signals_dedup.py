"""The signals that tell duplicates: equal to their references, quiet about blank pictures, deaf to encodings."""

import io

import imagehash
import numpy as np
import pytest
from conftest import COLOURS, SHAPES, draw, encoded, pair
from PIL import Image

from curate import images, named
from curate.errors import CurateError
from curate.measure import measure
from curate.rows import Rows
from curate.signals.pdq import pdq, pdq_dihedral
from curate.signals.thumbprint import thumbprint

BITS = ("phash", "dhash", "whash", "pdq")


def rows_of(files: list[bytes]) -> Rows:
    return Rows(None, files)


def measured(signal: str, files: list[bytes], column: str | None = None) -> list:
    return named.load("signals", signal).measure(rows_of(files))[column or signal].to_pylist()


def pictures() -> list[Image.Image]:
    """Drawn pictures of many shapes, plain symmetric ones whose frequencies are often equal, and long ones."""
    sizes = [(64, 64), (300, 200), (31, 400), (400, 31), (77, 99), (256, 256)]
    found = [draw(COLOURS[i % 6], SHAPES[i % 3], i, 128).resize(size) for i, size in enumerate(sizes * 3)]
    for side in (16, 64, 200):
        plain = Image.new("RGB", (side, side), "white")
        plain.paste("black", (side // 4, side // 4, side * 3 // 4, side * 3 // 4))
        found.append(plain)
    noise = np.random.default_rng(0).integers(0, 256, (40, 3000, 3), np.uint8)
    return [*found, Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2).copy())]


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("name", ["phash", "dhash", "whash"])
def test_hashes_are_those_of_imagehash(name, size):
    found = measured(f"{name}(size={size})", [encoded(picture, "PNG") for picture in pictures()], name)
    wanted = [str(getattr(imagehash, name)(picture, hash_size=size)) for picture in pictures()]
    assert [code.hex() for code in found] == wanted


@pytest.mark.parametrize("name", ["phash", "dhash", "whash"])
def test_imagehash_takes_over_where_the_fast_way_differs(name, monkeypatch):
    picture = pictures()[1]
    wanted = str(getattr(imagehash, name)(picture))
    module = __import__(f"curate.signals.{name}", fromlist=["agrees"])
    monkeypatch.setattr(module, "agrees", lambda size: False)
    assert measured(name, [encoded(picture, "PNG")])[0].hex() == wanted


@pytest.mark.parametrize("spec", ["phash(size=7)", "dhash(size=0)", "whash(size=12)", "whash(size=x)"])
def test_a_size_that_gives_no_whole_bytes_is_refused(spec):
    with pytest.raises(CurateError, match="size is a"):
        named.load("signals", spec)


def test_grey_levels_and_their_reductions_are_those_of_pillow():
    rng = np.random.default_rng(1)
    for height, width in [(1, 1), (5, 700), (300, 401), (64, 64), (33, 20)]:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        grey = images.grey(pixels)
        assert np.array_equal(grey, np.asarray(Image.fromarray(pixels).convert("L")))
        for size in ((32, 32), (9, 8), (64, 64)):
            by_pillow = Image.fromarray(grey).resize(size, Image.Resampling.LANCZOS)
            assert np.array_equal(images.lanczos(grey, *size), np.asarray(by_pillow))


def pattern(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * x + y * 7) % 256, (x * y // 3) % 256, (x * 5 + y * y // 11) % 256], 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "code", "quality"),
    [(200, 300, "b8fef2fc13fa97fe27fa54a6dcc4fffafac0ffd0dac0fb80da805000d0001000", 100),
     (64, 64, "b52529addb6136480cdb9aaa3152e2d50da53b6de4c9833b84730bc63e1e39fc", 100),
     (40, 333, "33196711c6730c733867f0e3f3e783870f071e0ef82fe0be00fc07fc3de8b500", 100)],
)  # fmt: skip
def test_pdq_is_that_of_pdqhash_0_2_8(height, width, code, quality):
    assert (pdq(pattern(height, width))[0].hex(), pdq(pattern(height, width))[1]) == (code, quality)


def test_pdq_and_its_mirror_images_are_those_of_the_installed_pdqhash():
    pdqhash = pytest.importorskip("pdqhash", reason="the reference is not installed")
    soft = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (3, 4, 3), np.uint8)).resize((130 + i, 140),
            Image.Resampling.BICUBIC) for i in range(8)]  # fmt: skip
    for picture in [*pictures(), *soft, Image.new("RGB", (90, 80), "navy"), Image.new("RGB", (4, 400))]:
        pixels = np.asarray(picture)
        bits, quality = pdqhash.compute(pixels)
        assert pdq(pixels) == (np.packbits(bits).tobytes(), quality)
        bits, _ = pdqhash.compute_dihedral(pixels)
        if picture.size != (64, 64):  # there the two ways of pdqhash itself differ by a rounding
            assert np.array_equal(pdq_dihedral(pixels)[0], np.packbits(np.array(bits), axis=1))


def test_turning_or_mirroring_a_picture_swaps_its_eight_pdq_hashes():
    pixels = np.asarray(draw("red", "triangle", 5, 256))
    hashes, _ = pdq_dihedral(pixels)
    turned, _ = pdq_dihedral(np.rot90(pixels).copy())
    gaps = np.bitwise_count(hashes[:, None] ^ turned[None]).sum(axis=2)
    assert sorted(gaps.argmin(axis=1).tolist()) == list(range(8))
    assert gaps.min(axis=1).max() <= 31
    assert bytes(hashes[0]) == pdq(pixels)[0]


def test_thumbprint_is_the_mean_colour_of_8_by_8_cells():
    rng = np.random.default_rng(0)
    for height, width in [(64, 80), (37, 501), (3, 5), (1, 1)]:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        y, x = (np.arange(9) * size // 8 for size in (height, width))
        cells = [[pixels[y[i] : max(y[i + 1], y[i] + 1), x[j] : max(x[j + 1], x[j] + 1)] for j in range(8)]
                 for i in range(8)]  # fmt: skip
        wanted = [[[np.floor(v + 0.5) for v in cell.reshape(-1, 3).mean(0)] for cell in row] for row in cells]
        assert np.array_equal(thumbprint(pixels), wanted)


def test_thumbprint_sees_a_recoloured_picture_that_hashes_do_not():
    picture = draw("red", "circle", 1, 128)
    recoloured = Image.merge("RGB", picture.split()[::-1])
    files = [encoded(picture, "PNG"), encoded(recoloured, "PNG")]
    one, other = (np.frombuffer(code, np.uint8).astype(int) for code in measured("thumbprint", files))
    assert abs(one - other).max() > 50


# 2 x 2 black pixels in Adam7, which Pillow cannot write
INTERLACED = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000200000002080000000120da626e0000000b49444154789c6360"
    "00030000070001b286acf40000000049454e44ae426082"
)
FLAGS = {
    "a JPEG": (lambda: encoded(draw("red", "circle")), ("jpeg", 1, False, False, 1, False)),
    "a progressive JPEG": (
        lambda: encoded(draw("red", "circle"), progressive=True),
        ("jpeg", 1, False, False, 1, True),
    ),
    "a turned JPEG": (lambda: turned(draw("red", "circle"), 6), ("jpeg", 1, False, False, 6, False)),
    "an opaque PNG": (lambda: encoded(draw("red", "circle"), "PNG"), ("png", 1, False, False, 1, False)),
    "an interlaced PNG": (lambda: INTERLACED, ("png", 1, False, False, 1, True)),
    "a transparent PNG": (lambda: encoded(Image.new("RGBA", (40, 40)), "PNG"), ("png", 1, False, True, 1, False)),
    "an animated GIF": (lambda: animated(), ("gif", 3, True, False, 1, False)),
    "pages of a TIFF": (lambda: animated("TIFF"), ("tiff", 3, False, False, 1, False)),
    "no image": (lambda: b"<html>", (None,) * 6),
    "a truncated PNG header": (lambda: encoded(draw("red", "circle"), "PNG")[:20], (None,) * 6),
}


def turned(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, exif=exif)


def animated(kind: str = "GIF") -> bytes:
    frames = [draw(colour, "circle", 1, 64) for colour in ("red", "blue", "green")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("what", FLAGS)
def test_flags_say_what_a_file_is(what):
    file, wanted = FLAGS[what]
    columns = named.load("signals", "flags").measure(rows_of([file()]))
    assert tuple(column[0].as_py() for column in columns.values()) == wanted


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


@pytest.mark.parametrize("signal", ["exact", "thumbprint", *BITS])
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
    pairs = [pair(index) for index in range(4)]
    one = measure(make_dataset(pairs, per_shard=2), ["embedding"], "local(workers=0)")
    first = {name: one.folder.read_bytes(name) for name in one.folder.names("signals/embedding/*")}
    one.folder.remove("signals")
    two = measure(make_dataset(pairs, per_shard=2), ["embedding"], "local(workers=2)")
    assert len(first) == 4
    assert first == {name: two.folder.read_bytes(name) for name in two.folder.names("signals/embedding/*")}
