"""curate's query matching against Aho-Corasick automata used as MetaCLIP uses them; one process, interleaved, CPU time.

    python benchmarks/match_vs_ahocorasick.py --queries 500000 --captions 500000

Needs pyahocorasick, ahocorasick_rs, daachorse and wordfreq (the extra 'bench'); numba (the extra 'fast') is timed too
where it is there.

Queries: words of seven languages by frequency, as they are and capitalised, word pairs, names of two to four words,
some with punctuation inside. Captions: words drawn by frequency with punctuation, a fifth of them in other languages or
file names. The words and their frequencies are real, the sentences are not; nearly all are distinct, so repetitions
bring nothing and are timed apart. Each caption's matches are compared between curate's metaclip mode and the automata,
and between curate with and without numba; a difference ends the run. (curate's default mode finds more than MetaCLIP's
rule, so it is only timed.) A turn of each matcher is long enough to be like the hours of a harvest: its tables come
into the cache again first. Build, load and peak memory are those of processes of their own.
"""

import argparse
import datetime
import importlib.util
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
import daachorse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import wordfreq

from curate.match import matcher as match
from curate.match.matcher import Matcher

RESULTS = Path(__file__).parent / "results"
BASE = "pyahocorasick, as MetaCLIP"
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


def daachorse_peer(queries: list[str]) -> Callable[[list[str]], list[set[int]]]:
    """The character-wise automaton, the quicker one of its two."""
    automaton = daachorse.CharwiseDoubleArrayAhoCorasick([f" {query} " for query in queries])
    find = automaton.find_overlapping
    return lambda texts: [{number for _, _, number in find(spaced(text))} for text in texts]


