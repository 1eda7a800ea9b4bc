"""A recipe: ordered, named steps, read from YAML. steps.py says what each kind does.

    signals: [caption, language]
    steps:
      - english: language = 'en' and language_score > 0.5
      - sharp: {where: blur > 100, on_null: drop}
      - aligned: {top: 30%, by: clip, of: pool, min: 0.2, per: language, exact_count: true}
      - cap: {cap: 20000, per: queries, by: clip}
      - mix: {sample: 150%, by: clip * 100, soft_cap: 0.15}
      - double: {weight: if(caption_words > 5, 2, 1)}

`on_null` says what becomes of rows without a value for a step, drop or keep; without it they are an error. `needs`
names the signals that the recipe cannot measure itself: {clip: "clip(model=ViT-L-14-quickgelu, pretrained=openai)"}.

A recipe is data, never code: it may come from a stranger. Its SQL runs in the sandbox of predicate.py, and it may ask
for built-in signals only, without text options (which could name files or weights to download).
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curate import named, strict_yaml
from curate.errors import CurateError
from curate.filter.steps import ON_NULL, POOLS, Cap, Sample, Step, Top, Weight, Where

BUILT_IN = Path(__file__).parent / "recipes"
DEFAULT = "basic"
KEYS = ("about", "needs", "on_null", "signals", "steps")
FORMS = {  # the mapping of each kind of step: its first key tells the kind
    "where": ("on_null",),
    "top": ("by", "of", "min", "per", "exact_count", "on_null"),
    "cap": ("per", "by", "seed", "on_null"),
    "sample": ("by", "soft_cap", "most", "seed", "on_null"),
    "weight": ("seed", "on_null"),
}


@dataclass(frozen=True)
class Recipe:
    name: str
    steps: tuple[Step, ...]
    signals: tuple[str, ...] = ()
    text: str = ""  # the file, as written
    needs: tuple[tuple[str, str], ...] = ()  # name of a signal -> how it must have been measured


def load(recipe: str) -> Recipe:
    """A built-in recipe by its name, or a YAML file. Raises CurateError that names what is wrong with it."""
    built_in = BUILT_IN / f"{recipe}.yaml"
    path = built_in if built_in.is_file() and "/" not in recipe else Path(recipe)
    try:
        read = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        known = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
        raise CurateError(f"no recipe '{recipe}': neither a file nor built in; built in are: {known}") from None
    content = strict_yaml.parse(recipe, read)
    return _recipe(recipe, content, read.decode("utf-8-sig"))


def implicit(where: tuple[str, ...], top: str | None, by: str | None, of: str, on_null: str | None = None
             ) -> tuple[Step, ...]:  # fmt: skip
    """The steps that --where, --top and --by ask for. Raises CurateError where one needs the other."""
    steps: list[Step] = [Where(" ".join(sql.split()), sql, on_null or "error") for sql in where]
    if (top is None) != (by is None):
        raise CurateError("--top and --by go together: --top 30% --by clip")
    if top is not None and by is not None:
        rule = {"top": top, "by": by, "of": of, "on_null": on_null or "error"}
        steps.append(_mapped(f"top {top} by {by}", rule, "--top", "error"))
    return tuple(steps)


def combined(recipe: Recipe | None, steps: tuple[Step, ...]) -> Recipe:
    """The recipe with more steps behind its own; names tell steps apart, so none may appear twice."""
    recipe = recipe or Recipe("", ())
    every = (*recipe.steps, *steps)
    names = [step.name for step in every]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        of = f"{recipe.name}: " if recipe.name else ""
        raise CurateError(f"{of}two steps are called '{twice[0]}'; every step needs a name of its own")
    return replace(recipe, steps=every)


def decided(recipe: Recipe, on_null: str | None) -> Recipe:
    """The recipe, with every step that leaves nulls undecided decided by the option --on-null."""
    if on_null is None:
        return recipe
    steps = (replace(step, on_null=on_null) if step.on_null == "error" else step for step in recipe.steps)
    return replace(recipe, steps=tuple(steps))


def _recipe(name: str, content: Any, text: str) -> Recipe:
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list) or not content["steps"]:
        raise CurateError(f"{name} has no steps; a recipe is YAML with a list 'steps:' of '- name: SQL condition'")
    unknown = sorted(map(str, set(content) - set(KEYS)))
    if unknown:
        raise CurateError(f"{name} has an unknown key '{unknown[0]}'; a recipe has: {', '.join(KEYS)}")
    on_null = _one_of(content.get("on_null", "error"), ON_NULL, "on_null", name)
    steps = tuple(_step(name, number, step, on_null) for number, step in enumerate(content["steps"], 1))
    needs = content.get("needs") or {}
    if not isinstance(needs, dict) or not all(isinstance(text, str) for pair in needs.items() for text in pair):
        raise CurateError(f"{name}: needs is a mapping such as {{clip: 'clip(model=ViT-B-32, pretrained=openai)'}}")
    for spec in needs.values():
        named.parse(spec)
    signals = _signals(name, content.get("signals") or [])
    return combined(Recipe(name, steps, signals, text, tuple(needs.items())), ())


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


def _step(recipe: str, number: int, step: Any, on_null: str) -> Step:
    where = f"{recipe}, step {number}"
    if not isinstance(step, dict) or len(step) != 1:
        raise CurateError(f"{where}: write '- name: SQL condition' or '- name: {{top: 30%, by: COLUMN, of: pool}}'")
    ((name, rule),) = step.items()
    if not isinstance(name, str) or not name.strip():
        raise CurateError(f"{where}: its name {name!r} is not text; put it in quotes")
    if isinstance(rule, str):
        return Where(name, rule, on_null)
    if isinstance(rule, dict):
        return _mapped(name, rule, f"{where} ({name})", on_null)
    raise CurateError(f"{where} ({name}): {rule!r} is neither an SQL condition nor a mapping; quote it if it is SQL")


def _mapped(name: str, rule: dict[str, Any], where: str, on_null: str) -> Step:
    """A step that is written as a mapping."""
    kinds = [kind for kind in FORMS if kind in rule]
    if len(kinds) != 1:
        raise CurateError(f"{where}: a step is an SQL condition or has one of: {', '.join(FORMS)}")
    kind = kinds[0]
    unknown = sorted(map(str, set(rule) - {kind, *FORMS[kind]}))
    if unknown:
        raise CurateError(f"{where}: unknown key '{unknown[0]}'; beside {kind} stand: {', '.join(FORMS[kind])}")
    on_null = _one_of(rule.get("on_null", on_null), ON_NULL, "on_null", where)
    seed = _number(rule.get("seed", 0), "seed", where, whole=True)
    if kind == "where":
        return Where(name, _text(rule["where"], "where", where), on_null)
    if kind == "weight":
        return Weight(name, _text(str(rule["weight"]), "weight", where), int(seed), on_null)
    if kind == "cap":
        most = _number(rule["cap"], "cap", where, whole=True, least=1)
        by = None if rule.get("by") is None else _text(rule["by"], "by", where)
        return Cap(name, int(most), _text(rule.get("per"), "per", where), by, int(seed), on_null)
    by = _text(rule.get("by"), "by", where)
    amount = _amount(rule[kind], kind, where)
    if kind == "sample":
        soft_cap = _number(rule.get("soft_cap", 0.15), "soft_cap", where, least=0)
        most = _number(rule.get("most", 16), "most", where, whole=True, least=1)
        return Sample(name, amount, by, soft_cap, int(most), int(seed), on_null)
    least = None if rule.get("min") is None else _number(rule["min"], "min", where)
    exact = rule.get("exact_count", False)
    if not isinstance(exact, bool):
        raise CurateError(f"{where}: exact_count is true or false, not {exact!r}")
    per = None if rule.get("per") is None else _text(rule["per"], "per", where)
    of = _one_of(rule.get("of", "pool"), POOLS, "of", where)
    return Top(name, amount, by, of, least, exact, per, on_null)


def _amount(value: Any, kind: str, where: str) -> str:
    amount = str(value).replace(" ", "")
    share = amount.endswith("%")
    if not re.fullmatch(r"\d+(\.\d+)?%" if share else r"\d+", amount) or not float(amount.rstrip("%")):
        raise CurateError(f"{where}: {kind} is a share such as 30% or a whole number of rows, not {value!r}")
    if share and kind == "top" and float(amount[:-1]) > 100:
        raise CurateError(f"{where}: top {amount} is more than everything")
    return amount


def _one_of(value: Any, choices: tuple[str, ...], key: str, where: str) -> str:
    if value not in choices:
        raise CurateError(f"{where}: {key} is {' or '.join(choices)}, not {value!r}")
    return value


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise CurateError(f"{where}: {key} is {'needed' if value is None else f'text, not {value!r}'}")
    return value


def _number(value: Any, key: str, where: str, whole: bool = False, least: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise CurateError(f"{where}: {key} is a {'whole ' if whole else ''}number, not {value!r}")
    if not math.isfinite(value):
        raise CurateError(f"{where}: {key} is a number, not {value!r}")
    if least is not None and value < least:
        raise CurateError(f"{where}: {key} is {least:g} or more, not {value!r}")
    return value
