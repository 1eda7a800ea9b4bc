"""The numbers of runs as a table: a row for each benchmark, task and metric, a column for each run."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

COLUMNS = ("model", "benchmark", "task", "metric", "value", "low", "high", "chance", "images")
WAYS = ("image_to_text", "text_to_image")


class Row(NamedTuple):
    """One number with its 95% interval; None where there is none."""

    model: str
    benchmark: str
    task: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    images: int | None = None


def rows(model: str, benchmark: str, numbers: Mapping[str, Any]) -> list[Row]:
    """What the JSON of one benchmark tells, of every task that it holds."""
    return [Row(model, benchmark, *told) for told in _told(numbers)]


def _told(numbers: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name in ("zero_shot", "linear_probe"):
        if found := numbers.get(name):
            yield _row(name, "top-1", found["top1"], found["chance"], found["images"])
            if found["classes"] > 5:
                yield _row(name, "top-5", found["top5"], 5 / found["classes"], found["images"])
            # JSON of before there were intervals of it has none
            recall = {"value": found["mean_per_class_recall"],
                      "interval95": found.get("mean_per_class_recall_interval95", (None, None))}  # fmt: skip
            yield _row(name, "mean per class", recall, found["chance"], found["images"])
    if found := numbers.get("multilabel"):
        yield _row("zero_shot", "mAP", found["mean_average_precision"], found["chance"], found["images"])
    for way in WAYS if "retrieval" in numbers else ():
        found = numbers["retrieval"][way]
        for k, chance in sorted(found["chance"].items(), key=lambda item: int(item[0].split("@")[1])):
            yield _row("retrieval", f"{way.replace('_', ' ')} {k.replace('recall', 'R')}", found[k], chance,
                       numbers["retrieval"]["images"])  # fmt: skip
    if found := numbers.get("few_shot"):
        for k, reached in found["shots"].items():
            yield _row("few_shot", f"{k}-shot top-1", reached, 1 / found["classes"], found["images"])
    if found := numbers.get("typographic"):
        for name in ("before", "after", "follow_the_word"):
            yield _row("typographic", name.replace("_", " "), found[name], None, found["images"])
    if found := numbers.get("robustness"):
        for name in ("base", "shift", "gap", "effective_robustness"):
            if name in found:
                yield _row("robustness", name.replace("_", " "), found[name], None, found["images"])


def _row(task: str, metric: str, found: Mapping[str, Any], chance: float | None, images: int) -> tuple[Any, ...]:
    low, high = found.get("interval95", (None, None))
    return task.replace("_", "-"), metric, found["value"], low, high, chance, images


def as_csv(found: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if cell is None else cell for cell in row] for row in found)
    return out.getvalue()


def wide(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(head, rows of cells): benchmark, task, metric, chance, then "58.1 % [55.0, 61.2]" of each run."""
    models = list(dict.fromkeys(row.model for row in found))
    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in found:
        lines.setdefault((row.benchmark, row.task, row.metric), {})[row.model] = row
    cells = []
    for names, by_model in lines.items():
        chance = next((row.chance for row in by_model.values() if row.chance is not None), None)
        told = "" if chance is None else f"{chance:.1%}"
        cells.append([*names, told, *(_cell(by_model.get(model)) for model in models)])
    return ["benchmark", "task", "metric", "chance", *models], cells


def as_markdown(found: Sequence[Row]) -> str:
    """A table that also reads well as plain text."""
    head, cells = wide(found)
    grid = [[cell.replace("|", "\\|") for cell in line] for line in [head, *cells]]
    widths = [max(len(line[at]) for line in grid) for at in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
             for line in grid]  # fmt: skip
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.low is None or row.high is None:
        return f"{100 * row.value:.1f} %"
    return f"{100 * row.value:.1f} % [{100 * row.low:.1f}, {100 * row.high:.1f}]"
