"""A small web on 127.0.0.1: drawn images, and every way in which a server can disappoint."""

import contextlib
import math
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from conftest import draw, encoded

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "triangle")


class Page(NamedTuple):
    """An answer that a test puts on the web."""

    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200


class Web:
    """`url` of the server, `hits` of each path; `delay` seconds before each answer; `turns`: how many more it gives.

    `pages`: what more it answers to a path with its query, one after the other where it is a list; `asked`: (time, path
    with query, headers) of each request; `now`, `most`: how many wait for an answer, and did at the same time; `sent`:
    bytes of answers that never end.
    """

    def __init__(self, url: str):
        self.url, self.hits, self.agents, self.delay = url, Counter(), set(), 0.0
        self.sent: Counter[str] = Counter()
        self.pages: dict[str, Page | list[Page]] = {}
        self.asked: list[tuple[float, str, dict[str, str]]] = []
        self.now, self.most, self.turns, self.turn = 0, 0, math.inf, threading.Condition()

    def let(self, answers: float) -> None:
        """Give so many answers from now on, and keep who asks for more waiting."""
        with self.turn:
            self.turns = answers
            self.turn.notify_all()

    def wait_for(self, requests: int) -> None:
        """Until so many wait for an answer."""
        with self.turn:
            self.turn.wait_for(lambda: self.now >= requests)

    def wait(self) -> None:
        """Until it is this request's turn."""
        with self.turn:
            self.now += 1
            self.most = max(self.most, self.now)
            self.turn.notify_all()
            self.turn.wait_for(lambda: self.turns > 0)
            self.turns -= 1
        time.sleep(self.delay)
        with self.turn:
            self.now -= 1

    def page(self, path: str) -> Page:
        with self.turn:
            found = self.pages[path]
            return found if isinstance(found, Page) else found.pop(0) if len(found) > 1 else found[0]

    def pair(self, index: int) -> tuple[str, str]:
        return f"{self.url}/{index}.jpg", f"a {COLOURS[index % 6]} {SHAPES[index % 3]} number {index}"


def picture(index: int, side: int = 80) -> bytes:
    return encoded(draw(COLOURS[index % 6], SHAPES[index % 3], index, side))


class Handler(BaseHTTPRequestHandler):
    web: Web

    def do_GET(self):
        self.web.asked.append((time.monotonic(), self.path, dict(self.headers)))
        self.web.wait()  # and then no longer: who has the last byte asks again before this thread goes on
        with contextlib.suppress(OSError):  # the other side hung up
            self._answer()

    def _answer(self):
        path, _, query = self.path.partition("?")
        self.web.hits[path] += 1
        self.web.agents.add(self.headers["User-Agent"])
        answer = getattr(self, path.strip("/").split(".")[0].replace("-", "_"), None)
        if self.path in self.web.pages:
            self._page(self.web.page(self.path))
        elif answer:
            answer(query)
        elif path.strip("/").split(".")[0].isdigit():
            self._send(picture(int(path.strip("/").split(".")[0])))
        else:
            self.send_error(404)

    def _page(self, page: Page) -> None:
        self.send_response(page.status)
        for name, value in (("Content-Length", str(len(page.body))), *page.headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page.body)

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def html(self, query):
        self._send(b"<html>not found, but 200</html>")

    def cut(self, query):
        self._send(picture(1, 300)[:2000])

    def short(self, query):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(picture(2))

    def drip(self, query):
        self.send_response(200)
        self.end_headers()
        self._drip(b"")

    def drip_header(self, query):
        self._drip(b"HTTP/1.0 200 OK\r\nX-Slow: ")

    def _drip(self, head: bytes):
        """A few bytes a second, until the other side hangs up."""
        self.wfile.write(head)
        while True:
            self.wfile.write(b"a")
            time.sleep(0.1)

    def hang(self, query):
        self.connection.recv(1)  # until the other side hangs up

    def slow_but_sure(self, query):
        body = picture(6)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(body), len(body) // 4):
            self.wfile.write(body[at : at + len(body) // 4])
            time.sleep(0.2)

    def endless(self, query):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"\0" * 65536)
            self.web.sent[self.path] += 65536

    def huge(self, query):
        self.send_response(200)
        self.send_header("Content-Length", str(5 << 30))
        self.end_headers()

    def to(self, query):
        self._send(b"", 302, Location=query)

    def loop(self, query):
        self._send(b"", 302, Location="/loop")

    def optout(self, query):
        self._send(picture(4), X_Robots_Tag=query.replace("_", " "))

    def flaky(self, query):
        if self.web.hits["/flaky.jpg"] == 1:
            self._send(b"", 503)
        else:
            self._send(picture(5))

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A web on a free port, https where `tls` is given; each call has its own counters."""
    handler = type("Bound", (Handler,), {})
    # as many may wait to be let in as a downloader has threads
    many = type("Many", (ThreadingHTTPServer,), {"request_queue_size": 256})
    with many(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        handler.web = Web(f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield handler.web
        finally:
            handler.web.let(math.inf)
            server.shutdown()


@contextlib.contextmanager
def nobody_at() -> Iterator[int]:
    """A port that nobody answers at: it is taken, so that no other process comes to listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
