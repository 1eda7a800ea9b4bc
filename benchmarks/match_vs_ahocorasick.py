"""curate's query matching against Aho-Corasick automata used as MetaCLIP uses them; one process, interleaved, CPU time.

    python benchmarks/match_vs_ahocorasick.py --queries 500000 --captions 100000

Needs pyahocorasick, ahocorasick_rs and wordfreq (the extra 'bench'). Queries: words of seven languages by frequency, as
they are and capitalised, word pairs, names of two to four words, some with punctuation inside. Captions: words drawn by
frequency with punctuation, a fifth of them in other languages or file names. The words and their frequencies are real,
the sentences are not. Each caption's matches are compared between curate's metaclip mode and both automata; a
difference ends the run. (curate's default mode finds more, so it is only timed.)
"""

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ahocorasick
import ahocorasick_rs
import numpy as np
import pyarrow as pa
import wordfreq

from curate.harvest.match import Matcher

RESULTS = Path(__file__).parent / "results"
ENDINGS = ("", "", "", "", ".", "!", " ...", " - Shop", " (2019)", " | Blog", ", New York", "?")
OTHERS = {"de": " ", "fr": " ", "es": " ", "ru": " ", "ja": "", "zh": ""}  # what parts words


class Words:
    """Words of a language, drawn as often as they are used."""

    def __init__(self, language: str, count: int, rng: random.Random):
        self.words = wordfreq.top_n_list(language, count, ascii_only=language == "en")
        frequency = wordfreq.get_frequency_dict(language)
        shares = np.array([frequency[word] for word in self.words])
        self.shares = np.cumsum(shares / shares.sum()).tolist()
        self.rng = rng

    def draw(self, count: int) -> list[str]:
        return self.rng.choices(self.words, cum_weights=self.shares, k=count)


