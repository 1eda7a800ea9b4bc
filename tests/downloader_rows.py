"""One row for each thing that the web puts behind an image url, and what a downloader must make of it."""

import gzip
import io
import struct
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
SIDE = 60_000
NO_IMAGE = "not an image|unsupported.*"
NOT_WHOLE = "corrupt|not decodable"
BOMB = "too many pixels"


@dataclass(frozen=True)
class Row:
    """An answer of the server, and its outcome: the `reason` it fails for (a pattern), or else what is stored."""

    body: bytes
    reason: str | None = None
    pixels: np.ndarray | None = None  # RGB uint8 [height, width, 3]
    format: str | None = None
    animated: bool = False
    alpha: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=())
    status: int = 200


def plain() -> np.ndarray:
    """RGB [48, 64, 3], smooth, with no side like another, so that a turned one is told."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 4, y * 5, np.full_like(x, 90)], 2).astype(np.uint8)


PLAIN = plain()
OTHER = PLAIN[::-1, ::-1].copy()


def saved(kind: str, pixels: np.ndarray | Image.Image = PLAIN, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}) | options)
    return buffer.getvalue()


def rows() -> dict[str, Row]:
    """All of them by name."""
    return {
        **_formats(),
        **_channels(),
        **_turned(),
        **_animated(),
        **_damaged(),
        **_bombs(),
        **_no_images(),
        **_encodings(),
    }


def _formats() -> dict[str, Row]:
    def row(kind: str, form: str, **options) -> Row:
        return Row(saved(kind, **options), pixels=PLAIN, format=form)

    return {
        "jpeg": row("JPEG", "jpeg"),
        "jpeg progressive": row("JPEG", "jpeg", progressive=True),
        "jpeg 4:4:4": row("JPEG", "jpeg", subsampling=0),
        "jpeg with bytes behind its end": Row(saved("JPEG") + b"\0" * 99, pixels=PLAIN, format="jpeg"),
        "jpeg with a thumbnail": Row(_with_exif(_thumbnail()), pixels=PLAIN, format="jpeg"),
        "jpeg with damaged exif": Row(_with_exif(b"II of no kind"), pixels=PLAIN, format="jpeg"),
        "png": row("PNG", "png"),
        "webp": row("WEBP", "webp"),
        "webp lossless": row("WEBP", "webp", lossless=True),
        "gif": Row(saved("GIF"), pixels=np.asarray(Image.open(io.BytesIO(saved("GIF"))).convert("RGB")), format="gif"),
        "bmp": row("BMP", "bmp"),
        "tiff": row("TIFF", "tiff"),
        "tiff lzw": row("TIFF", "tiff", compression="tiff_lzw"),
        "jp2": row("JPEG2000", "jpeg2000"),
        "avif": row("AVIF", "avif"),
    }


def _thumbnail() -> bytes:
    """EXIF that holds another JPEG, larger than the real one and before its frame header."""
    inner = saved("JPEG", np.zeros((200, 200, 3), np.uint8))
    return b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0" + inner


def _with_exif(content: bytes) -> bytes:
    exif, body = b"Exif\0\0" + content, saved("JPEG")
    return body[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + body[2:]


def _channels() -> dict[str, Row]:
    deep = np.full((HEIGHT, WIDTH, 3), (0x4000, 0x8000, 0xC000), np.uint16)  # BGR for OpenCV
    glass = np.dstack([deep, np.full((HEIGHT, WIDTH), 0x8000, np.uint16)])
    clear = np.dstack([PLAIN, np.zeros((HEIGHT, WIDTH), np.uint8)])
    clear[:, WIDTH // 2 :, 3] = 255
    on_white = PLAIN.copy()
    on_white[:, : WIDTH // 2] = 255
    grey = PLAIN[:, :, 0]
    hole = Image.fromarray(np.where(np.arange(WIDTH) < 32, 0, 1).astype(np.uint8)[None].repeat(HEIGHT, 0), "P")
    hole.putpalette([255, 0, 0, 0, 0, 255])
    blue_on_white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    blue_on_white[:, 32:] = (0, 0, 255)
    cmyk = Image.fromarray(PLAIN).convert("CMYK")
    return {
        "png of 16 bits": Row(_png(deep), pixels=_flat(0xC0, 0x80, 0x40), format="png"),
        "png of 16 bits, grey": Row(_png(deep[:, :, 0]), pixels=_flat(0x40, 0x40, 0x40), format="png"),
        "png of 16 bits, half clear": Row(_png(glass), pixels=_flat(223, 191, 159), format="png", alpha=True),
        "png of 8 bits, grey": Row(saved("PNG", grey), pixels=np.dstack([grey] * 3), format="png"),
        "png of 1 bit": Row(
            saved("PNG", Image.new("1", (WIDTH, HEIGHT), 1)), pixels=_flat(255, 255, 255), format="png"
        ),
        "jpeg, grey": Row(saved("JPEG", grey), pixels=np.dstack([grey] * 3), format="jpeg"),
        "jpeg cmyk": Row(saved("JPEG", cmyk), pixels=PLAIN, format="jpeg"),
        "tiff cmyk": Row(saved("TIFF", cmyk), pixels=PLAIN, format="tiff"),
        "png with alpha": Row(saved("PNG", clear), pixels=on_white, format="png", alpha=True),
        "webp with alpha": Row(saved("WEBP", clear, lossless=True), pixels=on_white, format="webp", alpha=True),
        "gif with a hole": Row(saved("GIF", hole, transparency=0), pixels=blue_on_white, format="gif", alpha=True),
        "png palette with a hole": Row(
            saved("PNG", hole, transparency=0), pixels=blue_on_white, format="png", alpha=True
        ),
        "grey png with alpha": Row(
            saved("PNG", Image.fromarray(clear).convert("LA")),
            pixels=np.asarray(Image.fromarray(on_white).convert("L").convert("RGB")),
            format="png",
            alpha=True,
        ),
    }


def _flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (red, green, blue), np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _turned() -> dict[str, Row]:
    # what a viewer shows for each EXIF orientation, from the pixels as stored
    shown = {
        1: PLAIN, 2: PLAIN[:, ::-1], 3: PLAIN[::-1, ::-1], 4: PLAIN[::-1], 5: PLAIN.transpose(1, 0, 2),
        6: np.rot90(PLAIN, -1), 7: PLAIN[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PLAIN),
    }  # fmt: skip
    found = {}
    for orientation, pixels in shown.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("JPEG", *(("PNG", "WEBP") if orientation == 6 else ())):
            found[f"{kind.lower()} turned by {orientation}"] = Row(
                saved(kind, exif=exif), pixels=pixels, format=kind.lower()
            )
    return found


def _animated() -> dict[str, Row]:
    more = {"save_all": True, "append_images": [Image.fromarray(OTHER)], "duration": 100}
    first = np.asarray(Image.open(io.BytesIO(saved("GIF"))).convert("RGB"))
    return {
        "gif of two frames": Row(saved("GIF", **more), pixels=first, format="gif", animated=True),
        "webp of two frames": Row(saved("WEBP", **more), pixels=PLAIN, format="webp", animated=True),
        "png of two frames": Row(saved("PNG", **more), pixels=PLAIN, format="png", animated=True),
        "avif of two frames": Row(saved("AVIF", **more), pixels=PLAIN, format="avif", animated=True),
    }


def _damaged() -> dict[str, Row]:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    whole = {
        "jpeg": saved("JPEG", noise),
        "jpeg progressive": saved("JPEG", noise, progressive=True),
        "png": saved("PNG", noise),
        "webp": saved("WEBP", noise),
        "gif": saved("GIF", noise),
        "avif": saved("AVIF", noise),
    }
    found = {}
    for name, body in whole.items():
        for percent in (50, 5):
            found[f"{name} cut at {percent} %"] = Row(body[: len(body) * percent // 100], f"{NOT_WHOLE}|{NO_IMAGE}")
    for seed in range(3):
        found[f"jpeg with a damaged scan {seed}"] = Row(_scarred(whole["jpeg"], seed), "corrupt")
    png = bytearray(whole["png"])
    png[len(png) // 2] ^= 255
    found["png with a changed byte"] = Row(bytes(png), NOT_WHOLE)
    return found


def _scarred(body: bytes, seed: int) -> bytes:
    """The entropy-coded bytes of a JPEG overwritten in the middle: its headers are whole."""
    at = body.index(b"\xff\xda") + 200 + seed * 1000
    noise = np.random.default_rng(seed).integers(0, 255, 300).astype(np.uint8).tobytes()
    return body[:at] + noise + body[at + 300 :]


def _bombs() -> dict[str, Row]:
    huge = {
        "jpeg": _patched(saved("JPEG"), ">HH", (HEIGHT, WIDTH), (SIDE, SIDE)),
        "jpeg progressive": _patched(saved("JPEG", progressive=True), ">HH", (HEIGHT, WIDTH), (SIDE, SIDE)),
        "png": _png_header(SIDE, SIDE),
        "gif": _patched(saved("GIF"), "<HH", (WIDTH, HEIGHT), (SIDE, SIDE)),
        "webp": _patched(saved("WEBP"), "<HH", (WIDTH, HEIGHT), (16383, 16383)),
        "bmp": _patched(saved("BMP"), "<ii", (WIDTH, HEIGHT), (SIDE, SIDE)),
        "tiff": _tiff_header(saved("TIFF")),
        "jp2": _patched(
            _patched(saved("JPEG2000"), ">II", (HEIGHT, WIDTH), (SIDE, SIDE)), ">II", (WIDTH, HEIGHT), (SIDE, SIDE)
        ),
        "avif": _patched(saved("AVIF"), ">II", (WIDTH, HEIGHT), (SIDE, SIDE)),
    }
    found = {f"{name} of 60000 x 60000 by its header": Row(body, BOMB) for name, body in huge.items()}
    found["avif of 60000 x 60000 by its header"] = Row(huge["avif"], f"{BOMB}|{NOT_WHOLE}|{NO_IMAGE}")
    found["png that really holds 144 million pixels"] = Row(_zeros(12_000), BOMB)
    # the frame is larger than what the first header says
    gif = saved("GIF")
    at = gif.index(struct.pack("<HH", WIDTH, HEIGHT), 20)
    frame = gif[:at] + struct.pack("<HH", 60_000, 60_000) + gif[at + 4 :]
    found["gif whose frame is larger than its screen"] = Row(frame, f"{BOMB}|{NOT_WHOLE}|{NO_IMAGE}")
    return found


def _patched(body: bytes, form: str, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    before = struct.pack(form, *old)
    assert before in body
    return body.replace(before, struct.pack(form, *new))


def _png_header(width: int, height: int) -> bytes:
    data = bytearray(saved("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _zeros(side: int) -> bytes:
    """A grey PNG of side x side pixels that can be decoded, 140 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, line = zlib.compressobj(1), b"\0" * (side + 1)
    data = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _tiff_header(body: bytes) -> bytes:
    """Width and height of a little-endian TIFF, tags 256 and 257, replaced."""
    data, at = bytearray(body), struct.unpack_from("<I", body, 4)[0]
    for number in range(struct.unpack_from("<H", body, at)[0]):
        entry = at + 2 + 12 * number
        if struct.unpack_from("<H", body, entry)[0] in (256, 257):
            data[entry + 8 : entry + 12] = struct.pack("<I", SIDE)
    return bytes(data)


