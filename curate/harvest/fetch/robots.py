"""What a server allows by X-Robots-Tag, TDM headers and robots.txt: a picture whose owner says no is not taken."""

import re
from collections.abc import Callable, Sequence

from protego import Protego

REFUSALS = {"noai", "noimageai", "noindex", "noimageindex", "none", "noml"}
VALUED = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}  # name: value
AGENTS = ("curate", "img2dataset")  # the names that we listen to, next to *
AGENT_NAME = re.compile(r"[\w.*-]+")  # so a date with its colons is none
VERSION = re.compile(r"(?im)^(\s*user-agent\s*:\s*[\w-]+)/\S*")  # some write one behind a name
NOBODY = "a-name-that-no-robots-txt-speaks-of"
LARGEST = 500 << 10  # bytes of a robots.txt that are read, the least that RFC 9309 asks for


def opted_out(headers: Sequence[tuple[str, str]]) -> str | None:
    """The directive that refuses us, or None. Names of headers are in lower case.

    X-Robots-Tag: comma-separated directives, an "agent:" before one holds for those after it too (Google's form).
    tdm-reservation: 1 is the W3C TDM Reservation Protocol's refusal of data mining.
    """
    for header, value in headers:
        if header == "tdm-reservation" and value.strip() == "1":
            return header
        directive = _refused(value) if header == "x-robots-tag" else None
        if directive:
            return directive
    return None


def _refused(value: str) -> str | None:
    agent = "*"
    for part in value.lower().split(","):
        name, colon, rest = part.strip().partition(":")
        if colon and name.strip() not in VALUED and AGENT_NAME.fullmatch(name.strip()):
            agent, name = name.strip(), rest
        if agent in ("*", *AGENTS) and name.strip() in REFUSALS:
            return name.strip()
    return None


Rules = Callable[[str], bool]  # whether a url may be taken


def everything(url: str) -> bool:
    """No robots.txt: all may be taken."""
    return True


def nothing(url: str) -> bool:
    """A robots.txt that there is but that cannot be read: nothing may be taken (RFC 9309, 2.3.1.4)."""
    return False


def rules(body: bytes) -> Rules:
    """The rules of a robots.txt: longest match, * and $, as RFC 9309 says.

    Our own group rules, or else the one for all; a group of img2dataset's that refuses is heard too.
    """
    text = VERSION.sub(r"\1", body[:LARGEST].decode("utf-8-sig", "replace"))
    found = Protego.parse(text)

    def allowed(url: str) -> bool:
        return bool(found.can_fetch(url, AGENTS[0])) and all(
            found.can_fetch(url, agent) or not found.can_fetch(url, NOBODY) for agent in AGENTS[1:]
        )

    return allowed
