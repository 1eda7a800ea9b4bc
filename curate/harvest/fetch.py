"""Fetch the bytes of an untrusted url: http(s) and public addresses only, bounded in size, time and redirects."""

import functools
import http.client
import io
import ipaddress
import socket
import ssl
import time
import urllib.parse
import zlib
from dataclasses import dataclass
from typing import Any

import curate
from curate.errors import CurateError
from curate.harvest.robots import opted_out

AGENT = f"curate/{curate.__version__} (builds image-text datasets; honours X-Robots-Tag: noai, noindex)"
REDIRECTS = 5
BLOCK = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def check_limits(downloader: str, **limits: float) -> None:
    """Raises CurateError where a limit of a downloader is not a number above 0."""
    for name, value in limits.items():
        if not isinstance(value, int | float) or value <= 0:
            raise CurateError(f"{downloader}({name}={value}): {name} is a number above 0")


class FetchError(Exception):
    """Why a url gave no bytes, in words that are the same for the same cause; `transient` ones may pass."""

    def __init__(self, reason: str, transient: bool = False):
        super().__init__(reason)
        self.reason, self.transient = reason, transient


@dataclass(frozen=True)
class Fetcher:
    """`timeout` seconds for each wait, `deadline` for the whole url; `max_bytes` counts after inflation too."""

    timeout: float = 10
    deadline: float = 30
    retries: int = 0
    max_bytes: int = 32 << 20
    allow_private: bool = False
    user_agent: str = AGENT

    def fetch(self, url: str) -> bytes:
        """The body behind a url. Raises FetchError."""
        end = time.monotonic() + self.deadline
        for left in range(self.retries, -1, -1):
            try:
                return self._follow(url, end)
            except FetchError as error:
                if not (left and error.transient) or time.monotonic() > end:
                    raise
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))
        raise AssertionError("unreachable")

    def _follow(self, url: str, end: float) -> bytes:
        for _ in range(REDIRECTS + 1):
            found = self._get(url, end)
            if isinstance(found, bytes):
                return found
            url = found
        raise FetchError("too many redirects")

    def _get(self, url: str, end: float) -> bytes | str:
        """The body, or the url that it is redirected to."""
        target = _Target.of(url)
        try:
            with self._connected(target, end) as connection:
                connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
                for name, value in (("Host", target.shown), ("User-Agent", self.user_agent), ("Accept", "image/*,*/*"),
                                    ("Accept-Encoding", "identity"), ("Connection", "close")):  # fmt: skip
                    connection.putheader(name, value)
                connection.endheaders()
                return self._answer(connection.getresponse(), url)
        except TimeoutError as error:
            raise FetchError("deadline" if time.monotonic() >= end else "timeout", transient=True) from error
        except ssl.SSLError as error:
            raise FetchError("tls") from error
        except ConnectionRefusedError as error:
            raise FetchError("connection refused", transient=True) from error
        except (OSError, http.client.IncompleteRead) as error:
            raise FetchError("connection", transient=True) from error
        except (http.client.HTTPException, ValueError) as error:
            raise FetchError("bad response") from error

    def _connected(self, target: "_Target", end: float) -> "_Connection":
        for address in self._addresses(target):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                plain.settimeout(_wait(self.timeout, end))
                plain.connect((address, target.port))
                if target.tls:
                    plain = _tls().wrap_socket(plain, server_hostname=target.host)
                return _Connection(target, plain, self.timeout, end)
            except OSError as error:
                plain.close()
                failure = error
        raise failure

    def _addresses(self, target: "_Target") -> list[str]:
        """The addresses that may be dialled; what is checked here is what is dialled, so no name can change between."""
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise FetchError("dns", transient=True) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in addresses if self.allow_private or is_public(address)]
        if not allowed:
            raise FetchError("blocked address")
        return allowed[:3]

    def _answer(self, response: http.client.HTTPResponse, url: str) -> bytes | str:
        if response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
            return urllib.parse.urljoin(url, response.headers["Location"].strip())
        if response.status != 200:
            transient = response.status in (408, 425, 429) or response.status >= 500
            raise FetchError(f"http {response.status}", transient)
        directive = opted_out(response.headers)
        if directive:
            raise FetchError(f"opted out: {directive}")
        return self._body(response)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        stated = response.headers.get("Content-Length", "")
        if stated.isdigit() and int(stated) > self.max_bytes:
            raise FetchError("too many bytes")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise FetchError("unknown content encoding")
        inflate = zlib.decompressobj(47) if encoding not in ("identity", "") else None
        body, stored = io.BytesIO(), 0
        while block := response.read(BLOCK):
            stored += len(block)
            try:
                body.write(inflate.decompress(block, self.max_bytes + 1) if inflate else block)
            except zlib.error as error:
                raise FetchError("bad content encoding") from error
            if body.tell() > self.max_bytes or stored > self.max_bytes:
                raise FetchError("too many bytes")
        if stated.isdigit() and stored < int(stated):
            raise FetchError("cut short", transient=True)
        if not body.tell():
            raise FetchError("empty")
        return body.getvalue()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet; addresses that carry an IPv4 one inside count as that one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


@dataclass(frozen=True)
class _Target:
    """A url as it is dialled and asked for."""

    host: str
    port: int
    tls: bool
    path: str  # percent-encoded, with the query
    shown: str  # the Host header

    @classmethod
    def of(cls, url: str) -> "_Target":
        try:
            parts = urllib.parse.urlsplit(url.strip())
            port = parts.port
            host = parts.hostname or ""
            host = host if ":" in host else host.encode("idna").decode("ascii")
        except (ValueError, UnicodeError) as error:
            raise FetchError("bad url") from error
        if parts.scheme not in ("http", "https"):
            raise FetchError("not http")
        if not host:
            raise FetchError("bad url")
        tls = parts.scheme == "https"
        # the characters that may stand as they are, '%' among them: what is encoded already stays so
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        shown = f"[{host}]" if ":" in host else host
        return cls(host, port or (443 if tls else 80), tls, f"{path}?{query}" if query else path,
                   f"{shown}:{port}" if port else shown)  # fmt: skip


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a socket that is open already; the socket closes when the block ends."""

    def __init__(self, target: _Target, plain: socket.socket, timeout: float, end: float):
        super().__init__(target.host, target.port)
        self._plain = plain
        self.sock = _Wire(plain, timeout, end)  # type: ignore[assignment]

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._plain.close()


class _Wire:
    """What http.client wants of a socket; each wait ends by the deadline, however slowly the other side drips."""

    def __init__(self, plain: socket.socket, timeout: float, end: float):
        self._plain, self._timeout, self._end = plain, timeout, end

    def sendall(self, data: bytes) -> None:
        self._plain.settimeout(_wait(self._timeout, self._end))
        self._plain.sendall(data)

    def recv_into(self, buffer: Any) -> int:
        self._plain.settimeout(_wait(self._timeout, self._end))
        return self._plain.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Answer(self))

    def close(self) -> None:
        """http.client closes it once the headers say that the connection ends, before the body is read."""


class _Answer(io.RawIOBase):
    """The incoming bytes of a wire."""

    def __init__(self, wire: _Wire):
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.recv_into(buffer)


def _wait(timeout: float, end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(timeout, left)


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # one for all: making one costs 18 ms, most of what img2dataset spends on an https image under Python 3.11
    return ssl.create_default_context()
