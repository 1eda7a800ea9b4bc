"""Look names up beside the fetching: a name server that does not answer holds up nobody else."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

from curate.harvest.fetch.urls import FetchError

LOOKUPS = 48  # at a time; libcurl's own 20 threads were held up by as many dead names
Found = list[str] | FetchError


class Names:
    """`told` is called from another thread whenever there is an answer; one is late after `seconds`."""

    def __init__(self, seconds: float, told: Callable[[], None]):
        self._seconds, self._told = seconds, told
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[tuple[str, Found]] = queue.SimpleQueue()
        self._begun: dict[str, float] = {}
        self._open: set[str] = set()
        self._threads = 0

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, host: str) -> None:
        """Look up a name."""
        self._open.add(host)
        if self._threads < min(LOOKUPS, len(self._open)):
            self._threads += 1
            # not of the kind that Python waits for at its end: a look-up cannot be broken off
            threading.Thread(target=self._work, name="curate-names", daemon=True).start()
        self._asked.put(host)

    def answers(self) -> Iterator[tuple[str, Found]]:
        """What has come, and what is late."""
        while not self._found.empty():
            host, found = self._found.get()
            if host in self._open:
                self._open.discard(host)
                yield host, found
        late = time.monotonic() - self._seconds
        for host in [host for host, begun in list(self._begun.items()) if begun < late and host in self._open]:
            self._open.discard(host)
            yield host, FetchError("dns", transient=True)

    def close(self) -> None:
        for _ in range(self._threads):
            self._asked.put(None)

    def _work(self) -> None:
        while (host := self._asked.get()) is not None:
            self._begun[host] = time.monotonic()
            self._found.put((host, addresses(host)))
            self._begun.pop(host, None)
            self._told()


def addresses(host: str) -> Found:
    """The IP addresses of a name, or why there are none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return FetchError("dns", transient=error.errno == socket.EAI_AGAIN)
    except (OSError, UnicodeError):
        return FetchError("dns")
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
