"""Three small drawn shards and the tools to make more: real tars, real parquet, no network."""

import contextlib
import importlib
import io
import itertools
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from curate import shard as shards
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.files import Folder

# a job in the background of a shell ignores Ctrl-C, and so would every command that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
# two test processes, and what they start, on two cores: more threads than cores spin for a quarter of the time
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def pair(index: int) -> dict:
    """One drawn pair: key, url, caption, image."""
    colour, shape = COLOURS[index % len(COLOURS)], SHAPES[index // len(COLOURS) % len(SHAPES)]
    return {
        "key": f"{index:06d}",
        "url": f"http://example.test/{index}.jpg",
        "caption": f"a {colour} {shape} number {index}",
        "image": encoded(draw(colour, shape, index)),
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


def pytest_xdist_make_scheduler(config, log):
    """The tests of a file run in one process, and all that need Ray in one, one after the other."""
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


class Command:
    """A command that runs as a process and a session of its own; see command_server."""

    def __init__(self, server: subprocess.Popen, folder: Path, arguments: list[str], **how: Any):
        self.server, self.out, self.errors = server, folder / "out", folder / "errors"
        self.pid = self._ask({"run": arguments, "out": str(self.out), "errors": str(self.errors), **how})

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), once it has ended."""
        return self._ask({"wait": self.pid}), self.out.read_text(), self.errors.read_text()

    def runs(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Until something has happened; the command must still run then."""
        deadline = time.monotonic() + 60
        while self.runs() and not happened():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert self.runs(), self.ended()

    def send_all(self, number: int) -> None:
        """To the command and all that it has started, as a terminal does."""
        os.killpg(self.pid, number)

    def kill_when(self, happened: Callable[[], object]) -> None:
        """Kill it, with all that it has started, once something has happened."""
        self.wait_for(happened)
        self.send_all(signal.SIGKILL)
        self.ended()

    def _ask(self, what: dict) -> int:
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


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
    """start("train-clip", ...) -> Command; `largest_file` in bytes, another `module` than curate.cli."""
    numbers = itertools.count()
    trains = ("curate.train", "ranks_run", "torch._dynamo")  # the compiler, for which every optimizer asks
    others = ("curate.harvest", "curate.dedup", "curate.filter")  # without torch, beside which they fork otherwise

    def started(*arguments: str, environment: dict[str, str] | None = None, largest_file: int | None = None,
                module: str = "curate.cli") -> Command:  # fmt: skip
        folder = tmp_path / f"command-{next(numbers)}"
        folder.mkdir()
        modules = trains if "train-clip" in arguments or module == "ranks_run" else others
        return Command(command_server(*modules), folder, list(arguments), environment=environment or {},
                       largest_file=largest_file, module=module)  # fmt: skip

    return started


@pytest.fixture
def start_together(start):
    """start_together(2, "train-clip", ...) -> a Command for each rank, as torchrun starts them."""

    def started(size: int, *arguments: str, module: str = "curate.cli") -> list[Command]:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = str(place.getsockname()[1])
        shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
        return [start(*arguments, environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, module=module)
                for rank in range(size)]  # fmt: skip

    return started


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


def workers_of(driver: int) -> list[int]:
    """The worker processes of a driver on Linux: what was forked from the server among its children."""
    servers = [child for child in _children(driver) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return [worker for server in servers for worker in _children(server)]


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
