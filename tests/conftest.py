"""Three small drawn shards and the tools to make more: real tars, real parquet, no network."""

import contextlib
import functools
import gc
import importlib
import importlib.util
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image, ImageDraw
from processes import Command

from curate import shard as shards
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.files import Folder
from curate.memory import without_pandas

# as in curate's own processes: 0.7 CPU seconds in each that makes a table
without_pandas()
# a job in the background of a shell ignores Ctrl-C, and so would every command that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
# two test processes, and what they start, on two cores: more threads than cores spin for a quarter of the time
os.environ.setdefault("OMP_NUM_THREADS", "1")
# no example fails because a machine is slow
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

# the files of tests that need torch, and as many others as make both halves alike
FIRST = ("architecture", "compare", "dedup", "evaluate", "gpu", "measure", "models", "signals", "train")

needs_img2dataset = pytest.mark.skipif(not importlib.util.find_spec("img2dataset"),
                                       reason="img2dataset is not installed; it runs up to Python 3.12")  # fmt: skip
DOWNLOADERS = ["native", pytest.param("img2dataset", marks=needs_img2dataset)]
COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "triangle")


def draw(colour: str, shape: str, seed: int = 0, side: int = 64) -> Image.Image:
    """A coloured shape at a random place and size, on a noisy light ground."""
    rng = random.Random(f"{colour} {shape} {seed}")
    noise = np.random.default_rng(rng.randrange(2**32)).integers(215, 255, (8, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    reach = rng.uniform(0.18, 0.35) * side
    x, y = rng.uniform(reach, side - reach), rng.uniform(reach, side - reach)
    box = (x - reach, y - reach, x + reach, y + reach)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}), **options)
    return buffer.getvalue()


@functools.cache
def drawn(colour: str, shape: str, seed: int) -> bytes:
    """What `draw` draws, as a JPEG: most tests begin with the same ones."""
    return encoded(draw(colour, shape, seed))


