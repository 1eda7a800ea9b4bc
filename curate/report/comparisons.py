"""Is it better data? What `curate eval-data` found: every selection's runs, the differences, and the verdict in words.

Who is better, and who wins, is what eval-data wrote: a side is better only where the whole interval of its difference,
over the seeds and for all comparisons together, lies above 0.
"""

import statistics
from typing import Any

from curate.errors import CurateError
from curate.files import Folder
from curate.report.elements import said, table, text
from curate.report.samples import Shown

RESULT = "eval-data.json"


def read(url: str) -> dict[str, Any]:
    """Name, options, arms (mean, sample standard deviation and the value of every seed of each measure) and verdicts
    of one comparison. Raises CurateError where the folder holds none."""
    folder = Folder(url.rstrip("/"))
    if not folder.exists(RESULT):
        raise CurateError(f"{url} holds no {RESULT}; --eval-data wants the folder given to eval-data --out")
    result = folder.read_json(RESULT)
    try:
        return {
            "name": folder.url.rstrip("/").rsplit("/", 1)[-1],
            "url": folder.url,
            "options": result["options"],
            "benchmarks": result["benchmarks"],
            "arms": [_arm(arm) for arm in result["arms"]],
            "verdict": [_judged(judged) for judged in result["verdict"]],
        }
    except (KeyError, TypeError, IndexError) as error:
        raise CurateError(f"{folder.url}/{RESULT} is not what eval-data writes; run curate eval-data again") from error


def _arm(arm: dict[str, Any]) -> dict[str, Any]:
    measured = {}
    for name in arm["reached"][0]:
        values = [run[name] for run in arm["reached"]]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        measured[name] = {"mean": statistics.fmean(values), "sd": deviation, "seeds": values}
    return {**{key: arm[key] for key in ("name", "url", "pairs", "seen", "control_of")}, "measures": measured}


def _judged(judged: dict[str, Any]) -> dict[str, Any]:
    compared = [{key: each[key] for key in ("first", "second", "difference", "interval", "better")}
                for each in judged["comparisons"]]  # fmt: skip
    found = {**{key: judged[key] for key in ("measure", "winner", "corrected_for")}, "comparisons": compared}
    return {**found, "sentence": sentence(found)}


def sentence(judged: dict[str, Any]) -> str:
    """The verdict of one measure; no side is called better inside the spread."""
    open_, told = [], []
    for each in judged["comparisons"]:
        if each["better"] is None:
            open_.append(f"{each['first']} and {each['second']}")
        else:
            worse = each["second"] if each["better"] == each["first"] else each["first"]
            told.append(f"{each['better']} is better than {worse}")
    if open_:
        told.append(f"between {'; between '.join(open_)} nobody is better: the difference lies within the spread")
    if judged["winner"]:
        return f"{judged['winner']} wins: {'; '.join(told)}."
    return f"Nobody wins over all others: {'; '.join(told)}."


def section(numbers: dict[str, Any], shown: Shown) -> str:
    """Of each comparison: what was equal, a table of the selections; of each measure the verdict and differences."""
    return "".join(map(_comparison, numbers["comparisons"]))


def _comparison(found: dict[str, Any]) -> str:
    options, seeds = found["options"], len(found["options"]["seeds"])
    about = (f"{options['model']}, {options['steps']:,} steps of {options['batch_size']:,} pairs for every selection, "
             f"{seeds} seeds. Mean ± standard deviation over the seeds, in per cent.")  # fmt: skip
    names = [judged["measure"] for judged in found["verdict"]]
    head = ["trained on", "pairs", "times each", *names]
    rows = [[arm["name"], arm["pairs"], arm["seen"], *(_spread(arm["measures"][name]) for name in names)]
            for arm in found["arms"]]  # fmt: skip
    judged = "".join(_verdict(each, found["arms"]) for each in found["verdict"])
    told = table(head, rows, named=f"Selections of {found['name']}")
    return f"<h3>{text(found['name'])}</h3><p>{text(about)}</p>{told}{judged}"


def _spread(measure: dict[str, Any]) -> str:
    deviation = "" if measure["sd"] is None else f" ± {100 * measure['sd']:.1f}"
    return f"{100 * measure['mean']:.1f}{deviation}"


def _verdict(judged: dict[str, Any], arms: list[dict[str, Any]]) -> str:
    measure, compared = judged["measure"], judged["comparisons"]
    ends = [abs(end) for each in compared for end in each["interval"]]
    most = max([*ends, 0.001])  # the reach of the drawing on both sides of 0
    lines = "".join(_difference(each, most) for each in compared)
    of = {arm["name"]: arm["measures"][measure]["seeds"] for arm in arms}
    seeds = "; ".join(f"{name} {', '.join(f'{100 * value:.1f}' for value in values)}" for name, values in of.items())
    level = f"intervals hold at 95 % for all {said(judged['corrected_for'])} comparisons together"
    return (f'<h4>{text(measure)}</h4><p class="verdict">{text(judged["sentence"])}</p><ul class="differences">{lines}'
            f"</ul><p class='about'>The {text(level)}; the line is 0, the drawing reaches {100 * most:.1f} points "
            f"to both sides. Every seed, in per cent: {text(seeds)}.</p>")  # fmt: skip


def _difference(each: dict[str, Any], most: float) -> str:
    low, high = each["interval"]
    left, value, right = (50 + 50 * end / most for end in (low, each["difference"], high))
    kind = "apart" if each["better"] else "within"
    word = f"{each['better']} is better" if each["better"] else "within the spread"
    return (f'<li class="beside {kind}"><span>{text(each["first"])} less {text(each["second"])}</span>'
            f'<span class="bar" aria-hidden="true"><s></s><i style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
            f'<b style="left:{value:.2f}%"></b></span><span class="count">{100 * each["difference"]:+.1f} points '
            f"<small>{100 * low:+.1f} to {100 * high:+.1f}</small><small>{text(word)}</small></span></li>")  # fmt: skip
