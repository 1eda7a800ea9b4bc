"""Training runs as cards: what was trained, the loss, and every evaluation beside chance."""

from html import escape
from typing import Any

from curate.report import charts


def card(run: dict[str, Any]) -> str:
    """One run: its summary, loss curve and evaluations."""
    about = run["about"]
    summary = about.get("summary") or "not finished yet: no summary in its run.json"
    loss = (
        charts.curve(run["curve"], f"Loss of {run['name']}") if len(run["curve"]) > 1 else "<p>No loss was logged.</p>"
    )
    evaluated = "".join(_evaluation(name, found) for name, found in sorted(run["evaluations"].items()))
    return f"<article><h3>{escape(run['name'])}</h3><p>{escape(summary)}</p>{loss}{evaluated}</article>"


def measures(evaluation: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(name, value, chance) of what `curate eval` wrote for one benchmark."""
    found = []
    if shot := evaluation.get("zero_shot"):
        found.append((f"zero-shot, {shot['classes']} classes", shot["top1"]["value"], shot["chance"]))
    for way, words in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
        recalls = evaluation.get("retrieval", {}).get(way, {})
        found += [(f"{words}, {name}", recalls[name]["value"], chance) for name, chance in _by_depth(recalls)]
    return found


def _by_depth(recalls: dict[str, Any]) -> list[tuple[str, float]]:
    """(recall@k, its chance) by k."""
    return sorted(recalls.get("chance", {}).items(), key=lambda item: int(item[0].split("@")[1]))


def _evaluation(benchmark: str, evaluation: dict[str, Any]) -> str:
    rows = "".join(
        f'<li class="beside"><span>{escape(name)}</span><span class="bar" aria-hidden="true">'
        f'<i style="width:{100 * value:.2f}%"></i><u style="left:{100 * chance:.2f}%"></u></span>'
        f'<span class="count">{value:.1%} <small>chance {chance:.1%}</small></span></li>'
        for name, value, chance in measures(evaluation)
    )
    return f"<h4>On {escape(benchmark)}, {evaluation['images']:,} images</h4><ul>{rows}</ul>"
