"""img2dataset's own downloader, resizer and tar writer, driven for one shard, with our safe fetch injected.

Only this file knows img2dataset. Its process pool and reader stay out: a killed worker's shard would never finish.
"""

import contextlib
import importlib.util
import io
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.harvest.download import samples
from curate.harvest.fetch.fetcher import AGENT, Fetcher, FetchError, Fetches, check_limits
from curate.harvest.pixels.resize import DECODE, Resizer
from curate.harvest.pixels.results import RESULTS
from curate.images import UndecodableImage


def modules(*names: str) -> list[Any]:
    """Modules of img2dataset without its package, which imports ray, wandb, albumentations and torch: 9 CPU seconds and
    0.75 GB that a tar has no use for. Whoever imports img2dataset later gets it whole."""
    found = importlib.util.find_spec("img2dataset")
    if not found or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'img2dataset'", name="img2dataset")
    package = types.ModuleType("img2dataset")
    package.__path__ = list(found.submodule_search_locations)
    alone = {"img2dataset": package, "wandb": types.ModuleType("wandb"), "torch": None}
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in (*alone, "webdataset")}
    for name in before:
        del sys.modules[name]
    sys.modules.update(alone)  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [importlib.import_module(f"img2dataset.{name}") for name in names]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in (*alone, "webdataset")]:
            del sys.modules[name]
        sys.modules.update(before)


downloader, writer = modules("downloader", "writer")


class Downloader:
    """Images with a short side of at most `image_size` pixels as JPEG of `quality`, smaller ones as they are.

    The options are those of the native downloader.
    """

    def __init__(self, image_size: int = 256, quality: int = 95, min_image_size: int = 32, decode: str = DECODE,
                 strict: bool = True, threads: int = 128, per_host: int = 8, timeout: float = 10, deadline: float = 30,
                 retries: int = 1, max_bytes: int = 32 << 20, robots_txt: bool = False, allow_private: bool = False,
                 user_agent: str = AGENT):  # fmt: skip
        check_limits("img2dataset", user_agent, quality, retries, image_size=image_size, threads=threads,
                     per_host=per_host, timeout=timeout, deadline=deadline, max_bytes=max_bytes)  # fmt: skip
        self.fetcher = Fetcher(timeout, deadline, retries, max_bytes, allow_private, user_agent, robots_txt, threads,
                               per_host)  # fmt: skip
        self.resizer = Resizer(image_size, quality, min_image_size, decode, strict)
        # what decides the bytes of an image; how it is fetched does not
        self.made_by = {"downloader": "img2dataset", "image_size": image_size, "quality": quality,
                        "min_image_size": min_image_size, "decode": decode, "strict": strict}  # fmt: skip

    def download(self, name: str, rows: pa.Table, scratch: str) -> tuple[str, pa.Table]:
        """The tar that img2dataset writes into `scratch`, and its rows: the columns RESULTS.

        `rows` holds key (the shard's `name` and a number that counts up from 0), url, caption and what else each
        sample's json shall say. Both come back in the order of completion.
        """
        rows = samples.sayable(rows)
        with pa.OSFile(f"{scratch}/rows", "wb") as file, pa.ipc.new_file(file, rows.schema.remove(0)) as stored:
            stored.write_table(rows.drop_columns(["key"]))
        width = len(rows["key"][0].as_py()) - len(name)
        resize = _Resizer(self.resizer)
        driven = downloader.Downloader(
            sample_writer_class=_writer(resize), resizer=resize,
            thread_count=1, save_caption=True, extract_exif=False, output_folder=scratch,
            column_list=rows.column_names[1:], timeout=None, number_sample_per_shard=10**width,
            oom_shard_count=len(name), compute_hash="sha256", verify_hash_type=None, encode_format="jpg", retries=0,
            user_agent_token=None, disallowed_header_directives=None,
        )  # fmt: skip
        try:
            with self._safe_names(rows["url"].to_pylist()) as names:
                _with_names(downloader.Downloader.download_shard, names)(driven, (int(name), f"{scratch}/rows"))
        except _Unwritten as error:
            raise error.reason from error
        return f"{scratch}/{name}.tar", pq.read_table(f"{scratch}/{name}.parquet", columns=RESULTS.names)

    @contextlib.contextmanager
    def _safe_names(self, urls: list[str]) -> Iterator[dict[str, Any]]:
        """What stands in for three names that `download_shard` looks up: our fetch, and a pool that can be stopped."""
        gates = []

        def semaphore(count: int) -> Any:
            gates.append(downloader.Semaphore(count))
            return gates[-1]

        class Pool(downloader.ThreadPool):  # type: ignore[name-defined, misc]
            def terminate(self) -> None:
                # its feeder waits at the semaphore and would be waited for: an interrupted shard would hang
                for gate in gates:
                    gate.release(len(urls) + 1)
                super().terminate()

        with self.fetcher.fetch(urls) as fetched:
            answers = _answers(urls, fetched)

            def fetch(row: tuple[int, str], **_: Any) -> tuple[int, io.BytesIO | None, str | None]:
                # it is asked for one row and answers with the next that is there, which says its own number
                return next(answers)

            yield {"download_image_with_retry": fetch, "Semaphore": semaphore, "ThreadPool": Pool}


def _answers(urls: list[str], fetched: Fetches) -> Iterator[tuple[int, io.BytesIO | None, str | None]]:
    """As img2dataset wants them: number of the row, body or None, error or None."""
    sharing: dict[str, list[int]] = {}
    for number, url in enumerate(urls):
        sharing.setdefault(url, []).append(number)
    for url, found in fetched:
        for number in sharing[url]:
            if isinstance(found, FetchError):
                yield number, None, found.reason
            else:
                yield number, io.BytesIO(found), None


class _Resizer:
    """Our resizer in the place of img2dataset's: the same pixels where it decodes exactly, in half the time."""

    def __init__(self, resizer: Resizer):
        self.resizer = resizer
        self.told: tuple[Any, ...] = ()  # format, animated, alpha of the image last resized

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: None = None) -> tuple[Any, ...]:
        try:
            jpeg, *sizes, form, animated, alpha = self.resizer(img_stream.getvalue())
        except UndecodableImage as error:
            return None, None, None, None, None, str(error)
        self.told = form, animated, alpha
        return jpeg, *sizes, None


def _writer(resized: _Resizer) -> Any:
    """img2dataset's writer of tars, with our columns: an image is resized and written before the next one is."""

    class Writer(writer.WebDatasetSampleWriter):  # type: ignore[name-defined, misc]
        def __init__(self, number: int, folder: str, caption: bool, digits: int, schema: pa.Schema, form: str):
            super().__init__(number, folder, caption, digits, _columns(schema), form)

        def write(self, jpeg: bytes | None, key: str, caption: str, about: dict[str, Any]) -> None:
            told = resized.told if jpeg is not None else (None,) * len(OURS)
            try:
                super().write(jpeg, key, caption, {**about, **dict(zip(OURS, told, strict=True))})
            except OSError as error:
                self.tarwriter.tarstream.fileobj.closed = True  # else it is flushed once more as it goes
                raise _Unwritten(error) from error

    return Writer


class _Unwritten(BaseException):
    """A full disk, say. No Exception: img2dataset prints each of those, loses the sample and goes on."""

    def __init__(self, reason: OSError):
        self.reason = reason


def _columns(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*schema, *(RESULTS.field(name) for name in OURS)])


OURS = ("format", "animated", "alpha")


def _with_names(function: types.FunctionType, names: dict[str, Any]) -> types.FunctionType:
    """The same function, looking these global names up elsewhere; img2dataset itself stays as it is."""
    return types.FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__)
