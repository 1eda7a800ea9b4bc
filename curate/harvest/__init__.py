"""Harvest: match a pool's texts against queries, draw at most `cap` pairs for each, download their images as shards.

The text side (match, join, cap, select) leaves DATASET/candidates; downloading turns the selected ones into
DATASET/shards. Both are tasks over small pieces whose result does not depend on how the work was cut or interrupted.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from curate import named
from curate.dataset import Dataset, fingerprint
from curate.errors import CurateError
from curate.harvest import queries as query_lists
from curate.harvest.choose.candidates import BALANCES, Drawing, choose
from curate.harvest.choose.matches import WORK, Part
from curate.harvest.download.counted import selection
from curate.harvest.download.downloads import Downloads
from curate.harvest.index import EVERY, Matching
from curate.harvest.summary import check_success, downloaded, summary
from curate.named import Spec
from curate.pools import check_places, explicit, open_pool
from curate.storage.streams import size_of
from curate.work import Engine

ASKED_AT_ONCE = 32  # files of a pool whose sizes are asked for: a crawl has 90,000
IDENTITY = f"{WORK}/identity.json"
MOST_OVERSAMPLED = 100
CAP = 20_000  # CLIP's and MetaCLIP's for 400M pairs
UNCAPPED = 2**40  # more pairs than there are
TOLD = ("pairs", "matches", "draws", "selected", "cap", "head_share", "tail_share", "queries_matched",
        "queries_unmatched", "queries_capped", "never_matching", "largest")  # fmt: skip
TOLD_OF_EVERY = ("pool", "unusable", "pairs", "selected")  # where there are no queries


def run(dataset: Dataset, pools: Sequence[str], queries: str | None, cap: int | None = None, match: str = "default",
        casefold: bool = False, balance: str = "cap", tail_share: float | None = None, download: bool = True,
        downloader: str = "native", decode: str | None = None, allow_private: bool = False, shard_size: int = 10_000,
        oversample: float = 1.0, top_up: int = 0, retry_failed: bool = False, min_success: float = 0.05, seed: int = 0,
        engine: str | Engine = "local") -> Dataset:  # fmt: skip
    """Harvest pools of urls and texts into a dataset; run again, it continues where it was stopped.

    queries: the list, or None for every pair of the pools, of which `cap` are drawn where it is given.

    Raises CurateError for pools, queries or options that cannot work and for a dataset that another harvest made;
    FewImages, once all else is saved, where a smaller share of the pairs than `min_success` gave an image.
    """
    _check(shard_size, oversample, top_up, min_success, balance)
    if queries is None:
        _check_every(match, casefold, balance, tail_share)
        matching, listed, most = Matching(EVERY), query_lists.EVERYTHING, UNCAPPED
    else:
        matching, listed, most = _matching(match, casefold), query_lists.read(queries), CAP
    drawing = _drawing(balance, cap, tail_share, seed, most)._replace(oversample=oversample)
    parts = _parts(pools)
    spec = _downloader(downloader, decode, allow_private) if download else None
    identity = {
        "pools": fingerprint([[part.path, part.size] for part in parts]),
        "queries": listed.sha256,
        "match": matching.mode,
        "casefold": casefold,
        **drawing._asdict(),
    }
    _claim(dataset, identity)
    plan = choose(dataset.folder, parts, listed, matching, drawing, engine)
    counts = {
        "pool": plan["read"],
        "unusable": plan["unusable"],
        "matched": plan["matched"],
        "matched_share": round(plan["matched"] / plan["read"], 6),
        **{key: plan[key] for key in TOLD},
        "queries": len(listed.texts),
        "queries_blank": listed.blank,
        "queries_repeated": listed.repeated,
        "loses_capitals": matching.loses_capitals(listed),
    }
    if queries is None:
        counts = {key: value for key, value in counts.items() if key in TOLD_OF_EVERY} | {"cap": cap}
    options = {"pools": list(pools), "queries": queries, "match": matching.mode, "casefold": casefold,
               **drawing._asdict(), "shard_size": shard_size, "downloader": str(spec) if spec else None,
               "identity": identity}  # fmt: skip
    failures: dict[str, str] = dict(plan["damaged"])
    changes: dict[str, Any] = {}
    if spec:
        found = Downloads(dataset.folder, plan, seed, spec, shard_size, engine)
        found.run(top_up, retry_failed, min_success)
        dataset.folder.sweep()  # what a killed worker left, whose work another did
        found.write_sizes()
        failures |= found.failures
        counts |= downloaded(found)
        if oversample > 1 or top_up or found.topped_up:
            changes, filled, broken = selection(dataset, found)
            counts, failures = counts | filled, failures | broken
        elif set(found.shards) - set(dataset.manifest["shards"]):
            changes = {"selection": None}  # one that was made before knows nothing of the new shards
    done = dataset.after("harvest", options, summary(counts, drawing), counts, failures, **changes).save()
    if spec and not found.failures:
        check_success(done.url, counts, min_success)
    return done


def _check(shard_size: int, oversample: float, top_up: int, min_success: float, balance: str) -> None:
    """Raises CurateError for what cannot work."""
    if shard_size < 1:
        raise CurateError(f"--shard-size {shard_size}: at least 1")
    if not 1 <= oversample <= MOST_OVERSAMPLED:
        raise CurateError(f"--oversample {oversample:g}: between 1 and {MOST_OVERSAMPLED}")
    if top_up < 0:
        raise CurateError(f"--top-up {top_up}: at least 0")
    if not 0 <= min_success <= 1:
        raise CurateError(f"--min-success {min_success:g}: a share, between 0 and 1")
    if balance != "cap" and (oversample > 1 or top_up):
        raise CurateError(
            f"--top-up and --oversample fill queries up to their cap; --balance {balance} draws by chance and has none"
        )


def _matching(match: str, casefold: bool) -> Matching:
    """Raises CurateError where MetaCLIP's rule would be another one."""
    if casefold and match == "metaclip":
        raise CurateError("--casefold goes with --match default; MetaCLIP's rule tells capitals apart")
    return Matching(match, casefold)


def _check_every(match: str, casefold: bool, balance: str, tail_share: float | None) -> None:
    """Raises CurateError for options that say something of queries."""
    asked = {"--match": match != "default", "--casefold": casefold, "--balance": balance != "cap",
             "--tail-share": tail_share is not None}  # fmt: skip
    if told := [name for name, given in asked.items() if given]:
        raise CurateError(f"{' and '.join(told)} with --all: there are no queries that this could be about")


def _drawing(balance: str, cap: int | None, tail_share: float | None, seed: int, most: int) -> Drawing:
    """Raises CurateError for what is no cap, no share, or both."""
    if balance not in BALANCES:
        raise CurateError(f"--balance {balance}: choose from {', '.join(BALANCES)}")
    if cap is not None and tail_share is not None:
        raise CurateError("--cap or --tail-share, not both: the second finds the first")
    if tail_share is None:
        cap = most if cap is None else cap
        if not 1 <= cap <= UNCAPPED:
            raise CurateError(f"--cap {cap}: at least 1, at most {UNCAPPED:,}")
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
