"""A dataset: a folder of shards, signals and selections that only ever gains files, and its manifest."""

import datetime
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

import curate
from curate import named
from curate.arrow import compute
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.shard import Shard

SCHEMA = 1
MANIFEST = "manifest.json"
EVERYTHING = "all"  # the start of a stage that considers every row
EMPTY: dict[str, Any] = {
    "schema": SCHEMA,
    "shards": [],
    "signals": {},
    "selections": {},
    "selection": None,
    "history": [],
}


@dataclass(frozen=True)
class Dataset:
    """An immutable view; `after(...)` gives the next one and `save()` writes its manifest."""

    folder: Folder
    manifest: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(EMPTY)))
    failures: dict[str, str] = field(default_factory=dict)  # shard -> why it failed in this run
    read: dict[str, Any] = field(default_factory=lambda: EMPTY)  # the manifest as it was read or saved last

    @classmethod
    def open(cls, url: str) -> "Dataset":
        """An existing dataset; a folder whose shards/ holds img2dataset tars is one too. Raises CurateError."""
        dataset = cls.create(url)
        if not dataset.folder.exists(MANIFEST) and not dataset.shards:
            hint = ""
            if dataset.folder.names("*.tar"):
                hint = f"; its tars belong in {url.rstrip('/')}/shards/"
            raise CurateError(f"{url} is not a dataset: it has no {MANIFEST} and no shards/*.tar{hint}")
        return dataset

    @classmethod
    def create(cls, url: str) -> "Dataset":
        """The dataset at `url`, or an empty one that the first `save()` will write there."""
        folder = Folder(str(url))
        if not folder.exists(MANIFEST):
            return cls(folder)
        manifest = folder.read_json(MANIFEST)
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if not isinstance(schema, int):
            raise CurateError(f"{url}/{MANIFEST} is not a curate manifest: it has no schema number")
        if schema > SCHEMA:
            raise CurateError(
                f"{url} has schema {schema}, this curate {curate.__version__} reads up to {SCHEMA}; upgrade curate"
            )
        wrong = [name for name, empty in EMPTY.items() if not isinstance(manifest.get(name, ...), _kinds(empty))]
        if wrong:
            raise CurateError(f"{url}/{MANIFEST} is damaged: it has no '{wrong[0]}' as curate writes it; restore it")
        told = manifest["selections"]
        lost = {manifest["selection"], *(about.get("parent") for about in told.values())} - {None, *told}
        if lost:
            raise CurateError(f"{url}/{MANIFEST} is damaged: it names a selection '{min(lost)}' that it does not "
                              "describe; restore it")  # fmt: skip
        return cls(folder, manifest, read=manifest)

    @property
    def url(self) -> str:
        return self.folder.url

    @property
    def shards(self) -> list[Shard]:
        names = self.folder.names("shards/*.tar")
        return [Shard(self.folder, name.removeprefix("shards/").removesuffix(".tar")) for name in names]

    @property
    def signals(self) -> dict[str, str]:
        """Name -> spec of every signal that was measured."""
        return dict(self.manifest["signals"])

    @property
    def selection(self) -> str | None:
        """The current selection, or None where every row is kept."""
        return self.manifest["selection"]

    @property
    def history(self) -> list[dict[str, Any]]:
        return list(self.manifest["history"])

    def parent_for(self, stage: str, start: str | None = None) -> str | None:
        """The selection that a new run of `stage` starts from: `start` ("all": every row), else the current one, or,
        where `stage` already had a part in it, the one before that, so that a stage run twice replaces its own choice
        instead of narrowing it. Raises CurateError where there is no selection `start`."""
        if start is not None:
            self.check_selection(None if start == EVERYTHING else start)
            return None if start == EVERYTHING else start
        chain, name = [], self.selection
        while name is not None:
            chain.append(name)
            name = self.manifest["selections"][name]["parent"]
        for name in reversed(chain):
            if self.manifest["selections"][name]["stage"] == stage:
                return self.manifest["selections"][name]["parent"]
        return self.selection

    def kept(self, shard: Shard, selection: str | None = None) -> pa.Table | None:
        """uid and weight (> 0) of the rows of a shard that a selection keeps; None means every row, once."""
        if selection is None:
            return None
        self.check_selection(selection)
        name, stage = f"selections/{selection}/{shard.name}.parquet", self.manifest["selections"][selection]["stage"]
        if not self.folder.exists(name):
            raise BadShard(f"{self.url}/{name} is missing: this shard failed or came later; run {stage} again")
        table = self.folder.read_table(name, ["uid", "weight"])
        return table.filter(compute().greater(table["weight"], 0))

    def check_selection(self, name: str | None) -> None:
        """Raises CurateError where there is no such selection."""
        if name is not None and name not in self.manifest["selections"]:
            known = ", ".join(self.manifest["selections"]) or "none yet"
            raise CurateError(f"{self.url} has no selection '{name}'; it has: {known}")

    def measured(self, shard: Shard, signal: str) -> pa.Table:
        """uid and the columns of one signal, in the order of `shard.rows()`. Raises CurateError, BadShard."""
        if signal not in self.signals:
            raise CurateError(f"{self.url} has no signal '{signal}'; run: curate measure {self.url} {signal}")
        return self.folder.read_table(self.table_of(shard, signal))

    def table_of(self, shard: Shard, signal: str) -> str:
        """The name of the file of one signal. Raises BadShard where it is not there."""
        name = f"signals/{signal}/{shard.name}.parquet"
        if not self.folder.exists(name):
            spec = named.called(self.signals[signal], signal)
            raise BadShard(f"{self.url}/{name} is missing; run: curate measure {self.url} '{spec}'")
        return name

    def joined(self, shard: Shard, signals: list[str] | None = None) -> pa.Table:
        """`shard.rows()` with the columns of some signals (all by default) beside them. Raises BadShard."""
        table = shard.rows()
        for signal in self.signals if signals is None else signals:
            columns = self.measured(shard, signal)
            if not columns["uid"].combine_chunks().equals(table["uid"].combine_chunks()):
                raise BadShard(f"{shard}: signals/{signal} was measured on other rows; delete it and measure again")
            for name in columns.column_names:
                if name == "uid":
                    continue
                if name in table.column_names:
                    table = table.drop_columns([name])
                table = table.append_column(name, columns[name])
        return table

    @property
    def gone(self) -> list[Shard]:
        """The shards that the manifest lists and whose tars are not there."""
        names = set(self.manifest["shards"]) - {shard.name for shard in self.shards}
        return [Shard(self.folder, name) for name in sorted(names)]

    def check_tars(self) -> None:
        """Raises CurateError where a tar that the manifest lists is gone."""
        if gone := self.gone:
            raise CurateError(f"{self.url}/{gone[0].tar} is missing ({len(gone):,} of the shards that "
                              f"{MANIFEST} lists); put it back, or take it out of its list 'shards'")  # fmt: skip

    def after(self, stage: str, options: dict[str, Any], summary: str, counts: dict[str, Any] | None = None,
              failures: dict[str, str] | None = None, **changes: Any) -> "Dataset":  # fmt: skip
        """The dataset with one more step in its history and `changes` to its manifest."""
        step = {
            "stage": stage,
            "options": options,
            "counts": counts or {},
            "summary": summary,
            "version": curate.__version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        manifest = {**self.manifest, **changes, "history": [*self.history, step]}
        return replace(self, manifest=manifest, failures={**self.failures, **(failures or {})})

    def with_selection(self, name: str, stage: str, parent: str | None, **facts: Any) -> dict[str, Any]:
        """The manifest changes that make `name` the current selection; hand them to `after`."""
        entry = {"stage": stage, "parent": parent, **facts}
        return {"selections": {**self.manifest["selections"], name: entry}, "selection": name}

    def save(self) -> "Dataset":
        """Write the manifest, whole, with what another command wrote there meanwhile; the dataset itself comes back."""
        manifest = self.manifest
        if self.folder.exists(MANIFEST) and (now := self.folder.read_json(MANIFEST)) != self.read:
            manifest = _merged(self.read, manifest, now)
        manifest = {**manifest, "shards": [shard.name for shard in self.shards]}
        self.folder.write_json(MANIFEST, manifest)
        return replace(self, manifest=manifest, read=manifest)

    @property
    def light(self) -> "Dataset":
        """Without what grows with its shards, so that it travels with every task at little cost."""
        return replace(self, manifest={**self.manifest, "shards": [], "history": []}, failures={}, read=EMPTY)

    def shards_fingerprint(self) -> str:
        """Changes when a shard is added or one of its tars changes size."""
        return fingerprint([[shard.name, shard.folder.size(shard.tar)] for shard in self.shards])


def check_name(name: str) -> None:
    """Raises CurateError for what cannot name a selection."""
    if not re.fullmatch(r"\w[\w.-]*", name) or name == EVERYTHING:
        raise CurateError(f"'{name}' cannot name a selection; use letters, digits, '-', '_' and '.', and not "
                          f"'{EVERYTHING}' alone, which means every row")  # fmt: skip


def _merged(read: dict[str, Any], ours: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A manifest as it is `now`, with what `ours` changed of the one that was `read`."""
    found = {**now, "history": now["history"] + ours["history"][len(read["history"]) :]}
    for name in ("signals", "selections"):
        lost = read[name].keys() - ours[name].keys()
        changed = {key: value for key, value in ours[name].items() if value != read[name].get(key)}
        found[name] = {key: value for key, value in now[name].items() if key not in lost} | changed
    if ours["selection"] != read["selection"]:
        found["selection"] = ours["selection"]
    return found


def _kinds(empty: Any) -> tuple[type, ...]:
    """What a value of the manifest may be, which is `empty` in that of a new dataset."""
    return (str, type(None)) if empty is None else (type(empty),)


def fingerprint(value: Any) -> str:
    """8 hex digits of anything JSON can hold; names selections by what made them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
