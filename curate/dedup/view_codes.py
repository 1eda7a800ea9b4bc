"""The codes of the views of a benchmark's images, measured once and written beside its copy."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import images, named
from curate.dedup import views
from curate.dedup.codes import Comparison
from curate.rows import Rows
from curate.shard import Shard
from curate.work import Report

MADE_BY = {"views": 1, "opencv": cv2.__version__}
SCHEMA = pa.schema([("row", pa.int32()), ("view", pa.string()), ("code", pa.binary())])
Codes = Iterator[tuple[str, bytes]]  # name of the view, its bits or its fp16 vector


@dataclass(frozen=True)
class MeasureViews:
    """Write the codes of every view of the images of one shard, unless they are there already. plain: no parts and
    tilts, which say nothing of a thumbnail."""

    comparisons: tuple[Comparison, ...]
    plain: bool

    def __call__(self, shard: Shard) -> Report:
        made_by = {each.signal: self._made_by(shard, each) for each in self.comparisons}
        todo = [c for c in self.comparisons if shard.folder.made_by(output(shard, c)) != made_by[c.signal]]
        table = shard.rows()
        if not todo:
            return Report(str(shard), len(table), skipped=True)
        found: dict[str, list[tuple[int, str, bytes]]] = {each.signal: [] for each in todo}
        with shard.images() as encoded:
            for row, key in enumerate(table["key"].to_pylist()):
                if (picture := _picture(encoded[key])) is not None:
                    for each in todo:
                        found[each.signal] += [(row, *one) for one in _codes(each, picture, self.plain)]
        for each in todo:
            columns = list(zip(*found[each.signal], strict=True)) or [(), (), ()]
            written = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA)], schema=SCHEMA)
            shard.folder.write_table(output(shard, each), written, made_by[each.signal])
        return Report(str(shard), len(table))

    def _made_by(self, shard: Shard, comparison: Comparison) -> dict[str, Any]:
        measured = shard.folder.made_by(f"signals/{comparison.signal}/{shard.name}.parquet")
        return {**MADE_BY, "plain": self.plain, "signal": measured}


def output(shard: Shard, comparison: Comparison) -> str:
    """Where the codes lie: row of the image in `shard.rows()`, name of the view, bits or fp16 vector."""
    return f"views/{comparison.signal}/{shard.name}.parquet"


def _picture(encoded: bytes) -> np.ndarray | None:
    """The pixels, or None where there is nothing to see in them."""
    try:
        pixels = images.decode(encoded)
    except images.UndecodableImage:
        return None
    return None if Rows.of([pixels]).flat[0] else pixels


def _codes(comparison: Comparison, picture: np.ndarray, plain: bool) -> Codes:
    """All views but the picture as it is, which `measure` has measured."""
    found = views.of_bits(picture) if comparison.kind == "hamming" else views.of_vectors(picture)
    wanted = [view for view in found if not plain or view.name in (views.WHOLE, views.TRIMMED)]
    signal = _signal(comparison.spec)
    if comparison.kind == "hamming" and hasattr(signal, "turned"):
        return _turned(signal, wanted)
    return _measured(signal, comparison, wanted)


def _turned(signal: Any, wanted: list[views.View]) -> Codes:
    for view in wanted:
        codes = signal.turned(view.pixels)
        for turn in view.turns if codes is not None else ():
            if turn or view.name != views.WHOLE:
                yield views.called(view.name, turn), codes[turn].tobytes()


def _measured(signal: Any, comparison: Comparison, wanted: list[views.View]) -> Codes:
    """By any signal that sees pixels: each turn of each view is a picture of its own."""
    each = [(view, turn) for view in wanted for turn in view.turns if turn or view.name != views.WHOLE]
    if not each:
        return
    columns = signal.measure(Rows.of([views.turned(view.pixels, turn) for view, turn in each]))
    plain = named.Spec(named.parse(comparison.spec).name).slug  # columns carry no alias here
    flat = columns.get(f"{plain}_flat")
    noise = [False] * len(each) if flat is None else pc.fill_null(flat, True).to_pylist()
    codes = columns[plain]
    for (view, turn), blank, code in zip(each, noise, codes, strict=True):
        value = code.astype(np.float16).tobytes() if isinstance(codes, np.ndarray) else code.as_py()
        if not blank and value is not None:
            yield views.called(view.name, turn), value


@lru_cache(maxsize=8)
def _signal(spec: str) -> Any:
    return named.load("signals", spec)
