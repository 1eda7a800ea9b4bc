"""A url of an untrusted list: how it is asked for, which addresses may answer it, and why it gave nothing."""

import ipaddress
import re
import unicodedata
import urllib.parse
from typing import NamedTuple

AS_THEY_ARE = "/%:@!$&'()*+,;=~"  # '%' among them: what is encoded already stays so
HOST = re.compile(r"[A-Za-z0-9._~:-]*")
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchError(Exception):
    """Why a url gave no bytes, in words that are the same for the same cause; `transient` ones may pass."""

    def __init__(self, reason: str, transient: bool = False):
        super().__init__(reason)
        self.reason, self.transient = reason, transient


class Url(NamedTuple):
    """A url as it is asked for: http or https, the host in ASCII, the path percent-encoded, no user, no fragment."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"{self.server}{self.path}"

    @property
    def server(self) -> str:
        """Scheme, host and port: what is dialled, and what a robots.txt speaks for."""
        usual = self.port == (443 if self.scheme == "https" else 80)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if usual else f"{self.scheme}://{host}:{self.port}"


def parsed(text: str) -> Url:
    """Read a url as browsers do. Raises FetchError."""
    try:
        parts = urllib.parse.urlsplit(_slashed(text.strip()))
        if parts.scheme not in ("http", "https"):
            raise FetchError("not http")
        host, port = _ascii(parts.hostname or ""), parts.port
        path = urllib.parse.quote(parts.path or "/", safe=AS_THEY_ARE)
        query = urllib.parse.quote(parts.query, safe=f"{AS_THEY_ARE}?")
    except (ValueError, UnicodeError) as error:  # a lone surrogate in the path is a UnicodeError too
        raise FetchError("bad url") from error
    if not host or port == 0:
        raise FetchError("bad url")
    return Url(parts.scheme, host, port or (443 if parts.scheme == "https" else 80),
               f"{path}?{query}" if query else path)  # fmt: skip


def redirected(url: Url, location: str) -> Url:
    """Where a Location header leads. Raises FetchError."""
    try:
        return parsed(urllib.parse.urljoin(str(url), location.strip()))
    except ValueError as error:
        raise FetchError("bad url") from error


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


def _slashed(text: str) -> str:
    """A backslash before the query is a slash, to browsers."""
    if "\\" not in text:
        return text
    end = min((at for at in (text.find("?"), text.find("#")) if at >= 0), default=len(text))
    return text[:end].replace("\\", "/") + text[end:]


def _ascii(host: str) -> str:
    """A host name as DNS knows it: IDNA as in UTS 46, in which browsers agree (the stdlib's codec takes ß for ss)."""
    if not host.isascii():
        labels = unicodedata.normalize("NFKC", host.lower()).replace("\u3002", ".").split(".")
        host = ".".join(text if text.isascii() else f"xn--{text.encode('punycode').decode()}" for text in labels)
    if len(host) > 253 or any(len(label) > 63 for label in host.split(".")) or not HOST.fullmatch(host):
        raise ValueError(host)
    return host
