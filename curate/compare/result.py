"""The outcome of a comparison for people: the line in the terminal, a table, a page with a plot."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from curate.evaluate import plot, table
from curate.evaluate.interval import mean_of_runs
from curate.evaluate.table import WAYS, Row
from curate.files import Folder

CSV, PAGE = "eval-data.csv", "eval-data.html"


def measures(numbers: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of what a benchmark is judged by: top-1, mAP, and the mean of recall@1 both ways."""
    if found := numbers.get("zero_shot"):
        yield "zero-shot top-1", found["top1"]["value"]
    if found := numbers.get("multilabel"):
        yield "zero-shot mAP", found["mean_average_precision"]["value"]
    if found := numbers.get("retrieval"):
        yield "retrieval R@1", float(np.mean([found[way]["recall@1"]["value"] for way in WAYS]))


def report(folder: Folder, result: Mapping[str, Any]) -> str:
    """Write the table and the page; the summary comes back."""
    rows = _rows(result)
    folder.write_bytes(CSV, table.as_csv(rows).encode())
    drawing = plot.dots(rows, "Means over the seeds with Student's 95 % intervals")
    shown = [plot.html_table(*_table(result)), plot.html_table(*_comparisons(result))]
    about = f"{_equal(result)} Dots: means over the seeds with Student's 95 % interval. {RULE}"
    folder.write_bytes(PAGE, plot.page("Is it better data?", about, [drawing], "".join(shown)).encode())
    verdicts = [_verdict(judged) for judged in result["verdict"]]
    return "\n".join([f"eval-data: {_equal(result)}", "", *_plain(*_table(result)), "", *verdicts])


RULE = ("A side is better where Welch's interval of the difference over the seeds, at 95 % for all comparisons of the "
        "table together (Bonferroni), lies above 0; else nobody is.")  # fmt: skip


def _equal(result: Mapping[str, Any]) -> str:
    options = result["options"]
    return (f"{options['model']}, {options['steps']:,} steps of {options['batch_size']:,} pairs each, "
            f"{len(options['seeds'])} seeds.")  # fmt: skip


def _rows(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for arm in result["arms"]:
        for measure in arm["reached"][0]:
            benchmark, _, metric = measure.rpartition(": ")
            found: dict[str, Any] = mean_of_runs([run[measure] for run in arm["reached"]])
            low, high = found["interval95"]
            rows.append(Row(arm["name"], benchmark, "eval-data", metric, found["value"], low, high))
    return rows


def _table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(head, cells): an arm a line, mean ± standard deviation over the seeds."""
    names = list(result["arms"][0]["reached"][0])
    cells = []
    for arm in result["arms"]:
        values = [[run[name] for run in arm["reached"]] for name in names]
        told = [f"{100 * np.mean(each):.1f} ± {100 * np.std(each, ddof=1):.1f} %" for each in values]
        cells.append([arm["name"], f"{arm['pairs']:,}", f"{arm['seen']:g}", *told])
    return ["trained on", "pairs", "times each", *names], cells


def _comparisons(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    cells = []
    for judged in result["verdict"]:
        for each in judged["comparisons"]:
            low, high = (100 * value for value in each["interval"])
            difference = f"{100 * each['difference']:+.1f} [{low:+.1f}, {high:+.1f}] points"
            names = f"{each['first']} less {each['second']}"
            cells.append([judged["measure"], names, difference, each["better"] or "nobody: within the spread"])
    return ["measure", "compared", "difference", "better"], cells


def _plain(head: list[str], cells: list[list[str]]) -> list[str]:
    widths = [max(len(line[at]) for line in [head, *cells]) for at in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [head, *cells]]  # fmt: skip


def _verdict(judged: Mapping[str, Any]) -> str:
    lines = []
    for each in judged["comparisons"]:
        low, high = (100 * value for value in each["interval"])
        word = f"{each['better']} is better" if each["better"] else "no winner: within the spread"
        lines.append(f"  {each['first']} less {each['second']}: {100 * each['difference']:+.1f} points "
                     f"[{low:+.1f}, {high:+.1f}]: {word}")  # fmt: skip
    won = f"{judged['winner']} wins" if judged["winner"] else "nobody wins over all others"
    return "\n".join([f"{judged['measure']}: {won}", *lines])
