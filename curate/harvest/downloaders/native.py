"""curate's own downloader: threads that fetch safely, one that shrinks and writes; runs wherever curate does."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa

from curate.harvest import samples
from curate.harvest.fetch import AGENT, Fetcher, FetchError, check_limits
from curate.harvest.once import Once
from curate.harvest.resize import DECODE, RESULTS, Resizer

WAITING = 2  # fetched images held for each thread: bounds the memory


class Downloader:
    """Images with a short side of at most `image_size` pixels as JPEG of `quality`, smaller ones as they are.

    The options and the pixels are those of the img2dataset downloader.
    """

    def __init__(self, image_size: int = 256, quality: int = 95, min_image_size: int = 32, decode: str = DECODE,
                 strict: bool = True, threads: int = 32, timeout: float = 10, deadline: float = 30, retries: int = 0,
                 max_bytes: int = 32 << 20, allow_private: bool = False, user_agent: str = AGENT):  # fmt: skip
        check_limits("native", image_size=image_size, threads=threads, timeout=timeout, deadline=deadline,
                     max_bytes=max_bytes)  # fmt: skip
        self.threads = threads
        self.fetcher = Fetcher(timeout, deadline, retries, max_bytes, allow_private, user_agent)
        self.resizer = Resizer(image_size, quality, min_image_size, decode, strict)
        self.made_by = {"downloader": "native", "image_size": image_size, "quality": quality,
                        "min_image_size": min_image_size, "decode": decode, "strict": strict}  # fmt: skip

    def download(self, name: str, rows: pa.Table, scratch: str) -> tuple[str, pa.Table]:
        """A tar in `scratch`, and its rows: the columns RESULTS; in the order of completion."""
        pairs = rows.to_pylist()
        done = []
        path = f"{scratch}/{name}.tar"
        with samples.archive(path) as archive:
            for pair, fetched in self._fetched(pairs):
                result, jpeg = self._result(fetched)
                done.append({"key": pair["key"], **result})
                if jpeg is not None:
                    samples.add(archive, pair, result, jpeg)
        return path, pa.Table.from_pylist(done, RESULTS)

    def _fetched(self, pairs: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Future[bytes]]]:
        once = Once(self.fetcher.fetch, [pair["url"] for pair in pairs])
        queue = iter(pairs)
        running: dict[Future[bytes], dict[str, Any]] = {}
        pool = ThreadPoolExecutor(min(self.threads, len(pairs)))
        try:
            while True:
                while len(running) < WAITING * self.threads and (pair := next(queue, None)):
                    running[pool.submit(once, pair["url"])] = pair
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, fetched: Future[bytes]) -> tuple[dict[str, Any], bytes | None]:
        try:
            return samples.result_of(fetched.result(), self.resizer)
        except FetchError as error:
            return {"status": "failed_to_download", "error_message": error.reason}, None
