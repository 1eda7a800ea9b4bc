"""One request by libcurl: every limit is libcurl's or checked as the bytes come, and every end has a name."""

import email.utils
import errno
import math
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import certifi
import pycurl

from curate.errors import CurateError
from curate.harvest.fetch import robots
from curate.harvest.fetch.urls import FetchError, Url

SLOW = 1000  # bytes a second; a transfer under it for `timeout` seconds is left (libcurl's own check may take twice)
READ = 1 << 16  # bytes that are asked of a socket at once; what a transfer that waits for room may hold beside
SKIPPED = 1 << 14  # bytes of an unwanted body that are read so that its connection can be used again
ENCODINGS = {"", "identity", "gzip", "x-gzip", "deflate", "br"}
CURVES = "X25519:P-256:P-384:P-521"  # the post-quantum default costs 0.2 ms and a larger greeting
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
BLANK = (b"\r\n", b"\n")
OURS = {pycurl.E_OUT_OF_MEMORY, pycurl.E_FAILED_INIT, pycurl.E_SSL_CACERT_BADFILE}
REASONS = {
    pycurl.E_URL_MALFORMAT: FetchError("bad url"),
    pycurl.E_COULDNT_RESOLVE_HOST: FetchError("dns", transient=True),
    pycurl.E_PARTIAL_FILE: FetchError("cut short", transient=True),
    pycurl.E_FILESIZE_EXCEEDED: FetchError("too many bytes"),
    pycurl.E_SSL_CONNECT_ERROR: FetchError("tls"),
    pycurl.E_PEER_FAILED_VERIFICATION: FetchError("tls"),
    pycurl.E_SSL_CIPHER: FetchError("tls"),
    pycurl.E_GOT_NOTHING: FetchError("connection", transient=True),
    pycurl.E_RECV_ERROR: FetchError("connection", transient=True),
    pycurl.E_SEND_ERROR: FetchError("connection", transient=True),
    pycurl.E_BAD_CONTENT_ENCODING: FetchError("bad content encoding"),
}  # all others: the server does not speak HTTP


class Room:
    """The bytes that are fetched and not yet taken. Over `limit` only one transfer goes on, and only if none waits."""

    def __init__(self, limit: int):
        self.limit, self.held, self.finished = limit, 0, 0
        self._stopped: deque[Transfer] = deque()
        self._chosen: Transfer | None = None

    def take(self, transfer: "Transfer", count: int) -> bool:
        """Whether a transfer may keep `count` more bytes; if not, it stops until `go_on`."""
        if self.held + count > self.limit and transfer is not self._chosen:
            if self._chosen or self.finished:
                self._stopped.append(transfer)
                return False
            self._chosen = transfer
        self.held += count
        return True

    def end(self, transfer: "Transfer", count: int, kept: bool) -> None:
        """A transfer ended with `count` bytes, which now wait to be taken, or were not kept."""
        self._chosen = None if self._chosen is transfer else self._chosen
        if transfer in self._stopped:
            self._stopped.remove(transfer)
        self.finished += count if kept else 0
        self.held -= 0 if kept else count

    def taken(self, count: int) -> None:
        """The caller has one of `count` bytes."""
        self.held -= count
        self.finished -= count

    def stopped(self, transfer: "Transfer") -> bool:
        """Whether a transfer waits for room."""
        return transfer in self._stopped

    @property
    def stops(self) -> bool:
        """Whether any transfer waits for room."""
        return bool(self._stopped)

    def go_on(self) -> None:
        """Let stopped transfers go on where there is room for what each has; else it would stop again at once, and
        libcurl have us ask without a pause."""
        for _ in range(len(self._stopped)):
            if self._stopped and (self.held + READ <= self.limit or not (self._chosen or self.finished)):
                self._stopped.popleft().handle.pause(pycurl.PAUSE_CONT)


class Head(NamedTuple):
    """Status and headers of an answer, their names in lower case."""

    status: int
    fields: list[tuple[str, str]]

    def get(self, name: str) -> str:
        return next((value for field, value in self.fields if field == name), "")


