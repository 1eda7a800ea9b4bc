"""What a harvest says at its end: numbers for the history, one line for the user, or why it did not go well."""

from typing import Any

from curate.errors import CurateError
from curate.harvest.choose.candidates import Drawing
from curate.harvest.download.downloads import Downloads
from curate.shard import SUCCESS

SHOWN = 4  # reasons, or frequent queries, that the line names
FREQUENT, MANY = 0.05, 1000  # a query in a larger share of the pairs is like a stop word, in a list of so many
HINTS = {
    "blocked address": "these urls lead to this machine or a private network; --allow-private fetches them",
    "dns": "no name could be looked up: is there a network?",
    "connection": "nothing answers: is there a network?",
    "connection refused": "nothing answers there",
    "timeout": "nothing answers: is there a network?",
}


class FewImages(CurateError):
    """Fewer pairs than --min-success gave an image, maybe none. Everything that came is kept."""


def downloaded(found: Downloads) -> dict[str, Any]:
    """Counts of a download; `failed` by reason, a pair that was offered again once."""
    reasons = found.reasons
    images = reasons.pop(SUCCESS, 0)
    return {"downloaded": images, "failed": reasons, "success": round(found.success, 6), "rounds": found.told}


def summary(counts: dict[str, Any], drawing: Drawing) -> str:
    """The line for the user."""
    text = f"harvest: {counts['pool']:,} pairs read, {counts['pairs']:,} distinct ones"
    if "queries" in counts:
        text += f" matched {counts['queries_matched']:,} of {counts['queries']:,} queries"
    text += f", {counts['selected']:,} drawn" + (f" under cap {counts['cap']:,}" if counts["cap"] else "")
    if drawing.oversample > 1:
        text += f" x {drawing.oversample:g}"
    if drawing.tail_share is not None:
        text += f", where the {drawing.tail_share:.3g} tail ends"
    if drawing.balance != "cap":
        text += f" (balance {drawing.balance})"
    if counts["unusable"]:
        text += f" ({counts['unusable']:,} without an image or a web url)"
    return text + _images(counts) + _odd_queries(counts)


def _images(counts: dict[str, Any]) -> str:
    """What downloading brought; nothing where there was none."""
    text = ""
    if "downloaded" not in counts:
        return text
    for kind, verb in (("retry", "offered again"), ("top-up", "drawn in addition")):
        some = [found for found in counts["rounds"] if found["kind"] == kind]
        if some:
            text += f", {sum(found['pairs'] for found in some):,} {verb}"
    text += f", {counts['downloaded']:,} images"
    if counts["failed"]:
        text += f" ({sum(counts['failed'].values()):,} failed: {_reasons(counts)})"
    if "kept" in counts:
        text += f"; {counts['kept']:,} count under the cap"
        if "queries" in counts:
            text += (
                f": {counts['queries_full']:,} queries full, {counts['queries_exhausted']:,} exhausted, "
                f"{counts['queries_short']:,} still short"
            )
    return text


def _odd_queries(counts: dict[str, Any]) -> str:
    """What the user may want to change in the query list; reports/queries.parquet says it of each query."""
    text = ""
    if "queries" not in counts:
        return text
    if counts["never_matching"]:
        text += f"; {counts['never_matching']:,} queries can never match"
    often = [found["query"] for found in counts["largest"] if found["pairs"] > FREQUENT * counts["pairs"]]
    if often and counts["queries"] >= MANY:
        named = ", ".join(often[:SHOWN]) + (", ..." if len(often) > SHOWN else "")
        text += f"; in more than {FREQUENT:.0%} of the pairs, like stop words: {named}"
    if counts["loses_capitals"]:
        text += "; most queries come in small letters alone, so texts in capitals are missed: --casefold finds both"
    return text


def check_success(url: str, counts: dict[str, Any], least: float) -> None:
    """Raises FewImages where a smaller share than `least` gave an image, or none did."""
    images, failed = counts["downloaded"], sum(counts["failed"].values())
    if not failed or (images and counts["success"] >= least):
        return
    reason, most = next(iter(counts["failed"].items()))
    hint = HINTS.get(reason, f"see error_message in {url}/shards/*.parquet")
    if images:
        raise FewImages(
            f"only {images:,} of {images + failed:,} pairs gave an image, fewer than --min-success {least:.0%}: "
            f"{_reasons(counts)} ({reason}: {hint}); what came is kept, --retry-failed tries again"
        )
    raise FewImages(
        f"none of {failed:,} images could be downloaded, {most:,} of them: {reason} ({hint}); "
        "the candidates are kept, run again to retry"
    )


def _reasons(counts: dict[str, Any]) -> str:
    shown = ", ".join(f"{count:,} {reason}" for reason, count in list(counts["failed"].items())[:SHOWN])
    return f"{shown}, ..." if len(counts["failed"]) > SHOWN else shown
