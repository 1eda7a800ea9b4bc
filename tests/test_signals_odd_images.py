"""Images that are not plain: what each means to the signals, and what is refused. One test for each kind."""

import io
import struct
import zlib

import numpy as np
import pytest
from conftest import draw, encoded, pair
from PIL import Image

from curate import images, named
from curate import measure as measuring
from curate.dedup import run
from curate.measure import measure
from curate.rows import Rows

BITS = ("phash", "dhash", "whash", "pdq")
PICTURES = ("exact_pixels", "thumbprint", *BITS)


def codes(*files: bytes) -> dict[str, list]:
    """Every column that tells duplicates, of some files."""
    rows = Rows(None, list(files))
    columns: dict[str, list] = {}
    for signal in ("exact", "thumbprint", *BITS):
        found = named.load("signals", signal).measure(rows)
        columns |= {name: values.to_pylist() for name, values in found.items()}
    return columns


def alike(*files: bytes) -> bool:
    """Whether every signal of the picture gives the same for all files."""
    columns = codes(*files)
    return all(len(set(columns[name])) == 1 and columns[name][0] for name in PICTURES)


def photo(width: int = 120, height: int = 90) -> Image.Image:
    """A busy picture."""
    noise = np.random.default_rng(7).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("colour", ["black", "white", "navy"])
def test_a_solid_picture_has_hashes_that_are_never_compared(colour):
    columns = codes(encoded(Image.new("RGB", (100, 80), colour), "PNG"))
    assert [columns[f"{name}_flat"] for name in ("exact", "thumbprint", *BITS)] == [[True]] * 6
    assert columns["pdq_quality"] == [0]


def test_a_picture_with_little_to_see_has_no_pdq_worth_comparing():
    dot = Image.new("RGB", (200, 200), "white")
    dot.paste("red", (90, 90, 110, 110))
    columns = codes(encoded(dot, "PNG"))
    assert columns["pdq_quality"][0] < 50
    assert (columns["pdq_flat"], columns["phash_flat"]) == ([True], [False])


def test_pictures_that_look_the_same_on_white_are_the_same_whatever_their_transparent_pixels_hold():
    opaque = photo()
    mask = Image.new("L", opaque.size, 255)
    mask.paste(0, (0, 0, 60, 90))
    one, other = opaque.copy(), opaque.copy()
    one.paste("red", (0, 0, 60, 90))
    other.paste("blue", (0, 0, 60, 90))
    for picture in (one, other):
        picture.putalpha(mask)
    opaque.paste("white", (0, 0, 60, 90))
    assert alike(encoded(one, "PNG"), encoded(other, "PNG"), encoded(opaque, "PNG"))


def test_a_palette_with_a_transparent_colour_lies_on_white_too():
    palette = photo().quantize(16)
    visible = np.asarray(palette.convert("RGB")).copy()
    visible[np.asarray(palette) == 3] = 255
    assert alike(encoded(palette, "PNG", transparency=3), encoded(Image.fromarray(visible), "PNG"))


def test_16_bits_a_channel_are_scaled_not_clipped():
    grey = np.asarray(photo().convert("L"))
    deep = grey.astype(np.uint16) * 256 + 99
    assert alike(encoded(Image.fromarray(deep), "PNG"), encoded(Image.fromarray(grey).convert("RGB"), "PNG"))


def test_cmyk_is_the_picture_that_pillow_sees():
    buffer = io.BytesIO()
    photo().convert("CMYK").save(buffer, "JPEG", quality=92)
    seen = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    assert alike(buffer.getvalue(), encoded(seen, "PNG"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_exif_says_before_anything_is_measured(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    steps = {2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}.get(orientation, [])
    upright = photo()
    for step in steps:
        upright = upright.transpose(Image.Transpose(step))
    assert alike(encoded(photo(), "PNG", exif=exif), encoded(upright, "PNG"))


def test_a_truncated_file_is_not_hashed_and_counted(make_dataset):
    pairs = [pair(index) for index in range(4)]
    pairs[1]["image"] = pairs[1]["image"][: int(len(pairs[1]["image"]) * 0.9)]
    signals = ["exact", "thumbprint", "flags", *BITS]
    dataset = measure(make_dataset(pairs), signals, "local(workers=0)")
    table = dataset.joined(dataset.shards[0])
    nulls = {name: table[name].null_count for name in (*PICTURES, "exact_bytes", "flags_format")}
    assert nulls == dict.fromkeys(PICTURES, 1) | {"exact_bytes": 0, "flags_format": 0}
    assert "1 image could not be decoded" in dataset.history[-1]["summary"]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_its_first_frame_and_says_so(kind):
    frames = [draw(colour, "circle", 1, 64) for colour in ("red", "blue", "green")]
    moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    first = Image.open(io.BytesIO(moving)).convert("RGB")
    assert alike(moving, encoded(first, "PNG"))
    assert named.load("signals", "flags").measure(Rows(None, [moving]))["flags_animated"].to_pylist() == [True]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 300), (8, 8)])
