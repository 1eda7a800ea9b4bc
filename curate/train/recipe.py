"""The numbers of a run: our defaults, under a recipe from a paper, under what the user says; each knows its origin.

A recipe is a YAML file of values and the two texts `about` and `source`:

    about: CLIP ResNet-50
    source: Radford et al. 2021, tables 18 and 19
    model: RN50
    lr: 5.0e-4
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate import strict_yaml
from curate.errors import CurateError
from curate.train.order import WINDOW

BUILT_IN = Path(__file__).parent / "recipes"
TEXTS = ("about", "source")
# None: see `model_values` for beta2, eps and temperature, `curate.train` for model and batch_size, off for clip_norm
DEFAULTS: dict[str, Any] = {
    "model": None,
    "objective": "clip",
    "batch_size": None,
    "epochs": 32.0,
    "samples": None,
    "lr": 5e-4,
    "beta1": 0.9,
    "beta2": None,
    "eps": None,
    "weight_decay": 0.2,
    "warmup": 2000,
    "clip_norm": None,
    "temperature": None,
    "crop": "square",
    "shuffle": WINDOW,
    "precision": "auto",
    "lock_image": None,
    "lock_text": None,
    "patch_dropout": None,
    "distill": None,
}
WORDS = ("model", "objective", "crop", "precision", "distill")
SWITCHES = ("lock_image", "lock_text")
WHOLE = ("batch_size", "samples", "warmup", "shuffle")
LENGTHS = {"epochs": "samples", "samples": "epochs"}  # one of them says how long to train
MAY_BE_ZERO = ("weight_decay", "warmup", "beta1", "beta2", "patch_dropout")
PAPER = "CLIP, tables 18 to 20"
FIXED = {"schedule": ("cosine, linear warm-up", "CLIP, section 2.5"), "max_scale": (100, "CLIP, section 2.5")}


@dataclass(frozen=True)
class Settings:
    """The value of each name of DEFAULTS, and where it came from."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def put(self, name: str, value: Any, origin: str) -> "Settings":
        return Settings({**self.values, name: value}, {**self.origins, name: origin})

    def table(self) -> str:
        """One line for each value: name, value, origin."""
        rows = [(name, _shown(self.values[name]), self.origins[name]) for name in self.values]
        rows += [(name, _shown(value), f"fixed: {source}") for name, (value, source) in FIXED.items()]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows)


def settings(recipe: str | None, given: Mapping[str, Any]) -> Settings:
    """Defaults, the recipe over them, the values of `given` that are not None over both. Raises CurateError for an
    unknown recipe or value, and where --epochs and --samples are both given."""
    values, origins = dict(DEFAULTS), dict.fromkeys(DEFAULTS, "default")
    content, source = load(recipe) if recipe else ({}, "")
    said = {name: value for name, value in given.items() if value is not None}
    for layer, origin in ((content, f"recipe {recipe}: {source}"), (said, "")):
        if {"epochs", "samples"} <= set(layer):
            raise CurateError("--epochs and --samples both say how long to train; give one of them")
        for name, value in layer.items():
            came = origin or f"--{name.replace('_', '-')}"
            values[name], origins[name] = _checked(name, value, came), came
            if name in LENGTHS:
                other = LENGTHS[name]
                values[other], origins[other] = None, f"{name} decide"
    origins["samples"] = origins["samples"] if values["samples"] else "epochs decide"
    return Settings(values, origins)


def load(recipe: str) -> tuple[dict[str, Any], str]:
    """(values, source) of a built-in recipe or a YAML file. Raises CurateError that names what is wrong with it."""
    built_in = BUILT_IN / f"{recipe}.yaml"
    path = built_in if built_in.is_file() and "/" not in recipe else Path(recipe)
    try:
        content = strict_yaml.parse(recipe, path.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        near = difflib.get_close_matches(recipe, known(), 1, 0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise CurateError(
            f"no recipe '{recipe}': {hint}built in are: {', '.join(known())}; or give a YAML file"
        ) from None
    if not isinstance(content, dict):
        raise CurateError(f"{recipe} is no recipe: it should map names to values, such as lr: 5.0e-4")
    for name in content:
        if name not in DEFAULTS and name not in TEXTS:
            raise CurateError(f"{recipe} has an unknown value '{name}'; known are: {', '.join([*TEXTS, *DEFAULTS])}")
    values = {name: value for name, value in content.items() if name not in TEXTS and value is not None}
    return values, str(content.get("source") or content.get("about") or "a file")


def known() -> list[str]:
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def with_model(found: Settings, config: Mapping[str, Any]) -> Settings:
    """The settings with the values that depend on the model: betas and epsilon are the paper's for ViT or ResNet."""
    resnet = isinstance(config["vision_cfg"].get("layers"), list)
    for name, value in {"beta2": 0.999 if resnet else 0.98, "eps": 1e-8 if resnet else 1e-6}.items():
        if found[name] is None:
            found = found.put(name, value, f"default for a {'ResNet' if resnet else 'ViT'}: {PAPER}")
    return found


def _checked(name: str, value: Any, origin: str) -> Any:
    shown = origin if origin.startswith("--") else f"{name} of {origin.partition(':')[0]}"
    if name in WORDS:
        return str(value)
    if name in SWITCHES:
        return bool(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise CurateError(f"{shown} is '{value}', not a number") from None
    if not (number > 0 or (number == 0 and name in MAY_BE_ZERO)) or number == float("inf"):
        raise CurateError(f"{shown} {value} is not a positive number")
    if name in ("beta1", "beta2") and number >= 1:
        raise CurateError(f"{shown} {value} is not below 1")
    if name in WHOLE and number != int(number):
        raise CurateError(f"{shown} {value} is not a whole number")
    return int(number) if name in WHOLE else number


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
