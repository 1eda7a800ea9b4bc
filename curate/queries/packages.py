"""Data files inside installed packages, found without importing the packages (which want many others)."""

import importlib.metadata
import importlib.util
from pathlib import Path

from curate import named
from curate.errors import CurateError


def data_file(module: str, name: str) -> Path:
    """Where the file `name` of the package that is imported as `module` lies.

    Raises CurateError with the pip command where the package, or the file in it, is not there.
    """
    spec = importlib.util.find_spec(module)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / name).is_file():
            return Path(place) / name
    missing = f"lacks {name}" if spec else "is not installed"
    raise CurateError(f"the package {module} {missing}: {named.INSTALL.get(module, f'pip install {module}')}")


def version(distribution: str) -> dict[str, str]:
    """{name: installed version} of a package, under the name that pip knows."""
    try:
        return {distribution: importlib.metadata.version(distribution)}
    except importlib.metadata.PackageNotFoundError:
        return {distribution: "missing"}
