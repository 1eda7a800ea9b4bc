"""Images from urls to a shard: curate's downloaders against img2dataset as it is shipped, CPU time, wall and memory.

    pip install img2dataset==1.47.0 scikit-image scikit-learn cryptography     # on Python 3.11 or 3.12
    python benchmarks/download_vs_img2dataset.py                               # takes nginx where there is one

Every contestant is a process of its own that gets the same shard again and again, in turn, so that a busy machine slows
all alike; what counts is the CPU time of that process, and the server is another one. img2dataset runs its own
`download_shard` with its own resizer and urllib. Images: crops and panels of the photographs that scikit-image and
scikit-learn ship, with mild noise; https verifies a certificate of an authority made here, added to the system's own.
"""

import argparse
import contextlib
import datetime
import getpass
import hashlib
import http.server
import importlib
import io
import ipaddress
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

RESULT = Path(__file__).parent / "results" / "download_vs_img2dataset.json"
SIZES = [(320, 240), (480, 360), (640, 480), (800, 600), (1024, 768), (1200, 900), (1600, 1200), (2400, 1800)]
SIZES_SHARE = [12, 12, 18, 18, 18, 12, 7, 3]
KINDS = {"jpeg": 70, "progressive": 12, "444": 4, "png": 7, "webp": 7}
STOCK = "img2dataset 1.47, stock"
DECODE = ("exact", "balanced", "fast")
CURATE = {**{f"native, {decode}": ("native", decode) for decode in DECODE},
          "img2dataset, balanced": ("img2dataset", "balanced")}  # fmt: skip
THREADS = 32
PATIENCE, RETRIES = 30, 3  # seconds for a server that a busy machine keeps waiting, and further tries: of all alike
ATTEMPTS = 3  # at a shard in which images are missing all the same; only a whole one counts
TOGETHER = 4  # workers whose memory is looked at together
PACKAGES = ("img2dataset", "albumentations", "opencv-python-headless", "simplejpeg", "pillow", "pycurl", "pyarrow")


# the images


def photographs() -> list[Any]:
    import skimage
    import sklearn
    from PIL import Image

    data = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg",
             "ihc.png", "retina.jpg")  # fmt: skip
    more = Path(sklearn.__file__).parent / "datasets/images"
    return [Image.open(path).convert("RGB") for path in [*(data / name for name in names), *more.glob("*.jpg")]]


def picture(photos: list[Any], size: tuple[int, int], rng: random.Random) -> Any:
    """A crop, or where no photograph is that large a panel of crops, with noise of 1 grey level."""
    import numpy as np
    from PIL import Image, ImageOps

    panel = Image.new("RGB", size)
    cell = (min(size[0], 420), min(size[1], 300))
    for x in range(0, size[0], cell[0]):
        for y in range(0, size[1], cell[1]):
            photo = rng.choice([photo for photo in photos if photo.width >= cell[0] and photo.height >= cell[1]])
            left, top = rng.randint(0, photo.width - cell[0]), rng.randint(0, photo.height - cell[1])
            crop = photo.crop((left, top, left + cell[0], top + cell[1]))
            panel.paste(ImageOps.mirror(crop) if rng.random() < 0.5 else crop, (x, y))
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 1, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(panel) + noise).clip(0, 255).astype(np.uint8))


def draw(folder: Path, count: int, seed: int) -> dict[str, list[str]]:
    """`uni`: 1024 x 768 JPEG of quality 85. `mix`: sizes and formats as they come on the web. Names by set."""
    photos, rng = photographs(), random.Random(seed)
    names: dict[str, list[str]] = {"uni": [], "mix": []}
    for number in range(count):
        size = rng.choices(SIZES, SIZES_SHARE)[0]
        size = size if rng.random() < 0.7 else size[::-1]
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        for name, shape, form in (("uni", (1024, 768), "jpeg"), ("mix", size, kind)):
            ending = form if form in ("png", "webp") else "jpg"
            names[name].append(f"{name}/{number}.{ending}")
            (folder / name).mkdir(exist_ok=True)
            save(picture(photos, shape, rng), form, folder / names[name][-1])
    return names


def save(image: Any, form: str, path: Path) -> None:
    options = {
        "jpeg": {"quality": 85}, "progressive": {"quality": 85, "progressive": True},
        "444": {"quality": 90, "subsampling": 0}, "png": {"compress_level": 6}, "webp": {"quality": 80, "method": 2},
    }  # fmt: skip
    image.save(path, **options[form])


# the server


