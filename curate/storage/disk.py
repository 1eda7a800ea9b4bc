"""This machine's disk, without fsspec: that takes 0.07 s to import and four times as long for each look at a file."""

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

SCHEMES = ("file://", "local://", "file:", "local:")
OTHERS = ("://", "::")


def place(url: str) -> str | None:
    """The absolute path of a folder or file of this machine, as fsspec spells it; None where a URL means a store."""
    if url.startswith("/") and "::" not in url:
        return url.rstrip("/") or "/"
    path = next((url.removeprefix(scheme) for scheme in SCHEMES if url.startswith(scheme)), url)
    if any(mark in path for mark in OTHERS) or path.startswith("data:"):
        return None
    if path.startswith("~"):
        path = os.path.expanduser(path)
    elif not path.startswith("/"):
        path = f"{os.getcwd()}/{'' if path == '.' else path.removeprefix('./')}"
    return path.rstrip("/") or "/"


def names(root: str, pattern: str) -> list[str]:
    """The files under a folder that match a glob (** is any depth), links to nowhere among them."""
    found = glob.iglob(pattern, root_dir=root, recursive=True, include_hidden=True)
    return [name for name in found if _is_file(f"{root}/{name}")]  # `x/**` finds x/ though it is not there


def _is_file(path: str) -> bool:
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.isdir(path))


def ranges(path: str, starts: Sequence[int], size: int) -> list[bytes]:
    """`size` bytes of a file from each start on."""
    with open(path, "rb") as file:
        return [os.pread(file.fileno(), size, start) for start in starts]


def remove(path: str) -> None:
    """A file, or a folder with all that is in it; what another process removes meanwhile is gone as well."""
    while os.path.isdir(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    Path(path).unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Of a file; it tells other weights of the same name."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
