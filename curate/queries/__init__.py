"""Make the list of queries that harvest looks for: ranked sources, each with a share of the places, stop words out."""

import hashlib
import resource
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from curate.errors import CurateError
from curate.queries.blocklist import Blocklist
from curate.queries.choose import choose, quotas, ranked
from curate.queries.collect import collect, drop, stop_words
from curate.queries.dumps import Dumps, expanded
from curate.queries.output import Output
from curate.queries.pmi import STOP_SHARE
from curate.queries.recipe import Ingredient, ingredients
from curate.queries.statistics import describe, dropped, table_of

FORMAT = 1


def run(
    out: str, size: int = 500_000, language: str = "en", sources: tuple[str, ...] = (), wikipedia: tuple[str, ...] = (),
    pageviews: tuple[str, ...] = (), blocklist: tuple[str, ...] = (), casefold: bool | None = None,
    stop_share: float = STOP_SHARE, match: str = "default", engine: str = "local",
) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Write the list and what stands beside it; returns (summary line, numbers, {}).

    `casefold`: one query for all spellings that differ in case only; by default where no dump is given, because the
    packages know small letters only. The same options and files give the same bytes. Raises CurateError.
    """
    if size < 1:
        raise CurateError(f"--size {size}: a list has at least one query")
    if not 0 <= stop_share <= 1:
        raise CurateError(f"--stop-share {stop_share:g}: a share, between 0 and 1")
    started, cpu = time.monotonic(), _cpu()
    output = Output.at(out)
    dumps = _dumps(output, language, expanded(wikipedia, "wikipedia"), expanded(pageviews, "pageviews"), engine)
    folded = not wikipedia if casefold is None else casefold
    made = ingredients(sources, dumps, stop_share)
    limits = quotas([ingredient.share for ingredient in made], size)
    blocked = Blocklist(blocklist)
    made_by = {"size": size, "language": language, "casefold": folded, "stop_share": stop_share, "match": match,
               "blocklist": _digest(blocked), "sources": _sources(made), "format": FORMAT}  # fmt: skip
    done = output.existing(made_by)
    if done is not None:
        return f"{out} is there already, made the same way: {done['queries']:,} queries", _numbers(done), {}

    found = [collect(ingredient.source, blocked, folded, match == "metaclip") for ingredient in made]
    stops = stop_words(found, stop_share)
    for source in found:
        drop(source, stops)
    chosen = choose([ranked(source.counts) for source in found], limits, size)
    statistics = describe(made, limits, found, chosen, stops) | {"made_by": made_by}
    output.write(table_of(made, found, chosen), dropped(made, found), statistics)
    dumps.scratch.remove("")
    cost = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(_cpu() - cpu, 1), "peak_mb": _peak()}
    return _summary(out, statistics, size), _numbers(statistics) | cost, {}


def _dumps(output: Output, language: str, wikipedia: tuple[str, ...], pageviews: tuple[str, ...], engine: str) -> Dumps:
    """Counts lie beside the list while it is made, under a name that these dumps alone have."""
    dumps = Dumps(output.folder, language, wikipedia, pageviews, engine)
    if (wikipedia or pageviews) and not output.folder.is_local:
        raise CurateError("with dumps, --out must be on a local disk: gigabytes of counts lie beside it for a while")
    digest = hashlib.sha256(repr((language, wikipedia, pageviews, sorted(dumps.made_by.items()))).encode()).hexdigest()
    scratch = output.folder.within(f"{output.stem}.work-{digest[:8]}")
    return replace(dumps, scratch=scratch)


def _sources(made: list[Ingredient]) -> list[dict[str, Any]]:
    return [{"source": i.spec, "label": i.label, "share": i.share, "files": i.source.made_by} for i in made]


def _digest(blocked: Blocklist) -> str | None:
    content = repr((sorted(blocked.exact), sorted(blocked.phrases)))
    return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:16] if len(blocked) else None


def _summary(out: str, statistics: dict[str, Any], size: int) -> str:
    total = statistics["queries"]
    short = "" if total == size else f" of the {size:,} asked for (the sources hold no more)"
    origins = ", ".join(f"{source['chosen']:,} {source['label']}" for source in statistics["sources"])
    case = ", one spelling each whatever the case (harvest --casefold)" if statistics["made_by"]["casefold"] else ""
    dropped: Counter[str] = sum((Counter(source["dropped"]) for source in statistics["sources"]), Counter())
    blocked, flawed = dropped["blocked"], dropped.total() - dropped["blocked"] - dropped["stop word"]
    return (
        f"{total:,} queries{short} in {out}{case}: {origins}; dropped: {len(statistics['stop_words'])} stop words, "
        f"{blocked:,} blocked, {flawed:,} that no text can match"
    )


def _numbers(statistics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in statistics.items() if key != "made_by"}


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak() -> int:
    """Most memory this process held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
