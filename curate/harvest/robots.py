"""What a server's X-Robots-Tag and TDM headers allow: a picture whose owner says no is not taken."""

from email.message import Message

REFUSALS = {"noai", "noimageai", "noindex", "noimageindex", "none", "noml"}
VALUED = {
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
    "unavailable_after",
}  # name: value
AGENTS = {"*", "curate", "img2dataset"}  # the names that we listen to


def opted_out(headers: Message) -> str | None:
    """The directive that refuses us, or None.

    X-Robots-Tag: comma-separated directives, an "agent:" before one holds for those after it too (Google's form).
    tdm-reservation: 1 is the W3C TDM Reservation Protocol's refusal of data mining.
    """
    if (headers.get("tdm-reservation") or "").strip() == "1":
        return "tdm-reservation"
    for value in headers.get_all("X-Robots-Tag", []):
        agent = "*"
        for part in value.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name.strip() not in VALUED:
                agent, name = name.strip(), rest
            if agent in AGENTS and name.strip() in REFUSALS:
                return name.strip()
    return None
