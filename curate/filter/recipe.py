"""A recipe: ordered, named steps, each an SQL condition on one row or the top share of all rows by a column.

    signals: [caption, language]
    steps:
      - english: language = 'en' and language_score > 0.5
      - aligned: {top: 30%, by: clip, of: pool}

A recipe is data, never code: it may come from a stranger. Its SQL runs in the sandbox of predicate.py, and it may ask
for built-in signals only, without text options (which could name files or weights to download).
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from curate import named
from curate.errors import CurateError

BUILT_IN = Path(__file__).parent / "recipes"
DEFAULT = "basic"
POOLS = ("pool", "survivors")


@dataclass(frozen=True)
class Where:
    """Keep the rows for which an SQL condition holds."""

    name: str
    sql: str

    @property
    def rule(self) -> str:
        return self.sql


@dataclass(frozen=True)
class Top:
    """Keep the rows whose value of `by` is among the largest: a share ("30%") of the rows that have a value, or a
    number of them, counted among all rows considered ("pool") or those that the steps before kept ("survivors").
    Rows that tie with the last one kept are all in; `least` is a floor that the value must reach too."""

    name: str
    amount: str
    by: str
    of: str = "pool"
    least: float | None = None

    @property
    def rule(self) -> str:
        floor = "" if self.least is None else f", at least {self.least:g}"
        return f"top {self.amount} by {self.by} of {self.of}{floor}"

    def rows(self, ranked: int) -> int:
        """How many of `ranked` rows are kept, ties aside: a share is rounded down, at least one."""
        if self.amount.endswith("%"):
            return min(ranked, max(1, int(Fraction(self.amount[:-1]) * ranked / 100)))
        return min(ranked, int(self.amount))


Step = Where | Top


@dataclass(frozen=True)
class Recipe:
    name: str
    steps: tuple[Step, ...]
    signals: tuple[str, ...] = ()
    text: str = ""  # the file, as written


def load(recipe: str) -> Recipe:
    """A built-in recipe by its name, or a YAML file. Raises CurateError that names what is wrong with it."""
    built_in = BUILT_IN / f"{recipe}.yaml"
    path = built_in if built_in.is_file() and "/" not in recipe else Path(recipe)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (FileNotFoundError, IsADirectoryError):
        known = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
        raise CurateError(f"no recipe '{recipe}': neither a file nor built in; built in are: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CurateError(f"{recipe} is not valid YAML: {' '.join(str(error).split())}") from error
    return _recipe(recipe, content, text)


def implicit(where: tuple[str, ...], top: str | None, by: str | None, of: str) -> tuple[Step, ...]:
    """The steps that --where, --top and --by ask for. Raises CurateError where one needs the other."""
    steps: list[Step] = [Where(" ".join(sql.split()), sql) for sql in where]
    if (top is None) != (by is None):
        raise CurateError("--top and --by go together: --top 30% --by clip")
    if top is not None and by is not None:
        steps.append(_top(f"top {top} by {by}", {"top": top, "by": by, "of": of}, "--top"))
    return tuple(steps)


def combined(recipe: Recipe | None, steps: tuple[Step, ...]) -> Recipe:
    """The recipe with more steps behind its own; names tell steps apart, so none may appear twice."""
    every = (*(recipe.steps if recipe else ()), *steps)
    names = [step.name for step in every]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        of = f"{recipe.name}: " if recipe else ""
        raise CurateError(f"{of}two steps are called '{twice[0]}'; every step needs a name of its own")
    return Recipe(recipe.name if recipe else "", every, recipe.signals if recipe else (), recipe.text if recipe else "")


def _recipe(name: str, content: Any, text: str) -> Recipe:
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list) or not content["steps"]:
        raise CurateError(f"{name} has no steps; a recipe is YAML with a list 'steps:' of '- name: SQL condition'")
    unknown = sorted(map(str, set(content) - {"about", "signals", "steps"}))
    if unknown:
        raise CurateError(f"{name} has an unknown key '{unknown[0]}'; a recipe has: about, signals, steps")
    steps = tuple(_step(name, number, step) for number, step in enumerate(content["steps"], 1))
    return combined(Recipe(name, steps, _signals(name, content.get("signals") or []), text), ())


def _signals(name: str, signals: Any) -> tuple[str, ...]:
    if not isinstance(signals, list) or not all(isinstance(signal, str) for signal in signals):
        raise CurateError(f"{name}: signals is a list of names: [caption, language]")
    for signal in signals:
        spec = named.parse(signal)
        if spec.name not in named.available("signals"):
            raise CurateError(f"{name}: no signal called '{spec.name}'; a recipe may use only built-in ones: "
                              f"{', '.join(named.available('signals'))}")  # fmt: skip
        if any(isinstance(value, str) for _, value in spec.options):
            raise CurateError(f"{name}: {signal} may load files or download weights, which a recipe must not; "
                              f'measure it yourself: --signal "{signal}"')  # fmt: skip
    return tuple(signals)


def _step(recipe: str, number: int, step: Any) -> Step:
    where = f"{recipe}, step {number}"
    if not isinstance(step, dict) or len(step) != 1:
        raise CurateError(f"{where}: write '- name: SQL condition' or '- name: {{top: 30%, by: COLUMN, of: pool}}'")
    ((name, rule),) = step.items()
    if not isinstance(name, str):
        raise CurateError(f"{where}: its name {name!r} is not text; put it in quotes")
    if isinstance(rule, str):
        return Where(name, rule)
    if isinstance(rule, dict):
        return _top(name, rule, f"{where} ({name})")
    raise CurateError(f"{where} ({name}): {rule!r} is neither an SQL condition nor a mapping; quote it if it is SQL")


def _top(name: str, rule: dict[str, Any], where: str) -> Top:
    unknown = sorted(map(str, set(rule) - {"top", "by", "of", "min"}))
    if unknown or "top" not in rule or "by" not in rule:
        reason = f"unknown key '{unknown[0]}'" if unknown else "top and by are needed"
        raise CurateError(f"{where}: {reason}; write {{top: 30%, by: COLUMN, of: pool|survivors, min: NUMBER}}")
    amount = str(rule["top"]).replace(" ", "")
    share = amount.endswith("%")
    if not re.fullmatch(r"\d+(\.\d+)?%" if share else r"\d+", amount) or not float(amount.rstrip("%")):
        raise CurateError(f"{where}: top is a share such as 30% or a whole number of rows, not {rule['top']!r}")
    if share and float(amount[:-1]) > 100:
        raise CurateError(f"{where}: top {amount} is more than everything")
    of, least = rule.get("of", "pool"), rule.get("min")
    if of not in POOLS:
        raise CurateError(f"{where}: of is {' or '.join(POOLS)}, not {of!r}")
    if least is not None and (isinstance(least, bool) or not isinstance(least, int | float)):
        raise CurateError(f"{where}: min is a number, not {least!r}")
    return Top(name, amount, str(rule["by"]), of, least)