class Transfer:
    """A libcurl handle, used for one url after the other. `may_dial` is asked of each address that is dialled."""

    def __init__(self, timeout: float, user_agent: str, may_dial: Callable[[str], bool], room: Room):
        self.timeout, self.may_dial, self.room = timeout, may_dial, room
        self.lines: list[bytes] = []
        self.handle = handle = pycurl.Curl()
        for option, value in {
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.FOLLOWLOCATION: 0,  # each hop is a url of its own here: checked, counted at its server
            pycurl.PROXY: "",  # none from the environment: what a proxy dials nobody checks
            pycurl.NETRC: pycurl.NETRC_IGNORED,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.NOSIGNAL: 1,
            pycurl.CAINFO: authorities(),
            pycurl.SSL_EC_CURVES: CURVES,
            pycurl.CONNECTTIMEOUT_MS: math.ceil(timeout * 1000),
            pycurl.USERAGENT: user_agent,
            pycurl.BUFFERSIZE: READ,
            pycurl.HTTPHEADER: ["Accept: image/*,*/*"],
            pycurl.ACCEPT_ENCODING: "identity",  # asked for; what comes in another is inflated
            pycurl.OPENSOCKETFUNCTION: self._opened,
            pycurl.WRITEFUNCTION: self._write,
        }.items():
            handle.setopt(option, value)

    def begin(self, url: Url, addresses: list[str], end: float, max_bytes: int, whole: bool = True) -> None:
        """Ready for a multi handle. A body that is too long is an error, or cut where it need not be `whole`."""
        self.end, self.max_bytes, self.whole = end, max_bytes, whole
        self.blocks: list[bytes] = []
        self.size = 0  # of the body so far
        self.lines = []
        self.head: Head | None = None
        self.wanted = False  # its body is
        self.skipped = 0
        self.since = (time.monotonic(), 0)  # when its speed was last found good, and the bytes that had come
        self.blocked = False
        self.cut = False  # the transfer was ended here
        self.broken: CurateError | None = None  # not the web's fault
        self.failure: FetchError | None = None
        dialled = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
        name = f"[{url.host}]" if ":" in url.host else url.host
        self.handle.setopt(pycurl.URL, str(url))
        self.handle.setopt(pycurl.RESOLVE, [f"{name}:{url.port}:{dialled}"])
        self.handle.setopt(pycurl.TIMEOUT_MS, max(1, math.ceil((end - time.monotonic()) * 1000)))
        self.handle.setopt(pycurl.MAXFILESIZE_LARGE, max_bytes if whole else 0)
        self.handle.setopt(pycurl.HEADERFUNCTION, self.lines.append)

    def is_slow(self, now: float) -> bool:
        """Whether too little has come of late; one that waits for room is not to blame."""
        begun, before = self.since
        if now - begun < self.timeout:
            return False
        count = self.size + self.skipped + len(self.lines)
        self.since = (now, count)
        return count - before < SLOW * (now - begun) and not self.room.stopped(self)

    def result(self, code: int) -> bytes | str:
        """The body, or the Location that it is redirected to. Raises FetchError, or CurateError for our own fault."""
        if self.broken:
            raise self.broken
        if code in OURS or (code == pycurl.E_WRITE_ERROR and not self.cut):
            raise CurateError(f"libcurl: {self.handle.errstr()}")
        if self.failure:
            raise self.failure
        answer = self._head()
        if answer and (code in (pycurl.E_OK, pycurl.E_WRITE_ERROR) or answer.status != 200):
            if location := _redirection(answer):
                return location
            if refusal := self._refusal(answer):
                raise refusal
        if code not in (pycurl.E_OK, pycurl.E_WRITE_ERROR):
            raise self._error(code)
        if not self.size:
            raise FetchError("empty")
        return b"".join(self.blocks)

    def clear(self) -> None:
        """Hold no image while waiting for the next url."""
        self.blocks = []

    @property
    def retry_after(self) -> float:
        """Seconds that the server asks to be left alone; 0 where it does not."""
        return seconds_of(self.head.get("retry-after")) if self.head else 0.0

    def _error(self, code: int) -> FetchError:
        if code == pycurl.E_OPERATION_TIMEDOUT:
            if time.monotonic() >= self.end - 0.05:
                return FetchError("deadline")
            return FetchError("too slow") if self.lines else FetchError("timeout", transient=True)
        if code == pycurl.E_COULDNT_CONNECT:
            refused = self.handle.getinfo(pycurl.OS_ERRNO) == errno.ECONNREFUSED
            return (FetchError("blocked address") if self.blocked
                    else FetchError("connection refused" if refused else "connection", transient=True))  # fmt: skip
        if code == pycurl.E_BAD_CONTENT_ENCODING and self._strange_encoding():
            return FetchError("unknown content encoding")
        return REASONS.get(code, FetchError("bad response"))

    def _refusal(self, head: Head) -> FetchError | None:
        if head.status != 200:
            return FetchError(f"http {head.status}", head.status in (408, 425, 429) or head.status >= 500)
        directive = robots.opted_out(head.fields) if self.whole else None
        return FetchError(f"opted out: {directive}") if directive else None

    def _strange_encoding(self) -> bool:
        head = self._head()
        said = head.get("content-encoding").lower().split(",") if head else []
        return any(encoding.strip() not in ENCODINGS for encoding in said)

    def _opened(self, purpose: int, address: tuple[int, int, int, tuple]) -> socket.socket | int:  # type: ignore[type-arg]
        """The socket that libcurl dials with; none for an address that may not be dialled."""
        family, kind, protocol, (host, *_) = address
        if not self.may_dial(host):
            self.blocked = True
            return pycurl.SOCKET_BAD
        try:
            return socket.socket(family, kind, protocol)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self.broken = CurateError(f"no connection can be opened: {error.strerror}; use fewer threads, "
                                          "or raise the limit of open files (ulimit -n)")  # fmt: skip
            return pycurl.SOCKET_BAD

    def _write(self, block: bytes) -> int:
        """Keep a block of the body; another count than its own ends the transfer."""
        if not self.wanted:  # asked of the first block alone: libcurl brings a body in pieces of 16 kB
            head = self._head()
            if head and self._refusal(head):
                self.skipped += len(block)
                self.cut = self.skipped > SKIPPED or head.status == 200
                return 0 if self.cut else len(block)
            self.wanted = True
        if self.size + len(block) > self.max_bytes:
            self.cut = True
            if self.whole:
                self.failure = FetchError("too many bytes")
            return 0
        if not self.room.take(self, len(block)):
            return pycurl.WRITEFUNC_PAUSE
        self.blocks.append(block)
        self.size += len(block)
        return len(block)

    def _head(self) -> Head | None:
        """The headers of the last answer, once they are all there: 1xx answers may come before it."""
        if self.head is None and any(line in BLANK for line in self.lines):
            last = max(at for at, line in enumerate(self.lines) if line.startswith(b"HTTP/"))
            found = [_text(line).partition(":") for line in self.lines[last + 1 :]]
            fields = [(name.strip().lower(), value.strip()) for name, colon, value in found if colon]
            status = self.lines[last].split()[1:2]
            self.head = Head(int(status[0]) if status and status[0].isdigit() else 0, fields)
        return self.head


def seconds_of(retry_after: str) -> float:
    """A Retry-After header, seconds or a date, as seconds from now; 0 where it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def authorities() -> str:
    """The file of trusted certificates: this machine's (SSL_CERT_FILE names another), or else certifi's."""
    paths = ssl.get_default_verify_paths()
    debian = f"{paths.capath}/ca-certificates.crt"
    return paths.cafile or (debian if os.path.exists(debian) else certifi.where())


def _redirection(head: Head) -> str:
    return head.get("location") if head.status in (301, 302, 303, 307, 308) else ""


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")
