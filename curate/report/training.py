"""What a training run left in its folder: options, the loss, and its evaluation beside chance."""

import contextlib
import json
from typing import Any

from curate.errors import CurateError
from curate.files import Folder
from curate.report.evaluations import is_evaluation

POINTS = 300


def read(url: str) -> dict[str, Any]:
    """Facts, loss curve and evaluations of one run; `unread`: the other JSON files in its eval folder. Raises
    CurateError where the folder is none."""
    folder = Folder(url.rstrip("/"))
    if not folder.exists("run.json"):
        raise CurateError(
            f"{url} is not a training run: it has no run.json; --run wants the folder given to train-clip, "
            "--eval-data that of eval-data"
        )
    about = folder.read_json("run.json")
    if not isinstance(about, dict):
        raise CurateError(f"{url}/run.json is not what train-clip writes: no JSON object; restore it")
    found = {
        name.removeprefix("eval/").removesuffix(".json"): folder.read_json(name) for name in folder.names("eval/*.json")
    }
    return {
        "name": folder.url.rstrip("/").rsplit("/", 1)[-1],
        "url": folder.url,
        "about": about,
        "curve": _thinned([[step["step"], step["loss"]] for step in _steps(folder)]),
        "evaluations": {name: numbers for name, numbers in found.items() if is_evaluation(numbers)},
        "unread": sorted(name for name, numbers in found.items() if not is_evaluation(numbers)),
    }


def _steps(folder: Folder) -> list[dict[str, Any]]:
    """The lines of the log up to the first that is none: where a run was killed the last one may be cut."""
    lines = folder.read_bytes("log.jsonl").splitlines() if folder.exists("log.jsonl") else []
    found = []
    with contextlib.suppress(ValueError):
        for line in lines:
            found.append(json.loads(line))
    return [step for step in found if "loss" in step]


def _thinned(points: list[list[float]]) -> list[list[float]]:
    every = max(1, len(points) // POINTS)
    kept = points[::every]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
