"""Which vectors of a pool are whitened, and by what: fitted once on a sample of its images, then read by every task."""

import importlib
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import xxhash

from curate.dataset import fingerprint
from curate.dedup.firsts import distinct
from curate.dedup.pool import Column, Pool
from curate.dedup.whiten import FIT_ON, LEAST, Whitening, read
from curate.work import Engine

THRESHOLD = 0.8  # of cosine similarity after whitening: 2 of 13.9 million pairs of unlike photographs reach it


def whiten_pool(pool: Pool, wanted: bool | None, given: Collection[str],
                engine: str | Engine) -> tuple[Pool, dict[str, Whitening]]:  # fmt: skip
    """The pool with the threshold of whitened vectors, unless one is `given`, and the whitening of each signal.

    wanted: None whitens where there are at least LEAST distinct images to fit on.
    """
    found, columns = {}, []
    for codes in pool.codes:
        if codes.comparison.kind == "cosine" and wanted is not False:
            folder = pool.dataset.folder.within(f"{pool.source}/{codes.comparison.signal}")
            rows = distinct(pool, codes, FIT_ON, folder, engine)
            if len(rows) > 1 and (wanted or len(rows) >= LEAST):
                found[codes.comparison.signal] = _fitted(pool, codes, rows)
                if codes.comparison.signal not in given:
                    codes = replace(codes, comparison=replace(codes.comparison, threshold=THRESHOLD))
        columns.append(codes)
    return replace(pool, codes=columns), found


def _fitted(pool: Pool, column: Column, rows: np.ndarray) -> Whitening:
    """Read where it was fitted before on the same vectors."""
    comparison, state = column.comparison, xxhash.xxh3_64(pool.ranking.take(rows, column.values).tobytes())
    name = f"reports/whitening-{comparison.signal}-{fingerprint([comparison.spec, state.hexdigest()])}.npy"
    folder = pool.dataset.folder
    if not folder.exists(name):
        fit = importlib.import_module("curate.dedup.whiten_fit").fit  # torch: only where it is needed
        fit(pool.vectors(comparison, rows)).write(folder, name)
    return read(folder, name)
