"""The thread that drives libcurl for all urls of a shard: who is asked next, again, later or never."""

import contextlib
import heapq
import itertools
import math
import queue
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pycurl

from curate.harvest.fetch import robots
from curate.harvest.fetch.names import LOOKUPS, Found, Names
from curate.harvest.fetch.servers import Job, Server, Servers
from curate.harvest.fetch.transfer import Room, Transfer
from curate.harvest.fetch.urls import FetchError, parsed, redirected

if TYPE_CHECKING:
    from curate.harvest.fetch.fetcher import Fetcher

REDIRECTS = 5
WAITING = 8 << 20  # bytes fetched and not yet taken, of all urls
IDLE = 16  # connections that wait to be used again; one of TLS holds 0.13 MB
FIRST = 16  # urls asked for at once at first, and one more for each that has ended: a near server answers all at once
TYPICAL = 200_000  # bytes of an image, until some have come
BACKOFF = 1.0  # seconds before the first retry, about; before each further one twice as many
DIALLED = 4  # addresses of a name, at most
BUSY = ("http 429", "http 503")
# a server that was never reached says nothing of its robots.txt: its urls fail for the same reason
UNREACHED = {"dns", "blocked address", "connection refused", "connection", "tls"}
Result = bytes | FetchError


class Fetches:
    """(url, its body or why there is none) of each distinct url, as they come: to be iterated over in a `with` block.

    A thread of its own fetches while the caller decodes. What goes wrong in it is raised by the iteration.
    """

    def __init__(self, how: "Fetcher", urls: list[str]):
        self._how, self._urls = how, urls
        self._left = self._untold = len(urls)
        self._done: queue.SimpleQueue[tuple[str, Result] | None] = queue.SimpleQueue()
        self._taken: deque[int] = deque()  # sizes of the bodies that the caller has taken
        self._stopped = self._full = False
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._room = Room(WAITING)
        self._servers = Servers(how.per_host)
        self._names = Names(how.timeout, self._ring)
        self._known: dict[str, list[str] | FetchError] = {}  # host -> where it may be dialled
        self._wanting: dict[str, list[Server]] = {}  # host -> who waits for it
        self._free: list[Transfer] = []
        self._active: dict[pycurl.Curl, tuple[Transfer, Job, Server]] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._typical = float(TYPICAL)
        self._checked = time.monotonic()  # the speed of all transfers
        self._selector = selectors.DefaultSelector()
        self._watched: set[int] = set()

    def __enter__(self) -> "Fetches":
        self._thread = ThreadPoolExecutor(1, "curate-fetch")
        self._fate = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._ring()
        self._thread.shutdown()

    def __iter__(self) -> "Fetches":
        return self

    def __next__(self) -> tuple[str, Result]:
        if not self._untold:
            raise StopIteration
        self._untold -= 1
        found = self._done.get()
        if found is None:
            self._fate.result()
            raise RuntimeError("the fetching was stopped")
        if isinstance(found[1], bytes):
            self._taken.append(len(found[1]))
            if self._full:
                self._ring()
        return found

    def _run(self) -> None:
        multi = pycurl.CurlMulti()
        try:
            multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
            self._selector.register(self._ear, selectors.EVENT_READ)
            self._queue_all()
            while self._left and not self._stopped:
                self._look_up()
                self._start(multi)
                multi.setopt(pycurl.M_MAXCONNECTS, len(self._active) + IDLE)
                if not (self._active or self._later or len(self._names) or len(self._servers) or not self._left):
                    raise RuntimeError(f"{self._left} urls wait for nothing")
                self._wait(multi)
                self._collect(multi)
        finally:
            self._done.put(None)  # whoever still waits is not left alone
            self._close(multi)

    def _ring(self) -> None:
        """Wake the thread."""
        with contextlib.suppress(OSError):  # awake already, or gone
            self._bell.send(b"\0")

    def _queue_all(self) -> None:
        for text in self._urls:
            try:
                self._servers.add(Job(text, parsed(text)))
            except FetchError as error:
                self._tell(text, error)
        for server in self._servers:
            self._servers.list(server)

    def _tell(self, text: str, result: Result) -> None:
        self._left -= 1
        self._done.put((text, result))

    # names

    def _look_up(self) -> None:
        """Ask for the names of the servers that come next, and hear what was found."""
        while len(self._names) < LOOKUPS and self._servers.ahead < self._how.threads:
            server = self._servers.unknown()
            if server is None:
                break
            wanting = self._wanting.setdefault(server.host, [])
            wanting.append(server)
            if server.host in self._known:
                self._introduce(server.host, self._known[server.host])
            elif len(wanting) == 1:
                self._names.ask(server.host)
        for host, found in self._names.answers():
            self._found(host, found)

    def _found(self, host: str, found: Found) -> None:
        """Keep the addresses that may be dialled; look once more where a name server had a bad moment."""
        if isinstance(found, FetchError):
            first = self._wanting[host][0]
            if found.transient and first.lookups < self._how.retries:
                first.lookups += 1
                self._at(_backoff(host, first.lookups), lambda: self._names.ask(host))
            else:
                self._introduce(host, found)
            return
        allowed = [address for address in found if self._how.may_dial(address)]
        self._introduce(host, allowed[:DIALLED] or FetchError("blocked address"))

    def _introduce(self, host: str, found: list[str] | FetchError) -> None:
        self._known[host] = found
        for server in self._wanting.pop(host):
            if isinstance(found, FetchError):
                server.failure = found
            else:
                server.addresses = found
            server.listed = False
            self._servers.list(server)

    # transfers

    def _start(self, multi: pycurl.CurlMulti) -> None:
        """Begin as many transfers as may be."""
        self._full = self._room.stops
        while len(self._active) < min(self._how.threads, FIRST + len(self._urls) - self._left):
            # what is under way is reckoned as a quarter of an image of the usual size, for most has yet to come; what
            # waits to be taken four times: a few images keep the caller busy, and all under way may come at once
            busy = self._active or self._room.finished
            if busy and 4 * self._room.finished + len(self._active) * self._typical / 4 > WAITING:
                self._full = True
                return
            server = self._servers.ready()
            if server is None:
                return
            self._next(multi, server)
            self._servers.list(server)

    def _next(self, multi: pycurl.CurlMulti, server: Server) -> None:
        """Begin the first url of a server, or its robots.txt, or say why it is not asked for."""
        if server.failure:
            while server.waiting:
                self._end(server.waiting.popleft(), server.failure)
            return
        job = server.waiting[0]
        if self._how.robots_txt and not server.asked and job.of is None:
            server.asked = True
            self._servers.add(Job("", job.url._replace(path="/robots.txt"), of=server))
            return
        server.waiting.popleft()
        now = time.monotonic()
        job.end = min(job.end, now + self._how.deadline)
        if job.of is None and server.rules and not server.rules(str(job.url)):
            self._end(job, FetchError("opted out: robots.txt"))
        elif job.end <= now:
            self._end(job, FetchError("deadline"))
        else:
            self._begin(multi, job, server)

    def _begin(self, multi: pycurl.CurlMulti, job: Job, server: Server) -> None:
        how = self._how
        transfer = self._free.pop() if self._free else Transfer(
            how.timeout, how.user_agent, how.may_dial, self._room)  # fmt: skip
        image = job.of is None
        transfer.begin(job.url, server.addresses, job.end, how.max_bytes if image else robots.LARGEST, image)
        server.busy += 1
        self._active[transfer.handle] = (transfer, job, server)
        multi.add_handle(transfer.handle)

    def _collect(self, multi: pycurl.CurlMulti) -> None:
        """Take the transfers that ended, and end those that are too slow."""
        more = 1
        while more:
            more, good, bad = multi.info_read()
            for handle, code in [(handle, pycurl.E_OK) for handle in good] + [(end[0], end[1]) for end in bad]:
                self._remove(multi, handle, code)
        now = time.monotonic()
        if now >= self._checked + min(1.0, self._how.timeout / 4):
            self._checked = now
            for handle in [handle for handle, (transfer, _, _) in self._active.items() if transfer.is_slow(now)]:
                self._remove(multi, handle, pycurl.E_OPERATION_TIMEDOUT)

    def _remove(self, multi: pycurl.CurlMulti, handle: pycurl.Curl, code: int) -> None:
        multi.remove_handle(handle)
        transfer, job, server = self._active.pop(handle)
        server.busy -= 1
        self._ended(transfer, code, job, server)
        transfer.clear()
        self._free.append(transfer)
        self._servers.list(server)

    def _ended(self, transfer: Transfer, code: int, job: Job, server: Server) -> None:
        size = transfer.size
        try:
            result = transfer.result(code)
        except FetchError as error:
            self._room.end(transfer, size, kept=False)
            server.heard(bool(transfer.lines), error)
            self._failed(job, server, error, transfer.retry_after if error.reason in BUSY else 0.0)
            return
        body = isinstance(result, bytes)
        self._room.end(transfer, size, kept=body and job.of is None)
        self._typical += (size - self._typical) / 32
        server.heard(True, None)
        if isinstance(result, bytes):
            self._end(job, result)
        else:
            self._redirect(job, result)

    def _redirect(self, job: Job, location: str) -> None:
        job.hops += 1
        try:
            if job.hops > REDIRECTS:
                raise FetchError("too many redirects")
            job.url = redirected(job.url, location)
        except FetchError as error:
            self._end(job, error)
            return
        self._servers.list(self._servers.add(job))

    def _failed(self, job: Job, server: Server, error: FetchError, wanted: float) -> None:
        """Try again later what may pass, not before the `wanted` seconds in which the server is left alone."""
        if wanted:
            self._leave_alone(server, wanted, error)
        wait = max(wanted, _backoff(job.text, job.tries + 1))
        again = error.transient and job.tries < self._how.retries and not server.failure
        if again and time.monotonic() + wait < job.end:
            job.tries += 1
            self._at(wait, lambda: self._servers.list(self._servers.add(job)))
        else:
            self._end(job, error)

    def _leave_alone(self, server: Server, seconds: float, error: FetchError) -> None:
        if seconds > self._how.deadline:
            server.failure = FetchError(error.reason)  # no url here may wait for so long
            return
        server.resume = max(server.resume, time.monotonic() + seconds)
        self._at(seconds + 0.001, lambda: self._servers.list(server))

    def _end(self, job: Job, result: Result) -> None:
        if job.of is None:
            self._tell(job.text, result)
            return
        server = job.of
        if isinstance(result, bytes):
            server.rules = robots.rules(result)
        elif result.reason in UNREACHED:
            server.failure = server.failure or result
        else:
            server.rules = robots.nothing if _unreadable(result) else robots.everything
        self._servers.list(server)

    # waiting

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._count), action))

    def _wait(self, multi: pycurl.CurlMulti) -> None:
        """Sleep until a socket, a timer or the caller wants something, and let libcurl work."""
        now = time.monotonic()
        wanted = multi.timeout()  # milliseconds, -1: never; its callback says nothing where a timer comes too early
        due = min(now + (wanted / 1000 if wanted >= 0 else 1.0), now + (0.2 if self._names else 1.0),
                  self._later[0][0] if self._later else math.inf, now + self._how.timeout / 4)  # fmt: skip
        for key, events in self._selector.select(0 if self._taken else max(0.0, due - now)):
            if key.fileobj is self._ear:
                self._ear.recv(4096)
            else:
                multi.socket_action(key.fd, events)  # the bits of both are the same
        if 0 <= wanted <= (time.monotonic() - now) * 1000:
            multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        while self._taken:
            self._room.taken(self._taken.popleft())
        self._room.go_on()
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()

    def _watch(self, what: int, socket_number: int, *_: object) -> None:
        """libcurl's wish which sockets to wait for."""
        if what == pycurl.POLL_REMOVE:
            if socket_number in self._watched:
                self._watched.discard(socket_number)
                self._selector.unregister(socket_number)
        elif socket_number in self._watched:
            self._selector.modify(socket_number, what)
        else:
            self._watched.add(socket_number)
            self._selector.register(socket_number, what)

    def _close(self, multi: pycurl.CurlMulti) -> None:
        self._names.close()
        for transfer in [*self._free, *(transfer for transfer, _, _ in self._active.values())]:
            if transfer.handle in self._active:
                multi.remove_handle(transfer.handle)
            transfer.handle.close()
        multi.close()
        self._selector.close()
        self._bell.close()
        self._ear.close()


def _backoff(name: str, time_over: int) -> float:
    """Seconds to wait, another number for each name, so that not all come again at once."""
    return BACKOFF * 2 ** (time_over - 1) * random.Random(f"{name} {time_over}").uniform(0.5, 1.5)


def _unreadable(error: FetchError) -> bool:
    """Whether there may be a robots.txt all the same (RFC 9309: then nothing is allowed): not where 4xx says no."""
    gone = ("http 2", "http 3", "http 4", "empty", "too many redirects", "not http", "bad url")
    return not error.reason.startswith(gone)
