"""Pairs whose download failed for a reason that may have passed, to be offered once more."""

import collections
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate import ranges
from curate.files import Folder
from curate.harvest.choose.matches import WEB
from curate.harvest.choose.select import placed
from curate.harvest.choose.uids import hashes
from curate.harvest.download.groups import Group
from curate.harvest.download.reasons import passing
from curate.shard import SUCCESS, Shard
from curate.work import Number, Report

COLUMNS = ["uid", "url", "caption", "queries", "selected_by", "status", "error_message"]


@dataclass(frozen=True)
class Failed:
    """Write the pairs of a group of shards to be offered again, as shards read them, and count their reasons."""

    folder: Folder
    place: str

    def __call__(self, group: Group) -> Report:
        name, made_by = again_of(self.place, group), {"shards": list(group.names)}
        done = ranges.made_by(self.folder, name) or {}
        if done.get("shards") == made_by["shards"]:
            return Report(str(group), done["pairs"], done["reasons"], skipped=True)
        table = pa.concat_tables(self._failed(shard) for shard in group.names)
        reasons: dict[str, Number] = dict(sorted(collections.Counter(table["error_message"].to_pylist()).items()))
        nowhere = {name: pa.repeat(pa.scalar(WEB, kind), len(table))
                   for name, kind in (("part", pa.int32()), ("row", pa.int64()))}  # fmt: skip
        again = {"uid": table["uid"], "url": table["url"], "text": table["caption"], "queries": table["queries"],
                 "selected_by": table["selected_by"], **nowhere}  # fmt: skip
        again = placed(pa.table({"place": hashes(table["url"]), **again}))
        ranges.write(self.folder, name, again, "place", {**made_by, "pairs": len(again), "reasons": reasons})
        return Report(str(group), len(again), reasons)

    def _failed(self, name: str) -> pa.Table:
        table = self.folder.read_table(Shard(self.folder, name).parquet, COLUMNS)
        failed = pc.not_equal(table["status"], SUCCESS)
        worth = [reason for reason in pc.unique(table["error_message"]).to_pylist() if passing(reason)]
        return table.filter(pc.and_(failed, pc.is_in(table["error_message"], pa.array(worth, pa.string()))))


def again_of(place: str, group: Group) -> str:
    return f"{place}/kept/{group.name}.arrow"
