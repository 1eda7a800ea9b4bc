"""Harvest: match a pool's texts against queries, draw at most `cap` pairs for each, download their images as shards.

The text side (match, join, cap, select) leaves DATASET/candidates; downloading turns the selected ones into
DATASET/shards. Both are tasks over small pieces whose result does not depend on how the work was cut or interrupted.
"""

import collections
import importlib.util
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from curate import named
from curate.dataset import Dataset, fingerprint
from curate.errors import CurateError
from curate.files import Folder
from curate.harvest import queries as query_lists
from curate.harvest.candidates import BALANCES, Drawing, choose, kept_of
from curate.harvest.download import Download, places
from curate.harvest.matches import WORK, Part
from curate.named import Spec
from curate.pools import check_places, explicit, open_pool, size_of
from curate.shard import SUCCESS
from curate.work import Engine, Outcome, run_all

ASKED_AT_ONCE = 32  # files of a pool whose sizes are asked for: a crawl has 90,000
IDENTITY = f"{WORK}/identity.json"
CAP = 20_000  # CLIP's and MetaCLIP's for 400M pairs
TOLD = ("pairs", "matches", "draws", "selected", "cap", "head_share", "tail_share", "queries_matched",
        "queries_unmatched", "queries_capped", "largest")  # fmt: skip
HINTS = {
    "blocked address": "these urls lead to this machine or a private network; --allow-private fetches them",
    "dns": "no name could be looked up: is there a network?",
    "connection": "nothing answers: is there a network?",
    "connection refused": "nothing answers there",
    "timeout": "nothing answers: is there a network?",
}


def run(dataset: Dataset, pools: Sequence[str], queries: str, cap: int | None = None, match: str = "default",
        balance: str = "cap", tail_share: float | None = None, download: bool = True, downloader: str = "auto",
        decode: str | None = None, allow_private: bool = False, shard_size: int = 10_000, seed: int = 0,
        engine: str | Engine = "local") -> Dataset:  # fmt: skip
    """Harvest pools of urls and texts into a dataset; run again, it continues where it was stopped.

    Raises CurateError for pools, queries or options that cannot work, for a dataset that another harvest made, and
    where not one image could be downloaded (the candidates are kept then).
    """
    if shard_size < 1:
        raise CurateError(f"--shard-size {shard_size}: at least 1")
    drawing = _drawing(balance, cap, tail_share, seed)
    listed = query_lists.read(queries)
    parts = _parts(pools)
    spec = _downloader(downloader, decode, allow_private) if download else None
    identity = {
        "pools": fingerprint([[part.path, part.size] for part in parts]),
        "queries": listed.sha256,
        "match": match,
        **drawing._asdict(),
    }
    _claim(dataset, identity)
    plan = choose(dataset.folder, parts, listed, match, drawing, engine)
    counts = {
        "pool": plan["read"],
        "unusable": plan["unusable"],
        "matched": plan["matched"],
        "matched_share": round(plan["matched"] / plan["read"], 6),
        **{key: plan[key] for key in TOLD},
        "queries": len(listed.texts),
        "queries_blank": listed.blank,
        "queries_repeated": listed.repeated,
    }
    options = {"pools": list(pools), "queries": queries, "match": match, **drawing._asdict(),
               "shard_size": shard_size, "downloader": str(spec) if spec else None, "identity": identity}  # fmt: skip
    failures = dict(plan["damaged"])
    if spec:
        outcome = _download(dataset.folder, plan, spec, shard_size, engine)
        failures |= outcome.failures
        counts |= _downloaded(outcome)
    done = dataset.after("harvest", options, _summary(counts, drawing), counts, failures).save()
    if spec and not counts["downloaded"] and not outcome.failures:
        raise CurateError(_no_image(done.url, counts))
    return done


def _drawing(balance: str, cap: int | None, tail_share: float | None, seed: int) -> Drawing:
    """Raises CurateError for what is no cap, no share, or both."""
    if balance not in BALANCES:
        raise CurateError(f"--balance {balance}: choose from {', '.join(BALANCES)}")
    if cap is not None and tail_share is not None:
        raise CurateError("--cap or --tail-share, not both: the second finds the first")
    if tail_share is None:
        cap = CAP if cap is None else cap
        if cap < 1:
            raise CurateError(f"--cap {cap}: at least 1")
    elif not 0 < tail_share <= 1:
        raise CurateError(f"--tail-share {tail_share}: above 0, at most 1; MetaCLIP's is 0.06")
    return Drawing(balance, cap, tail_share, seed)


