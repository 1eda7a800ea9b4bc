"""A run folder: checkpoints that appear whole, the log that is cut back to them, the finished model."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch

from curate.errors import CurateError
from curate.files import Folder

KEPT = 2  # checkpoints: the newest and, should it be damaged, the one before
LOG, TIMINGS, RUN, MODEL, CONFIG = "log.jsonl", "timings.jsonl", "run.json", "model.pt", "config.json"


@dataclass
class State:
    """Everything that a run needs to go on: batches, crops and temperature follow from `step`."""

    step: int = 0
    undecodable: set[str] = field(default_factory=set)  # uids


def check_same(run: Folder, options: dict[str, Any], data: dict[str, Any]) -> None:
    """Raises CurateError where the run in this folder was started with other options or other data."""
    if not run.exists(RUN):
        return
    before = run.read_json(RUN)
    way_out = "choose another --out, or start over with --no-resume"
    for name, value in json.loads(json.dumps(options)).items():
        if before["options"].get(name) != value:
            old = before["options"].get(name)
            raise CurateError(f"{run.url} was started with {name} = {old}, not {value}; {way_out}")
    if before["data"]["fingerprint"] != data["fingerprint"]:
        old, new = (f"{about['samples']:,} pairs" for about in (before["data"], data))
        raise CurateError(f"{run.url} was started on other data ({old}, now {new}); {way_out}")


def start_over(run: Folder) -> None:
    """Remove what an earlier run left in this folder."""
    for name in (RUN, MODEL, CONFIG, LOG, TIMINGS, "checkpoints", "bad-batch.json", "eval"):
        run.remove(name)


def save(run: Folder, state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint of a step and remove the older ones."""
    content = {
        "step": state.step,
        "undecodable": sorted(state.undecodable),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    save_torch(run, f"checkpoints/{state.step:09d}.pt", content)
    for name in run.names("checkpoints/*.pt")[:-KEPT]:
        run.remove(name)


def restore(run: Folder, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Load the newest checkpoint into model and optimizer, cut the log back to it; a new State where there is none."""
    names = run.names("checkpoints/*.pt")
    if not names:
        _cut_log(run, 0)
        return State()
    with run.local(names[-1]) as path:
        content = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(content["state_dict"])
    optimizer.load_state_dict(content["optimizer"])
    _cut_log(run, content["step"])
    return State(content["step"], set(content["undecodable"]))


def save_torch(run: Folder, name: str, content: Any) -> None:
    """torch.save, whole or not at all; the same content gives the same bytes."""
    # through a file object: given a path, torch writes its name, with our process id in it, into the file
    with run.writing(name) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def lines(run: Folder, name: str) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file; a line cut short by a kill does not count."""
    if not run.exists(name):
        return []
    return [json.loads(line) for line in run.read_bytes(name).splitlines(keepends=True) if line.endswith(b"\n")]


def _cut_log(run: Folder, step: int) -> None:
    kept = [line for line in lines(run, LOG) if line["step"] <= step]
    run.write_bytes(LOG, "".join(json.dumps(line) + "\n" for line in kept).encode())
