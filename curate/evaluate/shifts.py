"""A family of benchmarks with natural shifts against their base set, and the table of other models' accuracies."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from curate.errors import CurateError
from curate.evaluate import plot
from curate.evaluate.robustness import LEAST, Line, compared, line_through, restricted, subset
from curate.evaluate.sets import TestSet
from curate.files import Folder

FILE = "robustness.csv"
COLUMNS = ("model", "base", "shift", "base_accuracy", "shift_accuracy")
MEAN = "mean of the shifts"

Baselines = dict[str, dict[str, tuple[float, float]]]  # shift -> model -> (accuracy on the base set, on the shift)


def robustness(tests: Sequence[TestSet], base: str | None, others: Baselines | None) -> dict[str, dict[str, Any]]:
    """Benchmark -> its numbers: for each shift, accuracy on the images and classes of the base set that it shares and
    on its own images, and the gap; for the base set the means over the shifts. Raises CurateError where there is
    nothing to compare."""
    home = base_of(tests, base)
    shifted = [test for test in tests if test is not home]
    found: dict[str, dict[str, Any]] = {}
    for test in shifted:
        if not len(test.labelled):
            raise CurateError(f"benchmark {test.name} has no labelled images: no accuracy to compare")
        kept = subset(test.classnames, home.classnames, test.name, home.name)
        right, total = restricted(home.scores, home.labels, kept)
        if not total:
            raise CurateError(f"{home.name} has no image of the classes of {test.name}")
        own = int((test.scores.argmax(axis=1) == test.labels).sum()), len(test.labels)
        line = line_through(list(others.get(test.name, {}).values()), test.name) if others is not None else None
        found[test.name] = {"base_set": home.name, "classes": len(kept), "images": own[1],
                            **compared((right, total), own, line)}  # fmt: skip
    keys = ("base", "shift", "gap", "effective_robustness")
    means = {key: {"value": round(float(np.mean([found[test.name][key]["value"] for test in shifted])), 6)}
             for key in keys if key in found[shifted[0].name]}  # fmt: skip
    found[home.name] = {"shifts": [test.name for test in shifted], "images": len(home.labels), **means}
    return found


def base_of(tests: Sequence[TestSet], base: str | None) -> TestSet:
    """The base set: the one named, else the first. Raises CurateError."""
    if len(tests) < 2:
        raise CurateError("--task robustness compares at least two benchmarks: the base set and its shifts")
    if base is None:
        return tests[0]
    home = next((test for test in tests if test.name == base), None)
    if home is None:
        raise CurateError(f"--base {base} is none of the benchmarks: {', '.join(test.name for test in tests)}")
    return home


def table(model: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The accuracies of one model as CSV: what `read` takes as a baseline of another."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for shift, numbers in found.items():
        if "base_set" in numbers:
            accuracies = numbers["base"]["value"], numbers["shift"]["value"]
            writer.writerow([model, numbers["base_set"], shift, *accuracies])
    return out.getvalue()


def read(places: Sequence[str], base: str) -> Baselines | None:
    """The accuracies of other models on shifts of `base`: of CSV files with the columns model, base, shift,
    base_accuracy and shift_accuracy, or of folders of curate eval that hold one. None where none is named."""
    found: Baselines = {}
    for place in places:
        text = _text(place)
        rows = list(csv.DictReader(io.StringIO(text)))
        missing = [name for name in COLUMNS if not rows or name not in rows[0]]
        if missing:
            raise CurateError(f"--baseline {place}: it lacks the columns {', '.join(missing)}")
        for number, row in enumerate(rows, 2):
            if row["base"] == base:
                pair = (_accuracy(row["base_accuracy"], place, number), _accuracy(row["shift_accuracy"], place, number))
                found.setdefault(row["shift"], {})[row["model"]] = pair
    return found if places else None


def drawing(model: str, found: Mapping[str, Mapping[str, Any]], others: Baselines | None) -> str:
    """The plot of Taori and of CLIP's figure 13: a panel for each shift, and one for their mean, as SVG."""
    shifts = {name: numbers for name, numbers in found.items() if "base_set" in numbers}
    base = next(iter(shifts.values()))["base_set"]
    panels = []
    for name, numbers in shifts.items():
        line = Line(**numbers["line"]) if "line" in numbers else None
        own = [(model, numbers["base"]["value"], numbers["shift"]["value"])]
        panels.append(plot.Panel(name, own, list((others or {}).get(name, {}).values()), line))
    if len(shifts) > 1:
        panels.append(_mean_panel(model, found[base], list(shifts), others or {}))
    return plot.shifts(panels, base)


def _mean_panel(model: str, mean: Mapping[str, Any], shifts: Sequence[str], others: Baselines) -> plot.Panel:
    """Of the models that have all shifts."""
    models = set.intersection(*(set(others.get(name, {})) for name in shifts))
    pairs = []
    for each in sorted(models):
        base, shift = np.mean([others[name][each] for name in shifts], axis=0)
        pairs.append((float(base), float(shift)))
    line = line_through(pairs, MEAN) if len(pairs) >= LEAST else None
    return plot.Panel(MEAN, [(model, mean["base"]["value"], mean["shift"]["value"])], pairs, line)


def _text(place: str) -> str:
    folder = Folder(place.rstrip("/"))
    if folder.exists() and folder.fs.isdir(folder.path()):
        for name in (FILE, f"eval/{FILE}"):
            if folder.exists(name):
                return folder.read_bytes(name).decode()
        raise CurateError(f"--baseline {place}: it holds no {FILE}; run curate eval --task robustness there first")
    if not folder.exists():
        raise CurateError(f"--baseline {place}: no such file")
    return folder.fs.cat_file(folder.path()).decode("utf-8", "replace")


def _accuracy(text: str, place: str, line: int) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise CurateError(f"--baseline {place}, line {line}: '{text}' is no accuracy between 0 and 1")
    return value
