"""Which FAISS is installed, told without importing it: faiss-cpu and faiss-gpu overwrite each other's files."""

import functools
import importlib
from importlib import metadata
from typing import Any

from curate.errors import CurateError
from curate.named import INSTALL

CPU = ("faiss-cpu",)
GPU = ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs")


def faiss_conflict() -> str | None:
    """One line on what is wrong and how to mend it, or None where one FAISS, or none, is installed."""
    found = [name for name in CPU + GPU if _installed(name)]
    if len(found) < 2:
        return None
    keep = next((name for name in found if name in GPU), found[0])
    return (
        f"{' and '.join(found)} are both installed and overwrite each other's files; "
        f"pip uninstall -y {' '.join(found)} && pip install {keep}"
    )


@functools.cache  # asking takes ten times as long as comparing two pictures
def load_search() -> Any:
    """The module curate.dedup.search, which imports FAISS. Raises CurateError where FAISS is missing or doubled."""
    conflict = faiss_conflict()
    if conflict:
        raise CurateError(conflict)
    try:
        return importlib.import_module("curate.dedup.search")
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise CurateError(f"comparing embeddings and benchmarks needs FAISS: {INSTALL['faiss']}") from error


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
