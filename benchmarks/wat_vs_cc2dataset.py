"""Pairs from a WAT file: curate's pool against cc2dataset's own read path, one process, interleaved, CPU time.

    python -m venv peers && peers/bin/pip install cc2dataset msgspec click tqdm
    PYTHONPATH=. peers/bin/python benchmarks/wat_vs_cc2dataset.py

cc2dataset gets an environment of its own because it brings pyspark and other versions of pandas and fsspec. The file is
generated in the shape of Common Crawl's: three metadata records a page, a gzip member each, 19 kB of JSON a page, 30
images of which 13 have an alt; names and words are drawn letters. The rows of both are compared one by one:
cc2dataset's text must be curate's but for blanks, its URL but for blanks; anything else ends the run.
"""

import argparse
import datetime
import gzip
import json
import os
import platform
import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from cc2dataset.main import process_wat
from fastwarc.warc import ArchiveIterator, WarcRecordType
from loguru import logger

from curate.pools.wat import Pool

RESULTS = Path(__file__).parent / "results"


class Crawl:
    """Generated pages, the same ones for a seed."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        letters = (self.rng.choices(string.ascii_lowercase, k=self.rng.randint(2, 9)) for _ in range(5000))
        self.words = ["".join(word) for word in letters]

    def text(self, count: int) -> str:
        return " ".join(self.rng.choices(self.words, k=count))

    def image(self, host: str) -> dict:
        word, roll = self.rng.choice(self.words), self.rng.random()
        urls = {
            f"https://cdn.{host}/img/{word}-{roll:.4f}.jpg": 60,
            f"/images/{word}.png?v=3": 15,
            f"//cdn.test/{word}.gif": 8,
            f"../a/{word}.webp": 8,
            f"{word}/{word}.jpg": 6,
            f"/a b/{word}.jpg\n": 1,
            "data:image/gif;base64,R0lGODlhAQABAAAAACw=": 2,
        }
        link = {"path": "IMG@/src", "url": self.rng.choices(list(urls), list(urls.values()))[0]}
        if roll < 0.5:
            link["alt"] = "" if roll < 0.06 else self.text(self.rng.randint(1, 10)) + (" \n" if roll < 0.08 else "")
        return link if roll < 0.9 else link | {"title": self.text(3)}

    def links(self, host: str) -> list[dict]:
        links = [self.image(host) for _ in range(self.rng.randint(10, 50))]
        for _ in range(self.rng.randint(90, 240)):
            links.append({"path": "A@/href", "url": f"/{self.text(2).replace(' ', '/')}", "text": self.text(4)})
        self.rng.shuffle(links)
        return links

    def head(self, host: str) -> dict:
        sheet = {"path": "LINK@/href", "url": "/style.css", "rel": "stylesheet"}
        script = {"path": "SCRIPT@/src", "url": "/a.js", "type": "text/javascript"}
        metas = [{"name": "description", "content": self.text(40)}, {"property": "og:title", "content": self.text(9)}]
        head = {"Title": self.text(6), "Metas": metas, "Link": [sheet] * 8, "Scripts": [script] * 12}
        return head if self.rng.random() > 0.05 else head | {"Base": f"https://{host}/base/"}

    def records(self, pages: int) -> Iterator[bytes]:
        yield member("warcinfo", "CC-MAIN.warc.wat.gz", b"Software-Info: ia-web-commons\r\n")
        for number in range(pages):
            host = f"www.{self.rng.choice(self.words)}.test"
            page = f"https://{host}/{self.rng.choice(self.words)}/{number}.html"
            headers = {f"X-{name}": self.text(2) for name in string.ascii_letters[:20]}
            html = {"Head": self.head(host), "Links": self.links(host)}
            for kind, payload in (
                ("request", {"HTTP-Request-Metadata": {"Headers": headers}}),
                ("response", {"HTTP-Response-Metadata": {"Headers": headers, "HTML-Metadata": html}}),
                ("metadata", {"WARC-Metadata-Metadata": {"Metadata-Records": [{"Name": "fetchTimeMs", "Value": "9"}]}}),
            ):
                yield member(
                    "metadata", page, json.dumps(envelope(kind, page, payload), separators=(",", ":")).encode()
                )


def envelope(kind: str, page: str, payload: dict) -> dict:
    about = {"WARC-Type": kind, "WARC-Target-URI": page, "WARC-Date": "2024-02-20T23:00:00Z", "Content-Length": "100"}
    length = {"Deflate-Length": "9999", "Header-Length": "10", "Footer-Length": "8", "Inflated-Length": "123"}
    name = "CC-MAIN-20240220211055-20240221001055-00000.warc.gz"
    return {
        "Container": {"Filename": name, "Compressed": True, "Offset": "1", "Gzip-Metadata": length},
        "Envelope": {"Format": "WARC", "WARC-Header-Metadata": about, "Payload-Metadata": payload},
    }


def member(kind: str, url: str, body: bytes) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-02-21T09:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-000000000000>\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n", 6, mtime=0)


def cc2dataset(path: str) -> list[tuple[str, str]]:
    return [(url, text) for _, url, text, _, _ in process_wat(path, "image")]


def curate(path: str) -> list[tuple[str, str]]:
    tables = [table.select(["url", "caption"]).to_pydict() for table in Pool(path).read(path)]
    return [pair for table in tables for pair in zip(table["url"], table["caption"], strict=True)]


def curate_tables(path: str) -> int:
    return sum(len(table) for table in Pool(path).read(path))


def reading_alone(path: str) -> int:
    return sum(len(record.reader.read()) for record in ArchiveIterator(path, WarcRecordType.metadata, parse_http=False))


def compared(theirs: list[tuple[str, str]], ours: list[tuple[str, str]]) -> dict[str, int]:
    """How many rows are equal, and how many differ only in blanks; stops at any other difference."""
    theirs = [row for row in theirs if row[1].strip()]
    if len(theirs) != len(ours):
        raise SystemExit(f"cc2dataset gives {len(theirs):,} rows, curate {len(ours):,}")
    blanks = sum(a != b for a, b in zip(theirs, ours))
    for (url, text), (own_url, own_text) in zip(theirs, ours):
        if url.strip().replace(" ", "%20") != own_url or " ".join(text.split()) != " ".join(own_text.split()):
            raise SystemExit(f"cc2dataset gives {url} {text!r}, curate {own_url} {own_text!r}")
    return {"rows": len(ours), "equal": len(ours) - blanks, "equal_but_for_blanks": blanks}


def timed(function: Callable[[str], object], path: str) -> float:
    start = time.process_time()
    function(path)
    return time.process_time() - start


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logger.remove()
    readers = {"cc2dataset": cc2dataset, "curate": curate_tables, "FastWARC, records read and dropped": reading_alone}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/crawl.warc.wat.gz"
        with open(path, "wb") as file:
            file.writelines(Crawl(options.seed).records(options.pages))
        size, json_size = os.path.getsize(path), reading_alone(path)
        output = compared(cc2dataset(path), curate(path))
        seconds = [[timed(reader, path) for reader in readers.values()] for _ in range(options.rounds)]
    ratios = sorted(theirs / ours for theirs, ours, _ in seconds)
    result = {
        "what": "pairs from one WAT file, one core, CPU time (process_time), interleaved; rows of both compared",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in ("cc2dataset", "fastwarc", "pysimdjson", "msgspec", "pyarrow")},
        "options": vars(options),
        "page": {"json_kb": round(json_size / options.pages / 1e3, 1), "gz_kb": round(size / options.pages / 1e3, 1)},
        "output": output,
        "times_cc2dataset": {"median": round(statistics.median(ratios), 2), "least": round(ratios[0], 2),
                             "most": round(ratios[-1], 2)},
        "pages_per_cpu_second": {
            name: round(options.pages / statistics.median(column)) for name, column in zip(readers, zip(*seconds))
        },
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "wat_vs_cc2dataset.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
