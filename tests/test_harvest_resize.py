"""Our resizer: img2dataset's bytes where it decodes exactly, close to them where it does not, no unsound image."""

import io
import os
import random
import resource
import struct
import zlib

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DOWNLOADERS
from harvest_web import COLOURS, serving
from PIL import Image, ImageOps

from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import run
from curate.harvest.pixels.decode import on_white
from curate.harvest.pixels.peek import MAX_PIXELS, MAX_SCANS, peek
from curate.harvest.pixels.quiet import quiet
from curate.harvest.pixels.resize import MARGIN, Resizer
from curate.images import UndecodableImage

MODES = {"RGB": ("JPEG", "PNG", "WEBP", "BMP", "AVIF", "TIFF", "JPEG2000"), "L": ("JPEG", "PNG"),
         "RGBA": ("PNG", "WEBP"), "P": ("PNG", "GIF"), "LA": ("PNG",), "CMYK": ("JPEG",), "1": ("PNG",)}  # fmt: skip
EXIF_ORIENTATION = 0x0112


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), int)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Patches of colour without hard edges, like a photograph out of focus."""
    cells = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def picture(seed: int) -> tuple[str, bytes]:
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    width, height = rng.randrange(20, 400), rng.randrange(20, 400)
    small = Image.fromarray(noise.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
    mode = rng.choice(sorted(MODES))
    image = small.resize((width, height)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise.integers(0, 255, (height, width), np.uint8)))
    form = rng.choice(MODES[mode])
    options = {"JPEG": {"quality": rng.randrange(40, 98), "progressive": rng.random() < 0.4},
               "AVIF": {"speed": 10}}  # fmt: skip
    if mode == "RGB":
        options["JPEG"] |= {"subsampling": rng.randrange(3)}
    return f"{mode} {form} {width}x{height}", saved(image, form, **options.get(form, {}))


@pytest.mark.slow
def test_decoded_exactly_the_bytes_are_those_of_img2dataset(monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the package index for a newer one
    found = pytest.importorskip("curate.harvest.downloaders.img2dataset", reason="img2dataset is not installed")
    (resizer,) = found.modules("resizer")
    theirs = resizer.Resizer(64, "keep_ratio", True, encode_quality=95)
    ours = Resizer(64, 95, 0, "exact")
    for seed in range(200):
        name, encoded = picture(seed)
        assert tuple(ours(encoded))[:5] == tuple(theirs(io.BytesIO(encoded)))[:5], name


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["balanced", "fast"])
@pytest.mark.parametrize("size", [(1000, 750), (301, 799), (640, 480), (2049, 1025), (140, 120)])
def test_a_jpeg_decoded_at_a_fraction_of_its_size_is_close_to_the_whole(decode, size):
    for options in ({"subsampling": 2}, {"subsampling": 0, "progressive": True}):
        encoded = saved(smooth(*size), "JPEG", quality=90, **options)
        exact, close = (Resizer(128, 95, 0, mode)(encoded) for mode in ("exact", decode))
        assert close[1:] == exact[1:]
        assert np.abs(pixels(close.jpeg) - pixels(exact.jpeg)).mean() < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["balanced", "fast"])
def test_only_jpeg_is_decoded_in_another_way(decode):
    for form in ("PNG", "WEBP", "GIF"):
        encoded = saved(smooth(500, 400), form)
        assert Resizer(128, 95, 0, decode)(encoded) == Resizer(128, 95, 0, "exact")(encoded)


@pytest.mark.slow
@pytest.mark.parametrize("decode", MARGIN)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_every_exif_orientation_is_applied(form, decode):
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = turn
        told = {"tiffinfo": {EXIF_ORIENTATION: turn}} if form == "TIFF" else {"exif": exif}
        encoded = saved(smooth(300, 200, turn), form, **told)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
        found = Resizer(64, 95, 8, decode)(encoded)
        assert (found.original_width, found.original_height) == upright.size
        assert (found.width, found.height) == ((96, 64) if turn < 5 else (64, 96))
        wanted = np.asarray(upright.resize((found.width, found.height), Image.Resampling.BOX), int)
        assert np.abs(pixels(found.jpeg) - wanted).mean() < 4, turn


def test_16_bits_are_scaled_to_8():
    deep = Image.fromarray(np.full((20, 20), 0x8000, np.uint16))
    for form in ("PNG", "TIFF", "JPEG2000"):
        assert abs(pixels(Resizer(64, 95, 8)(saved(deep, form)).jpeg).mean() - 0x80) <= 2
    colours = np.full((64, 64, 3), (0x2000, 0x8000, 0xF000), np.uint16)  # blue, green, red
    for ending in (".png", ".tiff", ".jp2"):
        encoded = cv2.imencode(ending, colours)[1].tobytes()
        assert np.abs(pixels(Resizer(64, 95, 8)(encoded).jpeg) - (0xF0, 0x80, 0x20)).mean() <= 3, ending


def test_transparency_is_laid_on_white_by_the_formula_of_img2dataset():
    alpha, colour = (level.astype(np.uint8) for level in np.mgrid[:256, :256])
    wanted = np.rint((alpha / 255 * colour + 255 - alpha).clip(0, 255)).astype(np.uint8)
    found = on_white(np.dstack([colour, colour, colour, alpha]))
    assert np.array_equal(found, np.dstack([wanted] * 3))


# what is refused


def png_header(side: int) -> bytes:
    data = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [(b"<html>", "not an image"), (b"", "not an image"), (png_header(int(MAX_PIXELS**0.5) + 9), "too many pixels"),
     (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"), (b"%PDF-1.7\n", "not an image"),
     (saved(Image.new("RGB", (32, 32)), "ICO"), "not an image"),
     (saved(Image.new("RGB", (9, 9)), "EPS"), "not an image"),
     (saved(Image.new("RGB", (40, 10)), "PNG"), "image too small")],
)  # fmt: skip
def test_what_is_no_picture_has_a_reason(encoded, reason):
    with pytest.raises(UndecodableImage, match=reason):
        Resizer(64, 95, 11)(encoded)


@pytest.mark.slow
@pytest.mark.parametrize("decode", MARGIN)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_what_was_cut_off_is_not_decodable(form, decode):
    whole = saved(picture_of_noise(), form)
    for share in (0.3, 0.6, 0.95):
        for strict in (True, False):
            with pytest.raises(UndecodableImage, match=r"^not decodable$|^not an image$"):
                Resizer(64, 95, 8, decode, strict)(whole[: int(len(whole) * share)])


def picture_of_noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 255, (200, 200, 3), np.uint8))


@pytest.mark.parametrize("decode", MARGIN)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_with_damaged_scans_is_corrupt(decode, options):
    encoded = bytearray(saved(picture_of_noise(), "JPEG", **options))
    rng, scan = random.Random(1), encoded.index(b"\xff\xda") + 20
    for at in rng.sample(range(scan, len(encoded) - 2), 200):
        encoded[at] = rng.randrange(0xF0)
    with pytest.raises(UndecodableImage, match=r"^corrupt$"):
        Resizer(64, 95, 8, decode)(bytes(encoded))


def test_a_cmyk_jpeg_with_damaged_scans_is_corrupt():
    encoded = bytearray(saved(picture_of_noise().convert("CMYK"), "JPEG"))
    for at in range(len(encoded) // 2, len(encoded) - 2, 37):
        encoded[at] = 0x5A
    with pytest.raises(UndecodableImage, match=r"^corrupt$"):
        Resizer(64, 95, 8)(bytes(encoded))


def test_bytes_between_the_segments_are_refused_unless_told_otherwise():
    encoded = saved(smooth(200, 150), "JPEG")
    at = encoded.index(b"\xff\xdb")
    odd = encoded[:at] + b"\0\0" + encoded[at:]
    with pytest.raises(UndecodableImage, match=r"^corrupt$"):
        Resizer(64, 95, 8)(odd)
    assert Resizer(64, 95, 8, "exact", strict=False)(odd) == Resizer(64, 95, 8, "exact")(encoded)


def lying_png() -> bytes:
    """A chunk before the end says that it holds 3 GB; a decoder that believes it asks for them."""
    data = saved(Image.new("LA", (64, 64)), "PNG")
    return data[:-12] + struct.pack(">I4s", 3 << 30, b"tEXt") + data[-12:]


def many_scans() -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = saved(smooth(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (MAX_SCANS + 1) + data[-2:]


@pytest.mark.parametrize(
    ("bomb", "reason"), [(lying_png(), "not decodable"), (many_scans(), "too many scans"),
                         (png_header(60_000), "too many pixels")]
)  # fmt: skip
def test_a_bomb_costs_no_memory(bomb, reason):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UndecodableImage, match=reason):
        Resizer(64, 95, 8)(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


@pytest.mark.slow
def test_what_decodes_dearly_may_have_fewer_pixels():
    side = int((MAX_PIXELS * 0.7) ** 0.5)
    plain = Image.new("1", (side, side))
    assert Resizer(64, 95, 8)(saved(plain, "PNG")).original_width == side
    with pytest.raises(UndecodableImage, match="too many pixels"):
        Resizer(64, 95, 8)(saved(plain, "PNG", transparency=0))


def test_warnings_of_libraries_in_c_stay_out_of_the_log(capfd):
    encoded = saved(smooth(64, 64), "PNG", icc_profile=b"no profile at all" * 20)
    Resizer(64, 95, 8)(encoded)
    with quiet():
        os.write(2, b"lost")
        with quiet():
            os.write(2, b"lost too")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_way_of_decoding_that_does_not_exist_is_refused():
    with pytest.raises(CurateError, match=r"decode=quick: choose from exact, balanced, fast"):
        Resizer(64, 95, 8, "quick")


# images that need not be made smaller


def test_a_small_sound_jpeg_may_be_kept_byte_for_byte():
    resizer = Resizer(128, 95, 8)
    fitting = saved(smooth(200, 128), "JPEG", quality=60)
    kept = resizer.kept(fitting)
    assert resizer.fits(fitting)
    assert kept.jpeg == fitting
    assert kept.about == resizer(fitting).about


def test_what_does_not_fit_is_made_to_fit():
    resizer, exif = Resizer(128, 95, 8), Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    small = smooth(150, 100)
    for encoded in (saved(smooth(200, 129), "JPEG"), saved(small, "PNG"), saved(small, "JPEG", exif=exif),
                    saved(small, "JPEG", progressive=True), saved(small.convert("CMYK"), "JPEG"),
                    saved(small, "JPEG") + b"an appended film"):  # fmt: skip
        assert not resizer.fits(encoded)
        assert resizer.kept(encoded) == resizer(encoded)
    damaged = bytearray(saved(picture_of_noise().crop((0, 0, 100, 100)), "JPEG"))
    damaged[len(damaged) // 2 : -2] = bytes(len(damaged) - 2 - len(damaged) // 2)
    assert resizer.fits(bytes(damaged))
    with pytest.raises(UndecodableImage, match="corrupt"):
        resizer.kept(bytes(damaged))


@pytest.mark.slow
@pytest.mark.parametrize("downloader", DOWNLOADERS)
def test_harvest_decodes_as_it_is_told_and_notes_it(tmp_path, downloader):
    with serving() as web:
        pairs = [web.pair(index) for index in range(6)]
        pool = str(tmp_path / "pool.parquet")
        pq.write_table(pa.table({"url": [url for url, _ in pairs], "caption": [text for _, text in pairs]}), pool)
        (tmp_path / "queries.txt").write_text("\n".join(COLOURS))

        def shard(decode):
            dataset = Dataset.create(str(tmp_path / decode))
            options = {"decode": decode, "downloader": f"{downloader}(image_size=33)", "allow_private": True}
            dataset = run(dataset, [pool], str(tmp_path / "queries.txt"), engine="local(workers=1)", **options)
            assert dataset.folder.made_by("shards/00000.parquet")["decode"] == decode
            with dataset.shards[0].images() as images:
                return dict(images)

        found = {decode: shard(decode) for decode in MARGIN}
    assert sorted(found["exact"]) == sorted(found["fast"])
    assert len(found["exact"]) == 6
    assert found["exact"] != found["balanced"]


# what a header says


def described(seed: int) -> bytes:
    """A small JPEG or WebP, some with EXIF, XMP, a colour profile or a remark, some with bytes changed there."""
    rng = random.Random(seed)
    image = smooth(rng.randrange(1, 60), rng.randrange(1, 60), seed)
    form = rng.choice(["JPEG", "JPEG", "WEBP"])
    options: dict = {"icc_profile": b"profile" * 9} if rng.random() < 0.2 else {}
    if rng.random() < 0.3:
        options["exif"] = Image.Exif()
        options["exif"][EXIF_ORIENTATION] = rng.randrange(1, 9)
    if form == "JPEG":
        image = image.convert(rng.choice(["RGB", "RGB", "L", "CMYK"]))
        options |= {"progressive": rng.random() < 0.2, "restart_marker_blocks": rng.randrange(2)}
        options |= {"comment": b"a remark"} if rng.random() < 0.2 else {}
    data = bytearray(saved(image, form, **options))
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(min(len(data), 700))] = rng.randrange(256)
    return bytes(data)


def turn_of(image: Image.Image) -> int:
    """By EXIF; damaged, it turns nothing."""
    try:
        turn = image.getexif().get(EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return turn if turn in range(1, 9) else 1


@pytest.mark.filterwarnings("ignore")  # of Pillow, about damaged EXIF
def test_a_header_says_what_pillow_reads_in_it():
    """Most are read without Pillow, which takes ten times as long."""
    read = 0
    for seed in range(600):
        encoded = described(seed)
        try:
            image = Image.open(io.BytesIO(encoded))
        except (OSError, SyntaxError):  # what Pillow refuses at the header is refused at the latest by the decoder
            with pytest.raises(UndecodableImage):
                Resizer(64, 95, 1)(encoded)
            continue
        if image.width * image.height > MAX_PIXELS // 2:
            continue
        found = peek(encoded)
        read += 1
        assert (found.format, found.width, found.height) == (str(image.format).lower(), *image.size)
        assert found.turn == turn_of(image)
        assert (found.animated, found.alpha) == (False, False)
        assert found.baseline == (image.format == "JPEG" and image.mode != "CMYK" and "progressive" not in image.info)
    assert read > 400
