"""Why a pair has no image, and whether that may have passed since."""

import re

LOST = "lost by the downloader"
PASSING = {"dns", "timeout", "too slow", "deadline", "connection", "connection refused", "cut short", LOST}
STATUSES = re.compile(r"http (408|425|429|5\d\d)")


def passing(reason: str | None) -> bool:
    """Whether what failed for this reason is worth another try."""
    return reason in PASSING or bool(STATUSES.fullmatch(reason or ""))
