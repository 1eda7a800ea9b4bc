"""The images of HTML pages: curate's scan against parsers that build a tree; one process, interleaved, CPU time.

    apt-get download python-skimage-doc && dpkg-deb -x python-skimage-doc*.deb doc
    pip install lxml resiliparse
    python benchmarks/html_images.py --pages doc

Any folder of .html files will do. The (src, alt) of all images are compared with those of Lexbor's tree, a difference
ends the run. The second table shows what pages cost that were made to hurt: CPU seconds and memory, each in a fresh
process with 60 seconds and 4 GB.
"""

import argparse
import collections
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from lxml import html as lxml_html
from resiliparse.parse.html import HTMLTree
from selectolax.lexbor import LexborHTMLParser

from curate.crawl.html import images

RESULTS = Path(__file__).parent / "results"
Pairs = list[tuple[str | None, str | None]]


def curate(page: bytes) -> Pairs:
    return [(image.get("src"), image.get("alt")) for image in images(page).attributes]


def lexbor(page: bytes) -> Pairs:
    return [(image.attrs.get("src"), image.attrs.get("alt")) for image in LexborHTMLParser(page).tags("img")]


def lxml(page: bytes) -> Pairs:
    tree = lxml_html.document_fromstring(page, parser=lxml_html.HTMLParser(encoding="utf-8"))
    return [(image.get("src"), image.get("alt")) for image in tree.iter("img")]


def resiliparse(page: bytes) -> Pairs:
    tree = HTMLTree.parse_from_bytes(page, "utf-8")
    return [(image.getattr("src"), image.getattr("alt")) for image in tree.body.get_elements_by_tag_name("img")]


READERS: dict[str, Callable[[bytes], Pairs]] = {
    "curate": curate, "selectolax, Lexbor": lexbor, "lxml": lxml, "resiliparse": resiliparse,
}  # fmt: skip
HOSTILE = {
    "40,000 nested <div>, 200 kB": b"<div>" * 40_000 + b"<img src=a alt=b>",
    "2,000 unclosed <b id=...> before 2,000 <p>, 29 kB": (
        b"<p>" + b"".join(b"<b id=%d>" % n for n in range(2000)) + b"<p>x" * 2000 + b"<img src=a alt=b>"
    ),
    "100,000 <img>, 1.7 MB": b"<img src=a alt=b>" * 100_000,
}


def timed(reader: Callable[[bytes], Pairs], pages: list[bytes]) -> float:
    start = time.process_time()
    for page in pages:
        reader(page)
    return time.process_time() - start


def compared(pages: list[bytes]) -> dict[str, int]:
    """How many pages each reader sees as Lexbor does."""
    same: collections.Counter[str] = collections.Counter()
    for page in pages:
        wanted = sorted(map(str, lexbor(page)))
        same.update(name for name, reader in READERS.items() if sorted(map(str, reader(page))) == wanted)
    if same["curate"] != len(pages):
        raise SystemExit(f"curate and Lexbor differ on {len(pages) - same['curate']} pages")
    return dict(same)


def hostile(name: str, case: str) -> None:
    """In a process of its own: print CPU seconds and peak memory."""
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    start = time.process_time()
    found = len(READERS[name](HOSTILE[case]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"cpu_seconds": round(time.process_time() - start, 3), "peak_mb": peak, "images": found}))


def costs() -> dict[str, dict[str, dict]]:
    table: dict[str, dict[str, dict]] = {}
    for case in HOSTILE:
        for name in READERS:
            command = [sys.executable, __file__, "--hostile", name, case]
            run = subprocess.run(command, capture_output=True, text=True)
            told = json.loads(run.stdout) if run.returncode == 0 else {"gave_up": "60 s or 4 GB"}
            table.setdefault(case, {})[name] = told
    return table


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pages", help="folder with .html files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hostile", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hostile:
        return hostile(*options.hostile)
    pages = [path.read_bytes() for path in sorted(Path(options.pages).rglob("*.html"))]
    same = compared(pages)
    seconds = [[timed(reader, pages) for reader in READERS.values()] for _ in range(options.rounds)]
    rows = {}
    for number, name in enumerate(READERS):
        ratios = [row[number] / row[0] for row in seconds]
        median = statistics.median(row[number] for row in seconds)
        rows[name] = {"pages_per_cpu_second": round(len(pages) / median), "pages_as_lexbor": same[name],
                      "times_as_long_as_curate": round(statistics.median(ratios), 2)}  # fmt: skip
    result = {
        "what": "images of HTML pages in memory, one core, CPU time (process_time), interleaved",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in ("selectolax", "lxml", "resiliparse")},
        "pages": {"count": len(pages), "mean_kb": round(sum(map(len, pages)) / len(pages) / 1e3, 1),
                  "images": sum(len(curate(page)) for page in pages)},
        "readers": rows,
        "hostile": costs(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "html_images.json").write_text(json.dumps(result, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
