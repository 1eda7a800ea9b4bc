"""curate's own downloader: libcurl in one thread fetches, the other shrinks and writes; runs wherever curate does."""

from typing import Any

import pyarrow as pa

from curate.harvest.download import samples
from curate.harvest.fetch.fetcher import AGENT, Fetcher, FetchError, check_limits
from curate.harvest.pixels.resize import DECODE, Resizer
from curate.harvest.pixels.results import RESULTS


class Downloader:
    """Images with a short side of at most `image_size` pixels as JPEG of `quality`, smaller ones as they are.

    `min_image_size`: the shortest side taken. `decode` (exact, balanced or fast) and `strict` as in
    curate.harvest.pixels.resize. `threads`: urls fetched at a time, `per_host` of one server. `timeout`: seconds to
    look up a name, to connect, and to be slower than 1 kB/s. `deadline`: seconds for one url with its redirects and
    retries. `retries`: of what may pass. `max_bytes` of an image. `robots_txt`: also ask each server's robots.txt.
    `allow_private`: also dial loopback and private addresses.
    """

    def __init__(self, image_size: int = 256, quality: int = 95, min_image_size: int = 32, decode: str = DECODE,
                 strict: bool = True, threads: int = 128, per_host: int = 8, timeout: float = 10, deadline: float = 30,
                 retries: int = 1, max_bytes: int = 32 << 20, robots_txt: bool = False, allow_private: bool = False,
                 user_agent: str = AGENT):  # fmt: skip
        check_limits("native", user_agent, quality, retries, image_size=image_size, threads=threads,
                     per_host=per_host, timeout=timeout, deadline=deadline, max_bytes=max_bytes)  # fmt: skip
        self.fetcher = Fetcher(timeout, deadline, retries, max_bytes, allow_private, user_agent, robots_txt, threads,
                               per_host)  # fmt: skip
        self.resizer = Resizer(image_size, quality, min_image_size, decode, strict)
        self.made_by = {"downloader": "native", "image_size": image_size, "quality": quality,
                        "min_image_size": min_image_size, "decode": decode, "strict": strict}  # fmt: skip

    def download(self, name: str, rows: pa.Table, scratch: str) -> tuple[str, pa.Table]:
        """A tar in `scratch`, and its rows: the columns RESULTS; in the order of completion.

        A url that several rows share is fetched and shrunk once.
        """
        sharing: dict[str, list[dict[str, Any]]] = {}
        for pair in samples.sayable(rows).to_pylist():
            sharing.setdefault(pair["url"], []).append(pair)
        done = []
        path = f"{scratch}/{name}.tar"
        with samples.archive(path) as archive, self.fetcher.fetch(sharing) as fetched:
            for url, found in fetched:
                result, jpeg = self._result(found)
                for pair in sharing.pop(url):
                    done.append({"key": pair["key"], **result})
                    if jpeg is not None:
                        samples.add(archive, pair, result, jpeg)
        return path, pa.Table.from_pylist(done, RESULTS)

    def _result(self, found: bytes | FetchError) -> tuple[dict[str, Any], bytes | None]:
        if isinstance(found, FetchError):
            return {"status": "failed_to_download", "error_message": found.reason}, None
        return samples.result_of(found, self.resizer)
