"""Fetch the bytes of untrusted urls: http(s) and public addresses only, bounded in size, time, memory and redirects."""

from collections.abc import Iterable
from dataclasses import dataclass

import curate
from curate.errors import CurateError
from curate.harvest.fetch.loop import Fetches
from curate.harvest.fetch.urls import FetchError, is_public

__all__ = ["AGENT", "FetchError", "Fetcher", "Fetches", "check_limits", "is_public"]
AGENT = f"curate/{curate.__version__} (builds image-text datasets; honours X-Robots-Tag: noai, noindex)"
MOST = 1e12  # of any limit: libcurl counts milliseconds and bytes in 64 bits


def check_limits(downloader: str, user_agent: str, quality: int, retries: int, **limits: float) -> None:
    """Raises CurateError where an option of a downloader is out of its range; the `limits` are above 0."""
    for name, value in limits.items():
        if not 0 < value <= MOST:
            raise CurateError(f"{downloader}({name}={value}): {name} is a number above 0, at most {MOST:g}")
    if not 1 <= quality <= 100:
        raise CurateError(f"{downloader}(quality={quality}): quality is from 1 to 100")
    if not 0 <= retries <= MOST:
        raise CurateError(f"{downloader}(retries={retries}): retries is 0 or more")
    if not (user_agent.isascii() and user_agent.isprintable()):
        raise CurateError(f"{downloader}(user_agent={user_agent!r}): user_agent is one line of ASCII")


@dataclass(frozen=True)
class Fetcher:
    """How to fetch.

    `threads` urls at a time, `per_host` of one server. `timeout`: seconds to look up a name, to connect, and to be
    slower than 1 kB/s. `deadline`: seconds for a url with all its redirects and `retries`, which are for what may pass.
    `max_bytes` of a body, inflated. `allow_private`: also dial addresses that are not of the open internet.
    """

    timeout: float = 10
    deadline: float = 30
    retries: int = 1
    max_bytes: int = 32 << 20
    allow_private: bool = False
    user_agent: str = AGENT
    robots_txt: bool = False
    threads: int = 128
    per_host: int = 8

    def fetch(self, urls: Iterable[str]) -> Fetches:
        """Fetch each distinct url, once: `with fetcher.fetch(urls) as fetched: for url, found in fetched: ...`.

        The iteration raises CurateError where this machine, not the web, is at fault.
        """
        return Fetches(self, list(dict.fromkeys(urls)))

    def may_dial(self, address: str) -> bool:
        """Whether an IP address may be connected to."""
        return self.allow_private or is_public(address)
