"""The steps of a filter as a recipe: what --recipe reads, from the words in which the dataset's history keeps them."""

import json
import re
from typing import Any

TOP = re.compile(r"top (?P<top>\S+) by (?P<by>.+?) of (?P<of>pool|survivors)(?: per (?P<per>.+?))?"
                 r"(?:, at least (?P<min>\S+?))?(?P<exact_count>, exact count)?")  # fmt: skip
CAP = re.compile(r"at most (?P<cap>[\d,]+) per (?P<per>.+?), (?:best by (?P<by>.+)|drawn, seed (?P<seed>\d+))")
SAMPLE = re.compile(r"sample (?P<sample>\S+) by (?P<by>.+), soft cap (?P<soft_cap>\S+), at most (?P<most>\d+) each, "
                    r"seed (?P<seed>\d+)")  # fmt: skip
WEIGHT = re.compile(r"weight (?P<weight>.+?)(?:, seed (?P<seed>\d+))?")
LISTED = re.compile(r"in \S+\.npy")
WORDS = ("yes", "no", "on", "off", "y", "n", "true", "false", "null")  # that YAML reads as something else
NUMBERS = {"cap", "seed", "most", "soft_cap", "min"}


def recipe_text(steps: list[dict[str, Any]]) -> str:
    """YAML with a line for each step; a list of uids (--subset) is only mentioned, since no recipe can hold it."""
    return "\n".join(["steps:", *(_line(step) for step in steps)])


def _line(step: dict[str, Any]) -> str:
    name, rule = step["step"], step["rule"]
    if name == "subset" and LISTED.fullmatch(rule):
        return f"  # only uids {rule}"
    on_null = step.get("on_null", "error")
    mapped = _mapped(rule)
    if mapped is None and on_null == "error":
        return f"  - {_scalar(name)}: {_scalar(rule)}"
    parts = mapped or {"where": rule}
    if on_null != "error":
        parts["on_null"] = on_null
    inside = ", ".join(f"{key}: {_scalar(value)}" for key, value in parts.items())
    threshold = f"  # {step['threshold']:.6g} and more" if "threshold" in step else ""
    return f"  - {_scalar(name)}: {{{inside}}}{threshold}"


def _mapped(rule: str) -> dict[str, Any] | None:
    """The keys of a step that is no plain condition."""
    for kind in (TOP, CAP, SAMPLE, WEIGHT):
        found = kind.fullmatch(rule)
        if found:
            there = {key: value for key, value in found.groupdict().items() if value is not None}
            return {key: _value(key, value) for key, value in there.items()}
    return None


def _value(key: str, words: str) -> Any:
    if key == "exact_count":
        return True
    if key in NUMBERS:
        return float(words) if key in ("soft_cap", "min") else int(words.replace(",", ""))
    return words


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z][\w-]*|\d+(\.\d+)?%", value) and value.lower() not in WORDS
    return value if plain else json.dumps(value, ensure_ascii=False)