def drawn_queries(count: int, rng: random.Random, english: Words) -> list[str]:
    """Distinct queries: half single words, a fifth word pairs, the rest names of two to four words."""
    queries = dict.fromkeys(english.words[: count // 4])
    queries.update(dict.fromkeys(word.capitalize() for word in english.words[: count // 6]))
    for language in OTHERS:
        queries.update(dict.fromkeys(wordfreq.top_n_list(language, count // 60)))
    while len(queries) < count * 0.7:
        queries[" ".join(english.draw(2))] = None
    while len(queries) < count:
        name = " ".join(word.capitalize() for word in english.draw(rng.choice((2, 2, 3, 3, 4))))
        queries[rng.choice((name,) * 15 + (f"{name}, Inc.", f"St. {name}", f"{name} (film)", f"{name}!"))] = None
    return list(queries)[:count]


def drawn_captions(count: int, rng: random.Random, english: Words) -> Iterator[str]:
    """Alt-texts: about 45 bytes and 7 words."""
    others = {language: Words(language, 20_000, rng) for language in OTHERS}
    for _ in range(count):
        kind = rng.random()
        words = english.draw(max(1, round(rng.gauss(7.5, 3))))
        if kind < 0.08:
            yield f"IMG_{rng.randrange(10_000):04d}_{words[0]}.jpg"
        elif kind < 0.2:
            language = rng.choice(list(OTHERS))
            yield OTHERS[language].join(others[language].draw(max(1, round(rng.gauss(6, 3)))))
        elif kind < 0.6:
            yield " ".join(word.capitalize() for word in words) + rng.choice(ENDINGS)
        else:
            words[len(words) // 2] += rng.choice(("", "", ","))
            yield " ".join(words).capitalize() + rng.choice(ENDINGS)


def spaced(text: str) -> str:
    """MetaCLIP's spacing of a text."""
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    return f" {text} ".replace("\t", " ").replace("\n", " ").replace("\r", " ")


def pyahocorasick_peer(queries: list[str]) -> Callable[[list[str]], list[set[int]]]:
    automaton = ahocorasick.Automaton()
    for number, query in enumerate(queries):
        automaton.add_word(f" {query} ", number)
    automaton.make_automaton()
    return lambda texts: [{number for _, number in automaton.iter(spaced(text))} for text in texts]


def ahocorasick_rs_peer(queries: list[str]) -> Callable[[list[str]], list[set[int]]]:
    automaton = ahocorasick_rs.AhoCorasick([f" {query} " for query in queries])
    find = automaton.find_matches_as_indexes
    return lambda texts: [{number for number, _, _ in find(spaced(text), overlapping=True)} for text in texts]


def timed(function: Callable):
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def same(found: list[set[int]], offsets: np.ndarray, ids: np.ndarray) -> bool:
    return all(sorted(numbers) == ids[offsets[i] : offsets[i + 1]].tolist() for i, numbers in enumerate(found))


def compare(queries: list[str], captions: list[str], rounds: int) -> tuple[list[dict], int]:
    """CPU time of each matcher on slices of the captions, taken in turn, and the matches; stops where they differ."""
    built = {
        "pyahocorasick, as MetaCLIP": timed(lambda: pyahocorasick_peer(queries)),
        "ahocorasick_rs": timed(lambda: ahocorasick_rs_peer(queries)),
        "curate metaclip": timed(lambda: Matcher(queries, "metaclip").match),
        "curate default": timed(lambda: Matcher(queries).match),
    }
    seconds: dict[str, list[float]] = {name: [] for name in built}
    matches = 0
    for number in range(rounds + 1):  # the first warms up and is not counted
        texts = captions[max(number - 1, 0) :: rounds]
        array, found = pa.array(texts, pa.string()), {}
        for name, (find, _) in built.items():
            found[name], took = timed(partial(find, array if name.startswith("curate") else texts))
            seconds[name] += [took] if number else []
        offsets, ids = found["curate metaclip"]
        for peer in list(built)[:2]:
            if not same(found[peer], offsets, ids):
                raise SystemExit(f"curate and {peer} differ")
        matches += len(ids) if number else 0
    base = seconds["pyahocorasick, as MetaCLIP"]
    rows = []
    for name, (_, build) in built.items():
        ratios = [peer / own for peer, own in zip(base, seconds[name])]
        rows.append({"matcher": name, "captions_per_cpu_second": round(len(captions) / sum(seconds[name])),
                     "times_pyahocorasick": round(statistics.median(ratios), 2), "least": round(min(ratios), 2),
                     "most": round(max(ratios), 2), "build_cpu_seconds": round(build, 2)})  # fmt: skip
    return rows, matches


def memory_and_load(queries: list[str]) -> dict:
    """In a fresh process that holds only the queries: peak memory of building, and seconds to load the saved index."""
    with tempfile.TemporaryDirectory() as folder:
        listed, index = f"{folder}/queries.json", f"{folder}/index"
        Path(listed).write_text(json.dumps(queries), encoding="utf-8")
        script = (
            "import json, re, sys, time\n"
            "from curate.harvest.match import Matcher\n"
            "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
            "before = peak()\n"
            "Matcher(json.load(open(sys.argv[1], encoding='utf-8')), 'metaclip').save(sys.argv[2])\n"
            "after = peak()\n"
            "start = time.perf_counter(); Matcher.load(sys.argv[2])\n"
            "print(json.dumps([before, after, time.perf_counter() - start]))\n"
        )
        run = subprocess.run([sys.executable, "-c", script, listed, index], capture_output=True, text=True, check=True)
        before, peak, load = json.loads(run.stdout)
        size = Path(index).stat().st_size
    return {"imports_mb": before // 1024, "build_peak_rss_mb": peak // 1024, "load_milliseconds": round(load * 1e3, 2),
            "index_mb": round(size / 1e6, 1)}  # fmt: skip


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    english = Words("en", 300_000, rng)
    queries = drawn_queries(options.queries, rng, english)
    captions = list(drawn_captions(options.captions, rng, english))
    rows, matches = compare(queries, captions, options.rounds)
    print(f"{'matcher':<28} {'captions/cpu s':>15} {'x pyahocorasick':>16} {'(least - most)':>16} {'build s':>8}")
    for row in rows:
        print(f"{row['matcher']:<28} {row['captions_per_cpu_second']:>15,} {row['times_pyahocorasick']:>16.2f} "
              f"{row['least']:>8.1f} - {row['most']:>4.1f} {row['build_cpu_seconds']:>9.2f}")  # fmt: skip
    packages = ("numpy", "pyarrow", "pyahocorasick", "ahocorasick_rs", "wordfreq")
    result = {
        "what": "query matching, one core, CPU time (process_time), interleaved; matches of all captions compared",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
        "versions": {package: version(package) for package in packages},
        "options": vars(options),
        "captions": {"mean_bytes": round(statistics.mean(len(text.encode()) for text in captions), 1),
                     "mean_matches": round(matches / len(captions), 2)},
        "identical_to_both_automata": True,
        "rows": rows,
        "curate_metaclip_index": memory_and_load(queries),
    }  # fmt: skip
    print(result["captions"], result["curate_metaclip_index"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "match_vs_ahocorasick.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
