"""The staged web: every picture drawn once into a file, and a small HTTP server on 127.0.0.1 that shows them."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import resvg_py
import xxhash
from PIL import Image

from curate.demo.emoji import drawings
from curate.demo.pool import Picture
from curate.errors import CurateError
from curate.work import Report

SIDE = 256
PASTELS = ("#fde2e4", "#e2ece9", "#dfe7fd", "#fff1e6", "#f0efeb", "#e8dff5", "#fcf6bd", "#d0f4de")
ERROR_PAGE = b"<!doctype html><html><body><h1>503</h1><p>This picture is not here right now.</p></body></html>"


@dataclass(frozen=True)
class Draw:
    """Write the files of some pictures, unless they are there already."""

    folder: str

    def __call__(self, pictures: tuple[Picture, ...]) -> Report:
        missing = [picture for picture in pictures if not Path(self.folder, picture.path).exists()]
        for picture in missing:
            # not Folder.write_bytes: it waits for the disk, thousands of times for files that can be drawn again
            final = Path(self.folder, picture.path)
            final.parent.mkdir(parents=True, exist_ok=True)
            final.with_suffix(".tmp").write_bytes(draw(picture))
            final.with_suffix(".tmp").replace(final)
        return Report(pictures[0].path, len(pictures), {"drawn": len(missing)})


def draw(picture: Picture) -> bytes:
    """The encoded file of one picture: PNG, JPEG or WebP by its form."""
    form = picture.form
    if form == "tiny":
        return _saved(raster(picture.code).resize((2, 2)), "PNG")
    if form == "truncated":
        whole = rendered(picture.code)
        return whole[: len(whole) // 2]
    if form == "pastel":
        ground = PASTELS[xxhash.xxh3_64_intdigest(picture.path.encode()) % len(PASTELS)]
        return _saved(raster(picture.code, ground), "WEBP", quality=80)
    if form == "jpeg":
        return _saved(raster(picture.code, side=192), "JPEG", quality=85)
    if form == "small":
        return _saved(raster(picture.code).resize((128, 128), Image.Resampling.LANCZOS), "PNG")
    if form == "crop":
        edge = SIDE // 20
        return _saved(raster(picture.code).crop((edge, edge, SIDE - edge, SIDE - edge)), "JPEG", quality=90)
    return rendered(picture.code)


def rendered(code: str, ground: str = "#ffffff", side: int = SIDE) -> bytes:
    """OpenMoji's drawing of `code` on a plain ground, PNG."""
    svg = str(drawings() / f"{code}.svg")
    return resvg_py.svg_to_bytes(svg_path=svg, width=side, height=side, background=ground, skip_system_fonts=True)


def raster(code: str, ground: str = "#ffffff", side: int = SIDE) -> Image.Image:
    return Image.open(io.BytesIO(rendered(code, ground, side))).convert("RGB")


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Handler(SimpleHTTPRequestHandler):
    """Files as they are; /moved/... sends on to /images/..., /broken/... is an error page that says it is fine."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/moved/"):
            self._answer(302, b"", Location=self.path.replace("/moved/", "/images/", 1))
        elif self.path.startswith("/broken/"):
            self._answer(200, ERROR_PAGE, **{"Content-Type": "text/html"})
        else:
            super().do_GET()

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Thousands of requests are not worth a line each."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """The web at http://127.0.0.1:port while the block runs. Raises CurateError where the port is taken."""
    try:
        server = Server(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise CurateError(f"port {port} of 127.0.0.1 is taken ({error.strerror}); choose another: --port") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
