"""What is installed, what fights what, and what the machine has."""

import importlib
import importlib.metadata
import os
import platform
import sys
from typing import Any

from curate.dedup.faiss_install import faiss_conflict

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "img2dataset", "faiss-cpu", "faiss-gpu", "pyarrow", "duckdb",
    "imagehash", "pillow", "simplejpeg", "numpy", "click", "fsspec", "webdataset", "ray", "s3fs",
)  # fmt: skip


def run() -> tuple[str, dict[str, Any], dict[str, str]]:
    """(summary, facts, problems): every problem is one line with its way out."""
    versions = {name: found for name in PACKAGES if (found := version(name))}
    problems = {**_faiss(versions), **_torch(versions), **_downloader(versions)}
    device = _device() if "torch" not in problems else "unknown"
    facts = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": device,
        "versions": versions,
    }
    lines = [f"python {facts['python']} on {facts['machine']}; device: {device}"]
    lines += [f"  {name:16} {found}" for name, found in versions.items()]
    lines.append("no problem found" if not problems else f"{len(problems)} problems")
    return "\n".join(lines), facts, problems


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _faiss(versions: dict[str, str]) -> dict[str, str]:
    conflict = faiss_conflict()
    if conflict:
        return {"faiss": conflict}
    if not {"faiss-cpu", "faiss-gpu"} & set(versions):
        return {"faiss": "no faiss: pip install faiss-cpu (or faiss-gpu where there is a GPU)"}
    return {}


def _torch(versions: dict[str, str]) -> dict[str, str]:
    for name, module in (("torch", "torch"), ("open_clip", "curate.clip.lean")):
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            return {"torch": f"{name} cannot be imported ({reason}): torch {versions.get('torch', 'missing')} and "
                             f"torchvision {versions.get('torchvision', 'missing')} must be a pair from one registry; "
                             "pip install --force-reinstall -c constraints.txt torch torchvision"}  # fmt: skip
    return {}


def _downloader(versions: dict[str, str]) -> dict[str, str]:
    found = versions.get("img2dataset")
    if found and not found.startswith("1.47"):
        return {"img2dataset": f"img2dataset {found} is not supported: pip install 'img2dataset==1.47.*'"}
    if found and sys.version_info >= (3, 13):
        return {"img2dataset": "img2dataset cannot be imported on Python 3.13: use 3.11 or 3.12 for it"}
    return {}


def _device() -> str:
    torch = importlib.import_module("torch")
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