def test_tiny_pictures_are_hashed_but_never_compared(size):
    columns = codes(encoded(photo(*size), "PNG"))
    assert all(columns[name][0] for name in PICTURES)
    assert all(columns[f"{name}_flat"] == [True] for name in ("exact", "thumbprint", *BITS))


def test_231_megapixels_are_refused_before_they_are_decoded(make_dataset):
    side = 15_200
    bomb = png(side, side, 1, 0, bytes((side // 8 + 1) * side))
    pairs = [pair(index) for index in range(3)]
    pairs[1]["image"] = bomb
    assert images.pixel_count(bomb) == 0
    dataset = measure(make_dataset(pairs), ["exact", "pdq"], "local(workers=0)")
    table = dataset.joined(dataset.shards[0])
    assert (table["exact_pixels"].null_count, table["pdq"].null_count) == (1, 1)
    assert dataset.history[-1]["counts"]["undecodable"] == 1


def test_large_pictures_are_decoded_a_few_at_a_time(make_dataset, monkeypatch):
    monkeypatch.setattr(measuring, "MOST_PIXELS", 10_000)
    held = []
    decode = images.decode

    def watched(encoded: bytes) -> np.ndarray:
        pixels = decode(encoded)
        held.append(pixels.shape[0] * pixels.shape[1])
        return pixels

    monkeypatch.setattr(images, "decode", watched)
    batches = []
    signal = named.plugin("signals", named.parse("thumbprint"))
    kept = signal.measure
    monkeypatch.setattr(signal, "measure", lambda self, rows: (batches.append(len(rows)), kept(self, rows))[1])
    dataset = make_dataset([pair(index) for index in range(7)])  # 64 x 64 = 4096 pixels each
    measuring._build.cache_clear()
    measured = measure(dataset, ["thumbprint", "exact"], "local(workers=0)")
    assert batches == [2, 2, 2, 1]
    assert len(held) == 7, "each image is decoded once for both signals"
    assert measured.joined(measured.shards[0])["thumbprint"].null_count == 0


def test_a_column_of_another_imagehash_is_refused_by_name(dataset):
    measured = measure(dataset, ["phash"], "local(workers=0)")
    name = "signals/phash/00001.parquet"
    made_by = measured.folder.made_by(name)
    assert {"algorithm", "imagehash", "pillow", "simplejpeg"} <= set(made_by)
    measured.folder.write_table(name, measured.folder.read_table(name), {**made_by, "imagehash": "3.0"})
    again = measure(measured, ["phash"], "local(workers=0)")
    assert list(again.failures) == ["shards/00001"]
    assert (
        "was measured with another imagehash; delete signals/phash or measure under" in again.failures["shards/00001"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("signals", [["pdq", "thumbprint"], ["dhash"], ["whash"]])
def test_every_signal_with_a_distance_finds_copies(make_dataset, signals):
    rng = np.random.default_rng(0)
    pairs = [pair(index) for index in range(6)]
    for row in pairs[:5]:
        noise = rng.integers(0, 256, (9, 12, 3), np.uint8)
        row["image"] = encoded(Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC), "PNG")
    copy = Image.open(io.BytesIO(pairs[0]["image"])).resize((160, 120), Image.Resampling.LANCZOS)
    pairs[5]["image"] = encoded(copy)
    for row, size in zip(pairs, [(240, 180)] * 5 + [(160, 120)], strict=True):
        row["width"], row["height"] = size
    thresholds = {name: named.plugin("signals", named.parse(name)).threshold + 4 for name in signals if name in BITS}
    dataset = run(make_dataset(pairs), signals=signals, thresholds=thresholds, engine="local(workers=0)")
    selection = dataset.folder.read_table(f"selections/{dataset.selection}/00000.parquet").to_pylist()
    dropped = [row for row in selection if row["reason"]]
    assert [row["signal"] for row in dropped] == signals[:1]
