"""What made a signal, kept beside a dataset: whether anything is left to measure is told without loading a network.

What is kept counts only while all that it can depend on is as it was: the spec, the files that its options name, all
code of curate and every installed package. A signal that is imported already, or a file of your own, is always asked.
"""

import functools
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import curate
from curate.dataset import fingerprint
from curate.files import Folder
from curate.named import Spec

TAR_SAMPLE = "tar_sample"  # a file that was measured without it stays valid
OF_THE_SHARD = ("tar_bytes", TAR_SAMPLE, "rows")  # of what made a file: what differs from shard to shard
ADDED = (*OF_THE_SHARD, "signal", "options", "of")  # what stands there besides what the signal says
BESIDE = ("model.pt", "run.json", "config.json")  # what a run's folder, or that of a checkpoint, says of a model


class Origin(NamedTuple):
    """of: the signal whose embeddings this one reads, or None. made_by: what the signal says of its making."""

    of: str | None
    made_by: dict[str, Any]


Known = Mapping[Spec, Origin]
NOTHING: Known = {}


def recall(folder: Folder, spec: Spec) -> Origin | None:
    """What was kept of a signal of the dataset in `folder`; None where nothing was, or where it may be out of date."""
    name = _file(spec)
    if f"curate.signals.{spec.name.replace('-', '_')}" in sys.modules or not folder.exists(name):
        return None
    found, state = folder.read_json(name), state_of(spec)
    return Origin(found["of"], found["made_by"]) if state is not None and found["state"] == state else None


def keep(folder: Folder, spec: Spec, state: str | None, of: str | None, file: str) -> None:
    """Keep what a network said, as one of its files has it, while `state`, taken before it was asked, was true; nothing
    where that is None."""
    found = folder.made_by(file) or {}
    if state is not None and "weights" in found:
        made_by = {name: value for name, value in found.items() if name not in ADDED}
        folder.write_json(_file(spec), {"state": state, "of": of, "made_by": made_by})


def state_of(spec: Spec) -> str | None:
    """A hash of all that can decide what a signal says of its making; None where it depends on the machine ("auto"), on
    files elsewhere, or is a file of your own."""
    values = [str(value) for _, value in spec.options]
    if spec.name.endswith(".py") or any(value == "auto" or "://" in value for value in values):
        return None
    return fingerprint([str(spec), [_files(value) for value in values], _code(), _packages(), platform.platform()])


def _file(spec: Spec) -> str:
    return f"work/measure/{spec.slug}.json"


def _files(value: str) -> list[Any]:
    """What an option names, if it is a file or folder, and what stands in or beside it."""
    path = Path(value)
    folder = path if path.is_dir() else path.parent
    return [_stat(each) for each in (path, *(folder / name for name in BESIDE))] if path.exists() else []


def _stat(path: Path) -> tuple[int, ...] | None:
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.cache
def _code() -> list[Any]:
    home = Path(curate.__file__).parent
    return [(str(path.relative_to(home)), _stat(path)) for path in sorted(home.rglob("*.py"))]


@functools.cache
def _packages() -> list[str]:
    """Name and version of every distribution, as its folder is called: to read their metadata takes 0.3 CPU seconds."""
    places = [Path(entry) for entry in sys.path if entry]
    return sorted(
        {each.name for kind in ("*.dist-info", "*.egg-info") for place in places for each in place.glob(kind)}
    )