def pair(index: int) -> dict:
    """One drawn pair: key, url, caption, image."""
    colour, shape = COLOURS[index % len(COLOURS)], SHAPES[index // len(COLOURS) % len(SHAPES)]
    return {
        "key": f"{index:06d}",
        "url": f"http://example.test/{index}.jpg",
        "caption": f"a {colour} {shape} number {index}",
        "image": drawn(colour, shape, index),
    }


def write_shard(folder: Folder, name: str, pairs: list[dict], extension: str = "jpg") -> None:
    """A shard as harvest writes it; more columns of `pairs` go into the parquet."""
    files = []
    for row in pairs:
        files += [(f"{row['key']}.{extension}", row["image"]), (f"{row['key']}.txt", row["caption"].encode())]
    table = pa.Table.from_pylist(
        [{"uid": shards.uid_of(row["url"], row["caption"]), "status": "success"}
         | {key: value for key, value in row.items() if key != "image"} for row in pairs]
    )  # fmt: skip
    stats = {"count": len(pairs), "successes": len(pairs), "failed_to_download": 0, "failed_to_resize": 0}
    shards.write(folder, name, shards.tar_bytes(files), table, stats)


@pytest.fixture
def make_dataset(tmp_path):
    """make_dataset(pairs, per_shard=20, url=None) -> Dataset."""

    def make(pairs: list[dict], per_shard: int = 20, url: str | None = None) -> Dataset:
        url = url or str(tmp_path / "dataset")
        for start in range(0, len(pairs), per_shard):
            write_shard(Folder(url), f"{start // per_shard:05d}", pairs[start : start + per_shard])
        return Dataset.open(url)

    return make


@pytest.fixture
def dataset(make_dataset) -> Dataset:
    """60 distinct drawn pairs in 3 shards."""
    return make_dataset([pair(index) for index in range(60)])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """A web of 40 drawn images on loopback, with the parquet pool and the query list that go with it."""
    pairs = [pair(index) for index in range(40)]
    for row in pairs:
        (tmp_path / f"{row['key']}.jpg").write_bytes(row["image"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{row['key']}.jpg" for row in pairs]
    pq.write_table(pa.table({"url": urls, "text": [row["caption"] for row in pairs]}), tmp_path / "pool.parquet")
    (tmp_path / "queries.txt").write_text("red circle\nsquare\nblue\n")
    yield tmp_path
    server.shutdown()


def pytest_addoption(parser):
    about = "with -n 2 --dist each: the tests of FIRST in one process, all others in the other"
    parser.addoption("--apart", action="store_true", help=about)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: nobody looks for garbage in it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path, config):
    """--apart: a process imports what its own tests need, and no file whose tests are all slow."""
    if not config.getoption("apart") or collection_path.is_dir():
        return None
    first = collection_path.name.removeprefix("test_").startswith(FIRST)
    if os.environ.get("PYTEST_XDIST_WORKER") != ("gw0" if first else "gw1"):
        return True
    all_slow = r"^pytestmark = \[?\s*pytest\.mark\.(slow|gpu|browser)"
    return True if re.search(all_slow, collection_path.read_text(), re.MULTILINE) else None


def pytest_xdist_make_scheduler(config, log):
    """The tests of a file run in one process, and all that need Ray in one, one after the other."""
    if config.getoption("apart"):
        return None
    scheduling = importlib.import_module("xdist.scheduler").LoadFileScheduling

    class Scheduling(scheduling):
        def _split_scope(self, nodeid):
            return "ray" if nodeid.endswith("[ray]") else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_runtest_teardown(item, nextitem):
    """One cluster serves the tests that follow each other: to start one costs 10 CPU seconds."""
    needed = nextitem is not None and nextitem.get_closest_marker("ray")
    if item.get_closest_marker("ray") and not needed and "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="session")
def command_server():
    """command_server(*modules) -> the process that has imported them."""
    script = str(Path(__file__).parent / "command_server.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    started: dict[tuple[str, ...], subprocess.Popen] = {}

    def server(*modules: str) -> subprocess.Popen:
        if modules not in started:
            started[modules] = subprocess.Popen([sys.executable, script, *modules], stdin=subprocess.PIPE,
                                                stdout=subprocess.PIPE, text=True, env=environment)  # fmt: skip
        return started[modules]

    yield server
    for process in started.values():
        process.communicate()  # it ends with its stdin


@pytest.fixture
def start(command_server, tmp_path):
    """start("train-clip", ...) -> Command; `largest_file` in bytes, another `module` than curate.cli. `killed_once`: a
    pattern of files, once there is one it is killed with all that it has started; see killed_once/."""
    numbers = itertools.count()
    trains = ("curate.train", "ranks_run", "torch._dynamo")  # the compiler, for which every optimizer asks
    others = ("curate.harvest", "curate.dedup", "curate.filter")  # without torch, beside which they fork otherwise

    def started(*arguments: str, environment: dict[str, str] | None = None, largest_file: int | None = None,
                module: str = "curate.cli", killed_once: str = "") -> Command:  # fmt: skip
        folder = tmp_path / f"command-{next(numbers)}"
        folder.mkdir()
        modules = trains if "train-clip" in arguments or module == "ranks_run" else others
        return Command(command_server(*modules), folder, list(arguments), environment=environment or {},
                       largest_file=largest_file, module=module, killed_once=killed_once)  # fmt: skip

    return started


@pytest.fixture
def start_together(start):
    """start_together(2, "train-clip", ...) -> a Command for each rank, as torchrun starts them."""

    with socket.socket() as place:
        # taken, so that no other process is given it, and the first rank may listen there all the same
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(place.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}

        def started(size: int, *arguments: str, module: str = "curate.cli",
                    environment: dict[str, str] | None = None) -> list[Command]:  # fmt: skip
            sizes = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
            return [start(*arguments, module=module, environment={
                        **shared, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank), **(environment or {})})
                    for rank in range(size)]  # fmt: skip

        yield started


@pytest.fixture
def few_open_files():
    """with few_open_files(40): no more files than so many can be opened at once (a system's default is 1,024)."""

    @contextlib.contextmanager
    def limited(more: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = set(map(int, os.listdir("/proc/self/fd")))
        free = (number for number in itertools.count() if number not in used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return limited


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run folder with drawn weights of the smallest model."""
    torch, models = importlib.import_module("torch"), importlib.import_module("curate.clip.models")
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = find_config("ViT-Test-32")[1]
    torch.save(models.build(config).state_dict(), folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
