"""Whatever fsspec opens: object stores, web servers, archives, disks."""

import functools
import os

import fsspec

from curate.errors import CurateError


def store(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path or URL, and the path as it spells it. Raises CurateError where it cannot be opened."""
    return _opened(url, "" if "://" in url or url.startswith("/") else os.getcwd())


@functools.lru_cache(maxsize=256)  # fsspec takes a fifth of a millisecond to find out again
def _opened(url: str, here: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = str(error).rsplit("install ", 1)[-1].split()[0].strip("`'\"")
        raise CurateError(f"{url} needs another package: pip install {package}") from error
    except ValueError as error:
        raise CurateError(f"{url}: {str(error).strip().split(chr(10), 1)[0]}") from error