def authority(folder: Path) -> None:
    """A certificate of 127.0.0.1 (ECDSA P-256) and a bundle of the system's authorities and the one that signed it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def key(name: str) -> Any:
        made = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
        (folder / name).write_bytes(made.private_bytes(serialization.Encoding.PEM, plain[1], plain[0]))
        return made

    def certificate(name: str, own: Any, issuer: Any, signer: Any, *extensions: Any) -> Any:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject if issuer else subject)
            .public_key(own.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30))
        )  # fmt: skip
        for extension in extensions:
            made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return made.sign(signer, hashes.SHA256())

    root_key, leaf_key = key("root.key"), key("leaf.key")
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = certificate("curate benchmark", root_key, None, root_key, x509.BasicConstraints(True, None), root_id)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    known = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id)
    leaf = certificate("localhost", leaf_key, root, root_key, x509.BasicConstraints(False, None), names, known)
    pem = serialization.Encoding.PEM
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    system = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    (folder / "bundle.pem").write_bytes(Path(system).read_bytes() + b"\n" + root.public_bytes(pem))


NGINX = """
{user}
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{http}; root {root}; }}
  server {{ listen 127.0.0.1:{https} ssl; root {root};
           ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key; ssl_protocols TLSv1.2 TLSv1.3; }}
}}
"""


class Files(http.server.SimpleHTTPRequestHandler):
    """The fallback where there is no nginx."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def serve_files(root: str, folder: str, ports: dict[str, int]) -> None:
    os.chdir(root)
    for scheme, port in ports.items():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Files)
        if scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{folder}/leaf.pem", f"{folder}/leaf.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def serving(root: Path, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Name of the server and the start of its urls by scheme."""
    ports = {"http": free_port(), "https": free_port()}
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if nginx:
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder, root=root, **ports))
        process: Any = subprocess.Popen([nginx, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])
    else:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=serve_files, args=(str(root), str(folder), ports), daemon=True)
        process.start()
    try:
        for port in ports.values():
            await_port(port)
        yield nginx_version(nginx), {scheme: f"{scheme}://127.0.0.1:{port}" for scheme, port in ports.items()}
    finally:
        process.terminate()
        process.wait() if nginx else process.join()


def await_port(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit("the server does not start")


def nginx_version(nginx: str | None) -> str:
    if not nginx:
        return "http.server of Python (no nginx found)"
    return subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.strip().rsplit(": ", 1)[-1]


# the contestants, each in a process of its own


def contestant(name: str) -> Any:
    """download(number, urls, scratch) -> how many images came, the path of the tar."""
    if name != STOCK:
        return curate_contestant(*CURATE[name])
    downloader = importlib.import_module("img2dataset.downloader")
    resizer = importlib.import_module("img2dataset.resizer")
    writer = importlib.import_module("img2dataset.writer")

    def download(number: int, urls: list[str], scratch: str) -> tuple[int, str]:
        table = pa.table({"url": urls, "caption": [f"number {at}" for at in range(len(urls))]})
        with pa.OSFile(f"{scratch}/rows", "wb") as file, pa.ipc.new_file(file, table.schema) as stored:
            stored.write_table(table)
        driven = downloader.Downloader(
            sample_writer_class=writer.WebDatasetSampleWriter,
            resizer=resizer.Resizer(256, "keep_ratio", True, encode_quality=95),
            thread_count=THREADS, save_caption=True, extract_exif=False, output_folder=scratch,
            column_list=["url", "caption"], timeout=PATIENCE, number_sample_per_shard=10_000, oom_shard_count=5,
            compute_hash="sha256", verify_hash_type=None, encode_format="jpg", retries=RETRIES, user_agent_token=None,
            disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
        )  # fmt: skip
        driven.download_shard((number, f"{scratch}/rows"))
        return json.loads(Path(f"{scratch}/{number:05d}_stats.json").read_text())[
            "successes"
        ], f"{scratch}/{number:05d}.tar"

    return download


def curate_contestant(name: str, decode: str) -> Any:
    importlib.import_module("curate.memory").without_pandas()  # as every process of curate's own
    cls = importlib.import_module(f"curate.harvest.downloaders.{name}").Downloader
    driven = cls(decode=decode, threads=THREADS, per_host=THREADS, allow_private=True, timeout=PATIENCE,
                 deadline=4 * PATIENCE, retries=RETRIES)  # fmt: skip

    def download(number: int, urls: list[str], scratch: str) -> tuple[int, str]:
        keys = [f"{number:05d}{at:04d}" for at in range(len(urls))]
        texts = [f"number {at}" for at in range(len(urls))]
        path, results = driven.download(
            f"{number:05d}", pa.table({"key": keys, "url": urls, "caption": texts}), scratch
        )
        return sum(status == "success" for status in results["status"].to_pylist()), path

    return download


def work(name: str, pipe: Any) -> None:
    """One contestant: takes a shard, says CPU seconds, wall seconds and images, until there is no more."""
    with contextlib.redirect_stdout(io.StringIO()):
        download = contestant(name)
    pipe.send("ready")
    while job := pipe.recv():
        number, urls, keep = job
        with tempfile.TemporaryDirectory() as scratch:
            before, start = cpu(), time.perf_counter()
            came, path = download(number, urls, scratch)
            pipe.send((cpu() - before, time.perf_counter() - start, came))
            if keep:
                shutil.copy(path, keep)
            pipe.send("kept")


def cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Worker:
    """The other end of `work`."""

    def __init__(self, name: str):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(name, other), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def run(self, urls: list[str], keep: str = "") -> tuple[float, float]:
        """CPU and wall seconds of one whole shard. Ends the benchmark where images are missing each time."""
        for _ in range(ATTEMPTS):
            self.start(urls, keep)
            *seconds, came = self.result()
            if came == len(urls):
                return seconds[0], seconds[1]
            print(f"{self.name}: {came} of {len(urls)} images came", file=sys.stderr)
        raise SystemExit(f"{self.name}: images are missing in each of {ATTEMPTS} attempts")

    def start(self, urls: list[str], keep: str = "") -> None:
        self.pipe.send((0, urls, keep))

    def result(self) -> tuple[float, float, int]:
        found = self.pipe.recv()
        self.pipe.recv()
        return found

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def compared_in_turn(names: list[str], cells: dict[str, list[str]], rounds: int, outputs: Path,
                     alone: bool = True) -> dict[str, Any]:  # fmt: skip
    """CPU and wall milliseconds an image, one list of rounds by cell and contestant.

    A process gets one cell `alone`, or all of them in turn: larger images then have grown its heap, which spares it the
    page faults of the smaller ones.
    """
    found: dict[str, Any] = {cell: {name: [] for name in names} for cell in cells}
    for group in [[cell] for cell in cells] if alone else [list(cells)]:
        workers = {name: Worker(name) for name in names}
        for cell in group:  # the first shard also pays for what is made once
            urls = cells[cell][:20] if cell.startswith("https") else cells[cell]
            for name, worker in workers.items():
                worker.run(urls, str(outputs / f"{cell} {name}.tar"))
        for number in range(rounds):
            for cell in group:
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    seconds = workers[name].run(cells[cell])
                    found[cell][name].append(tuple(1000 * value / len(cells[cell]) for value in seconds))
        for worker in workers.values():
            worker.end()
    return found


def heaps(cells: dict[str, list[str]], rounds: int, outputs: Path) -> dict[str, Any]:
    """CPU over http of processes that get one set each, and of processes that get both in turn."""
    names = [STOCK, "native, balanced", "native, fast"]
    over_http = {cell: urls for cell, urls in cells.items() if cell.startswith("http ")}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "load": round(os.getloadavg()[0], 1)},
        "rounds": rounds,
        "images": len(cells["http uni"]),
        **{
            said: summarised(compared_in_turn(names, over_http, rounds, outputs, alone))
            for said, alone in (("one set a process", True), ("both sets in one process", False))
        },
    }


def pixel_difference(names: list[str], outputs: Path) -> dict[str, Any]:
    """Of every contestant to img2dataset: files that are equal to the byte, and the mean difference of 255 levels."""
    found = {}
    for kind in ("uni", "mix"):
        wanted = images_of(outputs / f"http {kind} {STOCK}.tar")
        for name in names:
            if name == STOCK:
                continue
            ours = images_of(outputs / f"http {kind} {name}.tar")
            assert sorted(ours) == sorted(wanted)
            equal = sum(ours[key] == wanted[key] for key in wanted)
            levels = [difference(ours[key], wanted[key]) for key in wanted]
            found.setdefault(name, {})[kind] = {
                "equal_files": equal, "of": len(wanted), "mean_difference": round(statistics.mean(levels), 3),
                "most": round(max(levels), 3)}  # fmt: skip
    return found


def images_of(path: Path) -> dict[str, bytes]:
    import tarfile

    with tarfile.open(path) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")]
        return {member.name: archive.extractfile(member).read() for member in members}


def difference(one: bytes, other: bytes) -> float:
    import numpy as np
    from PIL import Image

    first, second = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0


def memory(name: str, urls: list[str], workers: int) -> dict[str, float]:
    """Peak of one of so many workers at once, which share their libraries, MB.

    PSS as sampled every 20 ms, RSS as the system counted it.
    """
    crew = [Worker(name) for _ in range(workers)]
    most, stop, process = [0.0], threading.Event(), Path(f"/proc/{crew[0].process.pid}")

    def watch() -> None:
        while not stop.wait(0.02):
            lines = (process / "smaps_rollup").read_text().splitlines()
            most.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)

    for worker in crew:
        worker.run(urls)
    watcher = threading.Thread(target=watch)
    watcher.start()
    for worker in crew:
        worker.start(urls)
    for worker in crew:
        worker.result()
    stop.set()
    watcher.join()
    status = (process / "status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    for worker in crew:
        worker.end()
    return {"pss": round(max(most)), "rss": round(peak / 1024)}


# whole commands

WHOLE_STOCK = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(sys.argv[1], 256, sys.argv[2], 2, "keep_ratio", True, output_format="webdataset", input_format="parquet",
             url_col="url", caption_col="caption", thread_count=int(sys.argv[3]),
             number_sample_per_shard=int(sys.argv[4]), extract_exif=False, timeout=int(sys.argv[5]),
             retries=int(sys.argv[6]))
"""


def whole(kind: str, urls: list[str], folder: Path) -> dict[str, float]:
    """CPU of the whole process tree and wall seconds of one command with two workers and four shards."""
    size = len(urls) // 4
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    texts = [f"a picture number {at}" for at in range(len(urls))]
    pq.write_table(pa.table({"url": urls, "caption": texts}), folder / "pool.parquet")
    (folder / "queries.txt").write_text("picture\n")
    if kind == STOCK:
        # a file, not -c: its worker processes start by importing it
        (folder / "stock.py").write_text(WHOLE_STOCK)
        command = [sys.executable, f"{folder}/stock.py", f"{folder}/pool.parquet", f"{folder}/out", str(THREADS),
                   str(size), str(PATIENCE), str(RETRIES)]  # fmt: skip
    else:
        name, decode = CURATE[kind]
        spec = (f"{name}(decode={decode}, threads={THREADS}, per_host={THREADS}, timeout={PATIENCE}, "
                f"deadline={4 * PATIENCE}, retries={RETRIES})")  # fmt: skip
        command = [sys.executable, "-m", "curate.cli", "harvest", f"{folder}/pool.parquet", "--queries",
                   f"{folder}/queries.txt", "--cap", str(len(urls)), "--out", f"{folder}/out", "--downloader", spec,
                   "--allow-private", "--shard-size", str(size), "--engine", "local(workers=2)", "-q"]  # fmt: skip
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        found = {}
        watcher = threading.Thread(target=lambda: found.update(watched(process)))
        watcher.start()
        said = process.communicate()[1]
        watcher.join()
    wall = time.perf_counter() - start
    came = sum(json.loads(path.read_text())["successes"] for path in (folder / "out").rglob("*_stats.json"))
    if process.returncode or came != len(urls):
        raise SystemExit(f"{kind}: {came} of {len(urls)} images came\n{said}")
    return {"wall": wall, **found}


def watched(process: subprocess.Popen) -> dict[str, float]:
    """CPU seconds of a command with all processes below it; of the largest below, peak RSS and what no file backs, MB.

    Looked at as they run: nobody waits for the workers of a fork server, so no rusage counts them.
    """
    seconds: dict[int, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    most = {"worker_rss": 0.0, "worker_anonymous": 0.0}
    while process.poll() is None:
        tree = [process.pid]
        for pid in tree:
            tree += children(pid)
            with contextlib.suppress(OSError):  # it ended
                spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                seconds[pid] = sum(map(int, spent)) / tick
                for line in Path(f"/proc/{pid}/status").read_text().splitlines() if pid != process.pid else ():
                    name = {"VmHWM": "worker_rss", "RssAnon": "worker_anonymous"}.get(line.split(":")[0])
                    if name:
                        most[name] = max(most[name], int(line.split()[1]) / 1024)
        time.sleep(0.02)
    return {"cpu": sum(seconds.values()), **most}


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def whole_in_turn(cells: dict[str, list[str]], rounds: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cell, urls in cells.items():
        contestants = (STOCK, "native, balanced", "native, fast")
        times = [{name: whole(name, urls, folder / "whole") for name in contestants} for _ in range(rounds)]
        found[cell] = {
            name: {key: round(statistics.median(time[name][key] for time in times), 2) for key in times[0][name]}
            for name in contestants
        }
    return found


# the report


def summarised(found: dict[str, Any]) -> dict[str, Any]:
    """Median and range of each, and how many times less CPU than img2dataset's: the median over rounds of the ratio."""
    summary: dict[str, Any] = {}
    for cell, by_name in found.items():
        summary[cell] = {}
        for name, rounds in by_name.items():
            seconds = sorted(cpu for cpu, _ in rounds)
            ratios = sorted(stock[0] / ours[0] for stock, ours in zip(by_name[STOCK], rounds))
            summary[cell][name] = {
                "cpu_ms": round(statistics.median(seconds), 2),
                "cpu_ms_range": [round(seconds[0], 2), round(seconds[-1], 2)],
                "wall_ms": round(statistics.median(wall for _, wall in rounds), 2),
                "times_stock": round(statistics.median(ratios), 2),
                "times_stock_range": [round(ratios[0], 2), round(ratios[-1], 2)],
            }  # fmt: skip
    return summary


def table(result: dict[str, Any]) -> str:
    """The CPU times as Markdown."""
    cells = list(result["cpu"])
    lines = ["| | " + " | ".join(cells) + f" | memory of one of {TOGETHER} workers |", "|---" * (len(cells) + 2) + "|"]
    for name in result["cpu"][cells[0]]:
        found = [result["cpu"][cell][name] for cell in cells]
        shown = [f"{one['cpu_ms']} ms" + ("" if name == STOCK else f" ({one['times_stock']}x)") for one in found]
        memory = result["memory_mb"].get(name)
        lines.append(
            f"| {name} | "
            + " | ".join(shown)
            + (f" | {memory[f'one of {TOGETHER}']['pss']} MB |" if memory else " | |")
        )
    return "\n".join(lines)


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=300, help="of each set")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", type=int, default=2000, help="urls of the whole commands; 0 leaves them out")
    parser.add_argument("--whole-rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heaps", action="store_true", help="only measure anew what a grown heap does to the ratios")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-benchmark-") as name:
        folder = Path(name)
        (folder / "www").mkdir()
        (folder / "outputs").mkdir()
        names = draw(folder / "www", options.images, options.seed)
        sizes = {kind: [(folder / "www" / file).stat().st_size for file in files] for kind, files in names.items()}
        authority(folder)
        os.environ["SSL_CERT_FILE"] = f"{folder}/bundle.pem"
        with serving(folder / "www", folder) as (server, starts):
            cells = {f"{scheme} {kind}": [f"{start}/{file}" for file in files]
                     for kind, files in names.items() for scheme, start in starts.items()}  # fmt: skip
            if options.heaps:
                result = json.loads(RESULT.read_text())
                result["heaps"] = heaps(cells, options.rounds, folder / "outputs")
                print(json.dumps(result["heaps"], indent=1))
                written(result)
                return
            contestants = [STOCK, *CURATE]
            found = compared_in_turn(contestants, cells, options.rounds, folder / "outputs")
            result = {
                "what": "CPU (user + system) of one worker process that gets this set alone, milliseconds an image, in "
                        "turn; https with a new connection where the client makes one, certificates verified",
                "date": datetime.date.today().isoformat(),
                "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                            "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION, "server": server},
                "versions": {package: version(package) for package in PACKAGES},
                "options": vars(options),
                "images": {kind: {"count": len(found), "mean_kb": round(statistics.mean(found) / 1e3),
                                  "sha256": digest(folder / "www", names[kind])} for kind, found in sizes.items()},
                "cpu": summarised(found),
                "pixels": pixel_difference(contestants, folder / "outputs"),
                "memory_mb": {one: {"alone": memory(one, cells["https mix"], 1),
                                    f"one of {TOGETHER}": memory(one, cells["https mix"], TOGETHER)}
                              for one in (STOCK, "native, balanced")},
            }  # fmt: skip
            result["heaps"] = heaps(cells, options.rounds, folder / "outputs")
            print(table(result), flush=True)
            written(result)
            if options.whole:
                many = {
                    cell: [f"{cells[cell][at % options.images]}?{at}" for at in range(options.whole)]
                    for cell in ("http uni", "https mix")
                }
                result["whole"] = whole_in_turn(many, options.whole_rounds, folder)
                written(result)
    print(json.dumps({key: result[key] for key in ("pixels", "memory_mb", "whole") if key in result}, indent=1))


def written(result: dict[str, Any]) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def digest(root: Path, files: list[str]) -> str:
    """One hash of all images of a set: equal where the same versions of the same packages drew them."""
    return hashlib.sha256(b"".join(hashlib.sha256((root / file).read_bytes()).digest() for file in files)).hexdigest()


if __name__ == "__main__":
    main()
