"""Training runs as cards: what was trained, the loss, and every evaluation beside chance."""

from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

from curate.report import charts
from curate.report.elements import said

TASKS = ("zero_shot", "multilabel", "retrieval", "linear_probe", "few_shot", "typographic", "robustness")
WAYS = {"image_to_text": "image to text", "text_to_image": "text to image"}
ATTACKED = {"before": "no word written on it", "after": "a wrong word on it", "follow_the_word": "taken for that word"}
POINTS = {"gap": "gap to the base set", "effective_robustness": "effective robustness"}  # may be negative: no bars


class Measure(NamedTuple):
    """A number that an evaluation reached: a share or, if `points`, a difference of shares; the 95 % interval and what
    chance reaches where they are known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    points: bool = False


def card(run: dict[str, Any]) -> str:
    """One run: its summary, loss curve and evaluations."""
    about = run["about"]
    summary = about.get("summary") or "not finished yet: no summary in its run.json"
    loss = (
        charts.curve(run["curve"], f"Loss of {run['name']}") if len(run["curve"]) > 1 else "<p>No loss was logged.</p>"
    )
    evaluated = "".join(_evaluation(name, found) for name, found in sorted(run["evaluations"].items()))
    left = ", ".join(f"eval/{name}.json" for name in run["unread"])
    note = f"<p class='about'>No task of curate eval in {escape(left)}.</p>" if left else ""
    return f"<article><h3>{escape(run['name'])}</h3><p>{escape(summary)}</p>{loss}{evaluated}{note}</article>"


def is_evaluation(found: Any) -> bool:
    """Whether a JSON file holds what `curate eval` writes of a benchmark."""
    return isinstance(found, dict) and any(isinstance(found.get(task), dict) for task in TASKS)


def measures(evaluation: dict[str, Any]) -> list[Measure]:
    """Every number of the tasks that were asked for, in their order."""
    found: list[Measure] = []
    for task in TASKS:
        if task in evaluation:
            found += TELL[task](evaluation[task])
    return found


def _measure(name: str, found: dict[str, Any], chance: float | None = None, points: bool = False) -> Measure:
    low, high = found.get("interval95", (None, None))
    return Measure(name, found["value"], low, high, chance, points)


def _zero_shot(shot: dict[str, Any]) -> Iterator[Measure]:
    yield _measure(f"zero-shot, {shot['classes']:,} classes", shot["top1"], shot["chance"])


def _multilabel(found: dict[str, Any]) -> Iterator[Measure]:
    yield _measure("zero-shot mAP, several labels", found["mean_average_precision"], found["chance"])


def _retrieval(found: dict[str, Any]) -> Iterator[Measure]:
    for way, words in WAYS.items():
        recalls = found.get(way, {})
        for name, chance in sorted(recalls.get("chance", {}).items(), key=lambda item: int(item[0].split("@")[1])):
            yield _measure(f"{words}, {name}", recalls[name], chance)


def _linear_probe(found: dict[str, Any]) -> Iterator[Measure]:
    yield _measure(f"linear probe, {found['classes']:,} classes", found["top1"], found["chance"])


def _few_shot(found: dict[str, Any]) -> Iterator[Measure]:
    for shots, reached in found["shots"].items():
        yield _measure(f"{shots}-shot, {found['classes']:,} classes", reached, 1 / found["classes"])


def _typographic(found: dict[str, Any]) -> Iterator[Measure]:
    for name, words in ATTACKED.items():
        yield _measure(words, found[name])


def _robustness(found: dict[str, Any]) -> Iterator[Measure]:
    if "base_set" in found:
        names = {"base": f"{found['base_set']}, shared classes", "shift": "shared classes here"}
    else:
        names = {"base": "shared classes here, mean", "shift": "under the shifts, mean"}
    for name, words in {**names, **POINTS}.items():
        if name in found:
            yield _measure(words, found[name], points=name in POINTS)


TELL = {"zero_shot": _zero_shot, "multilabel": _multilabel, "retrieval": _retrieval, "linear_probe": _linear_probe,
        "few_shot": _few_shot, "typographic": _typographic, "robustness": _robustness}  # fmt: skip


def _evaluation(benchmark: str, evaluation: dict[str, Any]) -> str:
    rows = "".join(map(_line, measures(evaluation)))
    images = evaluation.get("images")
    of = f", {said(images)} images" if images is not None else ""
    return f"<h4>On {escape(benchmark)}{of}</h4><ul>{rows}</ul>"


def _line(measure: Measure) -> str:
    if measure.points:
        reach = "" if measure.low is None else f"{100 * measure.low:+.1f} to {100 * (measure.high or 0):+.1f}"
        bar, value = '<span aria-hidden="true"></span>', f"{100 * measure.value:+.1f} points"
    else:
        reach = "" if measure.low is None else f"{100 * measure.low:.1f} to {measure.high or 0:.1%}"
        line = "" if measure.chance is None else f'<u style="left:{100 * measure.chance:.2f}%"></u>'
        bar = f'<span class="bar" aria-hidden="true"><i style="width:{100 * measure.value:.2f}%"></i>{line}</span>'
        value = f"{measure.value:.1%}"
    notes = [reach, "" if measure.chance is None else f"chance {measure.chance:.1%}"]
    small = "".join(f"<small>{note}</small>" for note in notes if note)
    return f'<li class="beside"><span>{escape(measure.name)}</span>{bar}<span class="count">{value} {small}</span></li>'