def _parts(pools: Sequence[str]) -> list[Part]:
    """The files of all pools in the order of their paths, each once."""
    opened = {spec: open_pool(spec) for spec in (str(explicit(text)) for text in pools)}
    check_places(opened.values())
    found = {path: spec for spec, pool in opened.items() for path in pool.parts()}
    paths = sorted(found)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as asking:
        sizes = asking.map(size_of, paths)
        return [Part(number, found[path], path, size) for number, (path, size) in enumerate(zip(paths, sizes))]


def _downloader(text: str, decode: str | None, allow_private: bool) -> Spec:
    if text == "auto":
        usable = sys.version_info < (3, 13) and importlib.util.find_spec("img2dataset")  # imports imghdr, gone in 3.13
        text = "img2dataset" if usable else "native"
    spec = named.parse(text)
    told = {name: value for name, value in (("decode", decode), ("allow_private", allow_private)) if value}
    spec = Spec(spec.name, tuple(sorted({**dict(spec.options), **told}.items())), spec.alias)
    named.load("harvest.downloaders", spec)
    return spec


def _claim(dataset: Dataset, identity: dict[str, Any]) -> None:
    """Note what this dataset is harvested from. Raises CurateError where that was something else."""
    dataset.folder.sweep()
    before = next((s["options"]["identity"] for s in dataset.history if s["stage"] == "harvest"), None)
    if before is None and dataset.folder.exists(IDENTITY):
        before = dataset.folder.read_json(IDENTITY)
    if before is None and dataset.history:
        raise CurateError(f"{dataset.url} was not made by harvest; choose another --out")
    if before is not None and before != identity:
        changed = ", ".join(key for key in identity if before.get(key) != identity[key])
        raise CurateError(
            f"{dataset.url} was harvested with other options ({changed}); choose another --out, or delete it first"
        )
    dataset.folder.write_json(IDENTITY, identity)


def _download(folder: Folder, plan: dict[str, Any], spec: Spec, shard_size: int, engine: str | Engine) -> Outcome:
    todo = places(plan["selected"], shard_size)
    strange = set(folder.names("shards/*.tar")) - {f"{place}.tar" for place in todo}
    if strange:
        raise CurateError(
            f"{folder.url}/{min(strange)} is no shard of this harvest (another --shard-size?); "
            "choose another --out, or delete the folder shards"
        )
    return run_all(Download(folder, kept_of(plan), spec), todo, engine, "download")


def _downloaded(outcome: Outcome) -> dict[str, Any]:
    reasons: collections.Counter[str] = collections.Counter()
    for report in outcome.reports:
        reasons.update({reason: int(count) for reason, count in report.counts.items()})
    downloaded = reasons.pop(SUCCESS, 0)
    return {"downloaded": downloaded, "failed": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))}


def _summary(counts: dict[str, Any], drawing: Drawing) -> str:
    text = (
        f"harvest: {counts['pool']:,} pairs read, {counts['pairs']:,} distinct ones matched "
        f"{counts['queries_matched']:,} of {counts['queries']:,} queries, "
        f"{counts['selected']:,} drawn under cap {counts['cap']:,}"
    )
    if drawing.tail_share is not None:
        text += f", where the {drawing.tail_share:.3g} tail ends"
    if drawing.balance != "cap":
        text += f" (balance {drawing.balance})"
    if counts["unusable"]:
        text += f" ({counts['unusable']:,} without an image or a web url)"
    if "downloaded" not in counts:
        return text
    failed = sum(counts["failed"].values())
    named_first = ", ".join(f"{count:,} {reason}" for reason, count in list(counts["failed"].items())[:4])
    more = ", ..." if len(counts["failed"]) > 4 else ""
    return f"{text}, {counts['downloaded']:,} images" + (f" ({failed:,} failed: {named_first}{more})" if failed else "")


def _no_image(url: str, counts: dict[str, Any]) -> str:
    reason, count = next(iter(counts["failed"].items()))
    hint = HINTS.get(reason, f"see error_message in {url}/shards/*.parquet")
    return (
        f"none of {sum(counts['failed'].values()):,} images could be downloaded, {count:,} of them: {reason} ({hint}); "
        "the candidates are kept, run again to retry"
    )