def curate_matcher(queries: list[str], mode: str, numba: bool) -> Callable[[pa.Array], tuple[np.ndarray, np.ndarray]]:
    matcher = Matcher(queries, mode)

    def find(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        match.COMPILE_AFTER = -1 if numba else 1 << 60  # from the first text on, or never
        return matcher.match(texts)

    return find


def timed(function: Callable):
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def same(found: list[set[int]], offsets: np.ndarray, ids: np.ndarray) -> bool:
    return all(sorted(numbers) == ids[offsets[i] : offsets[i + 1]].tolist() for i, numbers in enumerate(found))


def matchers(queries: list[str]) -> dict[str, tuple[Callable, float]]:
    """Each way to match, and the CPU seconds that building its index took."""
    builders = {
        BASE: lambda: pyahocorasick_peer(queries),
        "ahocorasick_rs": lambda: ahocorasick_rs_peer(queries),
        "daachorse": lambda: daachorse_peer(queries),
    }
    for numba in (False, True) if importlib.util.find_spec("numba") else (False,):
        for mode in match.MODES:
            builders[f"curate {mode}{', numba' * numba}"] = partial(curate_matcher, queries, mode, numba)
    return {name: timed(build) for name, build in builders.items()}


def compare(queries: list[str], captions: list[str], rounds: int) -> tuple[list[dict], int]:
    """CPU time of each matcher on slices of the captions, taken in turn, and the matches; stops where they differ."""
    built = matchers(queries)
    seconds: dict[str, list[float]] = {name: [] for name in built}
    matches = 0
    for number in range(rounds + 1):  # the first warms up (and compiles) and is not counted
        texts = captions[max(number - 1, 0) :: rounds]
        array, found = pa.array(texts, pa.string()), {}
        for name, (find, _) in built.items():
            found[name], took = timed(partial(find, array if name.startswith("curate") else texts))
            seconds[name] += [took] if number else []
        check(found)
        matches += len(found["curate metaclip"][1]) if number else 0
    rows = []
    for name, (_, build) in built.items():
        ratios = [peer / own for peer, own in zip(seconds[BASE], seconds[name])]
        rows.append({"matcher": name, "captions_per_cpu_second": round(len(captions) / sum(seconds[name])),
                     "times_pyahocorasick": round(statistics.median(ratios), 2), "least": round(min(ratios), 2),
                     "most": round(max(ratios), 2), "build_cpu_seconds": round(build, 2)})  # fmt: skip
    return rows, matches


def check(found: dict) -> None:
    """Stop where a matcher differs from curate's metaclip mode, or a compiled mode from the same one without numba."""
    offsets, ids = found["curate metaclip"]
    for name, result in found.items():
        plain = found.get(name.removesuffix(", numba"))
        if not (
            same(result, offsets, ids) if not name.startswith("curate") else all(map(np.array_equal, result, plain))
        ):
            raise SystemExit(f"curate and {name} differ")


def repeated(queries: list[str], captions: list[str]) -> dict:
    """CPU microseconds a caption where each stands once or, shuffled, twice in a block of 10,000."""
    matcher, spent = Matcher(queries), {}
    for times in (1, 2, 1, 2):
        texts = captions[: 10_000 // times] * times
        random.Random(0).shuffle(texts)
        matcher._looked_at = 0
        _, took = timed(partial(matcher.match, pa.array(texts)))
        spent[times] = round(took / len(texts) * 1e6, 3)
    return {"once": spent[1], "twice": spent[2]}


SCRIPT = """
import json, re, resource, sys, time
import pyarrow as pa
import pyarrow.parquet as pq
from curate.memory import keep_freed_memory, without_pandas
from curate.harvest import queries
from curate.match import matcher as match
from curate.match.matcher import Matcher

def megabytes(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

job, mode, listed, captions, index = sys.argv[1:]
match.COMPILE_AFTER = -1 if job == "numba" else 1 << 60
without_pandas()  # these two as in harvest's own processes
keep_freed_memory()
imports = megabytes("VmHWM")
if job == "build":
    texts = queries.read(listed).texts
    start = time.process_time()
    Matcher(texts, mode).save(index)
    print(json.dumps({"imports_mb": imports, "peak_mb": megabytes("VmHWM"), "cpu_s": time.process_time() - start}))
else:
    start = time.perf_counter()
    matcher = Matcher.load(index)
    load = time.perf_counter() - start
    start = time.process_time()
    matcher.match(pa.array(["the first text"]))
    first = time.process_time() - start
    for batch in pq.ParquetFile(captions).iter_batches(10_000, use_threads=False):
        matcher.match(batch["text"])
    peak = megabytes("VmHWM")
    long = pa.array([" ".join(batch["text"].to_pylist() * 10)[:1_000_000]])
    start = time.process_time()
    matcher.match(long)
    compiling = resource.getrusage(resource.RUSAGE_CHILDREN)  # the process that compiles, if there was one
    print(json.dumps({"imports_mb": imports, "peak_mb": peak, "compiling_peak_mb": compiling.ru_maxrss // 1024,
                      "compiling_cpu_s": compiling.ru_utime + compiling.ru_stime, "load_ms": load * 1e3,
                      "first_text_s": first, "megabyte_text_s": time.process_time() - start}))
"""


def processes(queries: list[str], captions: list[str]) -> dict:
    """Peak memory, build and load time of each mode in processes of their own, as harvest's workers have them."""
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(f"{folder}/queries.txt").write_text("\n".join(queries), encoding="utf-8")
        pq.write_table(pa.table({"text": captions}), f"{folder}/captions", row_group_size=50_000)
        jobs = ["build", "match"] + ["numba", "numba"] * bool(importlib.util.find_spec("numba"))
        for mode in match.MODES:
            environment = {**os.environ, "CURATE_CACHE": f"{folder}/{mode}-cache"}
            for number, job in enumerate(jobs):
                command = [sys.executable, "-c", SCRIPT, job, mode, f"{folder}/queries.txt", f"{folder}/captions",
                           f"{folder}/index"]  # fmt: skip
                run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                name = f"{job}, compiling" if number == 2 else job
                told[f"{mode}, {name}"] = {key: round(value, 3) for key, value in json.loads(run.stdout).items()}
            told[f"{mode}, build"]["index_mb"] = round(Path(f"{folder}/index").stat().st_size / 1e6, 1)
    return told


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--captions", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
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
    packages = ["numpy", "pyarrow", "pyahocorasick", "ahocorasick_rs", "daachorse", "wordfreq"]
    result = {
        "what": "query matching, one core, CPU time (process_time), interleaved; matches of all captions compared",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
        "versions": {package: version(package) for package in packages + ["numba"] * ("numba" in rows[-1]["matcher"])},
        "options": vars(options),
        "captions": {"mean_bytes": round(statistics.mean(len(text.encode()) for text in captions), 1),
                     "mean_matches": round(matches / len(captions), 2),
                     "distinct_share": round(len(set(captions)) / len(captions), 3)},
        "identical_to_the_automata": True,
        "rows": rows,
        "microseconds_where_each_text_stands": repeated(queries, captions),
        "in_processes_of_their_own": processes(queries, captions),
    }  # fmt: skip
    print(json.dumps({key: result[key] for key in list(result)[-2:]}, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "match_vs_ahocorasick.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
