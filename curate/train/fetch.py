"""Tars of a store, on this machine while they are read: those of the window that is trained on, and of the next."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from curate.errors import BadShard, CurateError
from curate.train import index
from curate.train.index import Index
from curate.train.order import Mixture

AT_ONCE = 8  # tars fetched at a time
Window = tuple[int, tuple[int, int]]  # stream, (epoch, window)


class Fetcher:
    """Copies tars into the index's cache ahead of their use and removes those that no window needs, so that at most
    `space` bytes of them lie there. Does nothing for tars of this machine."""

    def __init__(self, pairs: Index, order: Mixture, space: float):
        self.pairs, self.order, self.space = pairs, order, space
        self.remote = {number for number, part in enumerate(pairs.parts) if not part.shard.folder.is_local}
        self.fetched: dict[int, Future[None]] = {}  # by shard
        self.left: dict[Window, int] = {}  # window -> place after which it is over

    def __enter__(self) -> "Fetcher":
        self.pool = ThreadPoolExecutor(AT_ONCE, "fetch")
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.fetched.clear()

    def ready(self, used: int, first: int, end: int) -> None:
        """Every tar of places `first` to `end` - 1 is here; the next window's are on their way, and those of places
        before `used` may go. Raises CurateError where one cannot be had, or the space is too small for a window."""
        if not self.remote:
            return
        for number, (_, inner) in self.order.split(np.arange(first, end)).items():
            for window in sorted(set(self.order.streams[number].windows(inner))):
                self.left[number, window] = end
        self.left = {window: last for window, last in self.left.items() if last > used}
        needed = {shard for window in self.left for shard in self._shards(window)}
        self._check(needed)
        ahead = [shard for window in list(self.left) for shard in self._shards(self._after(window))]
        for shard in set(self.fetched) - needed - set(ahead):
            self._drop(shard)
        for shard in sorted(needed):
            self._fetch(shard)
        room = self.space - sum(self.pairs.parts[shard].size for shard in self.fetched)
        for shard in ahead:
            size = self.pairs.parts[shard].size
            if shard not in self.fetched and size <= room:
                room -= size
                self._fetch(shard)
        for shard in needed:
            try:
                self.fetched[shard].result()
            except (OSError, BadShard) as error:
                raise CurateError(f"{self.pairs.parts[shard]} cannot be fetched any more: {error}; put it back, then "
                                  "the same command goes on from the last checkpoint") from error  # fmt: skip

    def _shards(self, window: Window) -> list[int]:
        return [shard for shard in self.order.shards(*window) if shard in self.remote]

    def _after(self, window: Window) -> Window:
        number, (epoch, at) = window
        stream = self.order.streams[number]
        last = stream.span(epoch, at)[1] == (epoch + 1) * stream.size
        return number, ((epoch + 1, 0) if last else (epoch, at + 1))

    def _fetch(self, shard: int) -> None:
        if shard not in self.fetched:
            self.fetched[shard] = self.pool.submit(self._copy, shard)

    def _copy(self, shard: int) -> None:
        part, cache = self.pairs.parts[shard], self.pairs.cache
        name = f"{part.name}.tar"
        if not cache.exists(name):
            with cache.writing(name) as temporary:
                part.shard.folder.fs.get_file(part.shard.folder.path(part.shard.tar), temporary)
        if not cache.exists(f"{part.name}.npy"):
            index.locate(part, index.keys(part, cache), cache, cache.path(name))

    def _drop(self, shard: int) -> None:
        self.fetched.pop(shard).cancel()
        self.pairs.cache.remove(f"{self.pairs.parts[shard].name}.tar")

    def _check(self, needed: set[int]) -> None:
        size = sum(self.pairs.parts[shard].size for shard in needed)
        if size > self.space:
            raise CurateError(f"the {len(needed):,} tars shuffled together hold {size / 1e9:,.1f} GB, --cache-size is "
                              f"{self.space / 1e9:,.1f} GB; raise it, or lower --shuffle")  # fmt: skip