def _no_images() -> dict[str, Row]:
    icon = saved("ICO", Image.fromarray(PLAIN).resize((48, 48)))
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect/></svg>'
    return {
        "svg": Row(svg, NO_IMAGE, headers=(("Content-Type", "image/svg+xml"),)),
        "ico": Row(icon, f"{NO_IMAGE}|not decodable"),
        "pdf": Row(b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n", NO_IMAGE),
        "html with status 200": Row(b"<!doctype html><title>Not found</title>", NO_IMAGE),
        "json": Row(b'{"error": "gone"}', NO_IMAGE),
        "zeros": Row(b"\0" * 5000, NO_IMAGE),
        "only the first bytes of a jpeg": Row(b"\xff\xd8\xff", f"{NO_IMAGE}|{NOT_WHOLE}"),
        "empty": Row(b"", "empty"),
        "gif of one pixel": Row(saved("GIF", PLAIN[:1, :1]), "image too small"),
        "jpeg of 300 x 5": Row(saved("JPEG", np.zeros((5, 300, 3), np.uint8)), "image too small"),
    }


def _encodings() -> dict[str, Row]:
    body = saved("JPEG")
    raw = zlib.compressobj(wbits=-15)

    def row(encoding: str, data: bytes, reason: str | None = None) -> Row:
        return Row(data, reason, None if reason else PLAIN, None if reason else "jpeg",
                   headers=(("Content-Encoding", encoding),))  # fmt: skip

    return {
        "in gzip": row("gzip", gzip.compress(body)),
        "in deflate": row("deflate", zlib.compress(body)),
        "in raw deflate": row("deflate", raw.compress(body) + raw.flush()),
        "in identity": row("identity", body),
        "in gzip that is none": row("gzip", body, "bad content encoding"),
        "in gzip, cut": row("gzip", gzip.compress(body)[:-400], "bad content encoding|cut short|corrupt|not decodable"),
        "in gzip, a bomb": row("gzip", gzip.compress(b"\0" * (16 << 20)), "too many bytes"),
    }
