"""All that a harvest downloads, round by round: the first draw, what is offered again, what fills up the queries."""

import collections
import time
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dataset import fingerprint
from curate.errors import CurateError
from curate.files import Folder
from curate.harvest.choose import select
from curate.harvest.choose.candidates import buckets_of, kept_of
from curate.harvest.choose.limits import Search
from curate.harvest.download import depth as depths
from curate.harvest.download import rounds
from curate.harvest.download.depth import Depth
from curate.harvest.download.groups import Images, groups
from curate.harvest.download.retry import Failed, again_of
from curate.harvest.download.rounds import RETRY, TOP_UP, Round
from curate.harvest.download.shard import Download
from curate.harvest.download.topup import AGAIN, Candidates, Draw, deepen, drawn_of, tally
from curate.named import Spec
from curate.shard import SUCCESS, write_sizes
from curate.shuffle import Gather, Ranged, shuffled
from curate.work import Engine, Outcome, Report, run_all

LABELS = {rounds.DRAW: "download", TOP_UP: "top-up", RETRY: "retry"}


class Downloads:
    """What one run of harvest downloads into a dataset, and what became of it."""

    def __init__(self, folder: Folder, plan: dict[str, Any], seed: int, spec: Spec, shard_size: int,
                 engine: str | Engine):  # fmt: skip
        self.folder, self.plan, self.seed, self.spec = folder, plan, seed, spec
        self.shard_size, self.engine = shard_size, engine
        self.harvest = plan["made_by"]
        self.rounds = rounds.read(folder, rounds.draw(plan["selected"], shard_size), self.harvest)
        self.outcomes: list[Outcome] = []
        self._refuse_strange()

    def run(self, top_up: int, retry_failed: bool, min_success: float) -> None:
        """Finish the rounds so far, then go on; at once no further where a shard failed or too few images came."""
        for found in self.rounds:
            self._fetch(found)
        done_now = any(not report.skipped for report in self.outcomes[-1].reports)
        unfinished = self.rounds[-1].kind == RETRY and done_now
        if retry_failed and not unfinished and self._goes_well(min_success):
            self._go_on(self._retry())
        while self._goes_well(min_success) and self.topped_up < top_up:
            if not self._go_on(self._deeper()):
                return

    @property
    def failures(self) -> dict[str, str]:
        return {item: reason for outcome in self.outcomes for item, reason in outcome.failures.items()}

    @property
    def reports(self) -> list[Report]:
        return [report for outcome in self.outcomes for report in outcome.reports]

    @property
    def shards(self) -> list[str]:
        """Names of all shards of this harvest that are there."""
        return [report.item.removeprefix("shards/") for report in self.reports]

    @property
    def reasons(self) -> dict[str, int]:
        """What became of the pairs, the most frequent first; a pair that was offered again counts once."""
        found: collections.Counter[str] = collections.Counter()
        for report in self.reports:
            found.update({reason: int(count) for reason, count in report.counts.items()})
        for retry in self.rounds:
            found.subtract(retry.retried)
        return {reason: count for reason, count in sorted(found.items(), key=lambda item: (-item[1], item[0])) if count}

    @property
    def success(self) -> float:
        """The share of the pairs that gave an image."""
        return self.reasons.get(SUCCESS, 0) / max(1, sum(self.reasons.values()))

    @property
    def topped_up(self) -> int:
        """How many rounds were top-ups."""
        return sum(found.kind == TOP_UP for found in self.rounds)

    @property
    def told(self) -> list[dict[str, Any]]:
        """The rounds after the first, for the history."""
        return [
            {"kind": found.kind, "pairs": found.pairs, "images": int(outcome.total(SUCCESS))}
            for found, outcome in zip(self.rounds[1:], self.outcomes[1:], strict=True)
        ]

    def write_sizes(self) -> None:
        """Say beside the tars how many pairs each holds."""
        write_sizes(self.folder, {report.item: int(report.counts.get(SUCCESS, 0)) for report in self.reports})

    @property
    def depth(self) -> tuple[str, Depth]:
        """How deep the queries were drawn so far, and the file that says it."""
        record = next(found.record for found in reversed(self.rounds) if found.kind != RETRY)
        return record, depths.read(self.folder, record, self.plan["depth"])

    @property
    def pairs(self) -> np.ndarray:
        """The pairs of each query, int64 [queries]."""
        return self.folder.read_table(select.LIMITS, ["pairs"])["pairs"].to_numpy()

    def _goes_well(self, min_success: float) -> bool:
        return not self.failures and self.success >= max(min_success, 1e-9)

    def _go_on(self, found: Round | None) -> bool:
        if found:
            self.rounds.append(found)
            self._fetch(found)
        return found is not None

    def _fetch(self, found: Round) -> None:
        todo = rounds.places(found, self.rounds[0])
        label = LABELS[found.kind] if found.kind == rounds.DRAW else f"{LABELS[found.kind]} {found.number}"
        before = [places[0] for r in self.rounds[: found.number] if (places := rounds.places(r, self.rounds[0]))]
        task = Download(self.folder, self._kept(found), self.spec, tuple(before))
        self.outcomes.append(run_all(task, todo, self.engine, label if todo else "", postfix=Speed()))

    def _kept(self, found: Round) -> Ranged:
        """The files with the pairs of a round, made again where they are gone."""
        if found.kind == rounds.DRAW:
            return kept_of(self.plan)
        if found.kind == RETRY:
            names = self._retried(found)
            self._collect(found.number, names)
            files = [again_of(found.work, group) for group in groups(names)]
        else:
            before = next(r.record for r in reversed(self.rounds[: found.number]) if r.kind != RETRY)
            self._draw(found.number, before, found.record)
            files = [drawn_of(found.work, bucket) for bucket in buckets_of(self.plan)]
        size = self.plan["bytes"] * found.pairs // self.plan["matched"]
        gather = Gather(self.folder, fingerprint([self.harvest, found.record, files]), "place", select.placed)
        held, outcome = shuffled(gather, files, found.pairs, size, f"{found.work}/placed", self.engine)
        outcome.whole(AGAIN)
        return held

    def _deeper(self) -> Round | None:
        """Plan a top-up."""
        number, (record, depth) = len(self.rounds), self.depth
        work = rounds.work_of(number)
        state = fingerprint([self.harvest, depth.digest, [[report.item, report.counts] for report in self.reports]])
        images = Images(self.folder, record, self.seed, state)
        found = tally(images, work, self.shards, len(depth.draws), self.engine)
        search = Search(self.folder, f"{work}/windows", Candidates(self.folder, self.seed, state),
                        buckets_of(self.plan), state, self.engine)  # fmt: skip
        deeper = deepen(search, self.pairs, depth, found, self.plan["cap"])
        if deeper is None:
            return None
        self.folder.write_table(f"{work}/depth.parquet", deeper.table())
        pairs = self._draw(number, record, f"{work}/depth.parquet").rows
        planned = rounds.after(self.rounds, TOP_UP, pairs, self.shard_size)
        rounds.places(planned, self.rounds[0])
        rounds.write(self.folder, planned, deeper.table(), self.harvest)
        for done in ("images", "windows", "depth.parquet"):
            self.folder.remove(f"{work}/{done}")
        return planned

    def _draw(self, number: int, before: str, now: str) -> Outcome:
        """Find the pairs between two depths."""
        first = self.plan["depth"]
        state = fingerprint([self.harvest, *(depths.read(self.folder, file, first).digest for file in (before, now))])
        task = Draw(self.folder, rounds.work_of(number), before, now, self.seed, state)
        return run_all(task, buckets_of(self.plan), self.engine, "draw").whole(AGAIN)

    def _retry(self) -> Round | None:
        """Plan to offer again what may have passed; shards without any image are downloaded again anyway."""
        # a retry takes all that failed in its shards, and is itself where the next one finds what failed again
        taken = {name for found in self.rounds if found.kind == RETRY for name in self._retried(found)}
        some = [name for name, report in zip(self.shards, self.reports) if report.counts.get(SUCCESS)]
        names = [name for name in some if name not in taken]
        outcome = self._collect(len(self.rounds), names)
        if not outcome.rows:
            return None
        reasons: collections.Counter[str] = collections.Counter()
        for report in outcome.reports:
            reasons.update({reason: int(count) for reason, count in report.counts.items()})
        planned = rounds.after(self.rounds, RETRY, outcome.rows, self.shard_size, dict(sorted(reasons.items())))
        rounds.write(self.folder, planned, pa.table({"shard": names}), self.harvest)
        return planned

    def _retried(self, found: Round) -> list[str]:
        """The shards whose failures a round took."""
        return self.folder.read_table(found.record)["shard"].to_pylist()

    def _collect(self, number: int, names: list[str]) -> Outcome:
        task = Failed(self.folder, rounds.work_of(number))
        return run_all(task, groups(names), self.engine, "collect failures").whole(AGAIN)

    def _refuse_strange(self) -> None:
        """Raises CurateError where there are shards of something else."""
        known = {f"{place}.tar" for found in self.rounds for place in rounds.places(found, self.rounds[0])}
        strange = set(self.folder.names("shards/*.tar")) - known
        if strange:
            raise CurateError(
                f"{self.folder.url}/{min(strange)} is no shard of this harvest (another --shard-size?); "
                "choose another --out, or delete the folder shards"
            )


class Speed:
    """What stands behind the progress bar of a download: images a second, and the share of links that gave one."""

    def __init__(self) -> None:
        self.start, self.pairs, self.images, self.fetched = time.monotonic(), 0, 0, 0

    def __call__(self, report: Report) -> str:
        images = int(report.counts.get(SUCCESS, 0))
        self.pairs, self.images = self.pairs + report.rows, self.images + images
        self.fetched += 0 if report.skipped else images
        seconds = max(time.monotonic() - self.start, 1e-3)
        return f"{self.fetched / seconds:,.0f} images/s, {self.images / max(1, self.pairs):.0%} came"
