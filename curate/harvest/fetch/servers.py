"""Which url may be asked for next: few at a time of one server, none while it pauses, the longest queue first."""

import heapq
import math
import time
from collections import deque
from collections.abc import Iterator

from curate.harvest.fetch.robots import Rules
from curate.harvest.fetch.urls import FetchError, Url

GIVE_UP = 16  # times in a row that a server did not answer or would not: it is not asked again in this shard


class Job:
    """One url on its way, through redirects, and again where that may help."""

    __slots__ = ("end", "hops", "of", "text", "tries", "url")

    def __init__(self, text: str, url: Url, of: "Server | None" = None):
        self.text, self.url = text, url  # as it was given; where it has been led
        self.of = of  # the server whose robots.txt this is
        self.hops = self.tries = 0
        self.end = math.inf  # the moment of its deadline, from when it is first asked for


class Server:
    """A scheme, host and port: its urls that wait, and how it has behaved."""

    def __init__(self, name: str, host: str):
        self.name, self.host = name, host
        self.waiting: deque[Job] = deque()
        self.busy = 0  # connections
        self.addresses: list[str] = []
        self.resume = 0.0  # the moment until which it wants to be left alone
        self.listed = self.asked = False  # in one of the lists; for its robots.txt
        self.lookups = self.silences = 0
        self.failure: FetchError | None = None  # why it is not asked again
        self.rules: Rules | None = None

    @property
    def open(self) -> bool:
        """Whether there is something to do: urls wait, and not for its robots.txt."""
        known = self.failure or self.rules is not None or not self.asked
        return bool(self.waiting and (known or self.waiting[0].of))

    def heard(self, answered: bool, error: FetchError | None) -> None:
        """Note how it answered. One that keeps silent, or says that it is too busy, is given up."""
        if error is None or (answered and error.reason not in ("http 429", "http 503")):
            self.silences = 0
            return
        self.silences += 1
        if self.silences >= GIVE_UP:
            self.failure = FetchError(error.reason)


class Servers:
    """All servers of a shard: unknown (their names are yet to be looked up), ready, or not to be asked now."""

    def __init__(self, limit: int):
        self.limit = limit  # connections to one server
        self._all: dict[str, Server] = {}
        self._unknown: list[tuple[int, str, Server]] = []
        self._ready: list[tuple[int, str, Server]] = []

    def __iter__(self) -> Iterator[Server]:
        return iter(self._all.values())

    def add(self, job: Job) -> Server:
        """Queue a url at its server."""
        name = job.url.server
        server = self._all.get(name)
        if server is None:
            server = self._all[name] = Server(name, job.url.host)
        if job.of or job.tries:
            server.waiting.appendleft(job)
        else:
            server.waiting.append(job)
        return server

    def list(self, server: Server) -> None:
        """Let a server be picked, if it may be: the one with most urls first, so that none is left over at the end."""
        known = server.addresses or server.failure
        if server.listed or not server.open or (not server.failure and not self._free(server)):
            return
        server.listed = True
        where = self._ready if known else self._unknown
        heapq.heappush(where, (-len(server.waiting), server.name, server))

    def unknown(self) -> Server | None:
        """The next one whose name is to be looked up."""
        return heapq.heappop(self._unknown)[2] if self._unknown else None

    def ready(self) -> Server | None:
        """The next one that may be asked; `list` it again."""
        if not self._ready:
            return None
        server = heapq.heappop(self._ready)[2]
        server.listed = False
        return server

    def _free(self, server: Server) -> bool:
        return server.busy < self.limit and server.resume <= time.monotonic()

    def __len__(self) -> int:
        """How many are listed."""
        return len(self._unknown) + len(self._ready)

    @property
    def ahead(self) -> int:
        """How many are ready."""
        return len(self._ready)
