"""A run folder: checkpoints that appear whole, the log that is cut back to them, the finished model."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import IO, Any, cast

import torch

from curate.dataset import MANIFEST
from curate.errors import NO_WEIGHTS, CurateError
from curate.files import Folder
from curate.train.shared import like, whole

LOG, TIMINGS, EVALS = "log.jsonl", "timings.jsonl", "evals.jsonl"
RUN, MODEL, OBJECTIVE, CONFIG = "run.json", "model.pt", "objective.pt", "config.json"
LEFT_BY_A_RUN = (
    RUN,
    MODEL,
    OBJECTIVE,
    CONFIG,
    LOG,
    TIMINGS,
    EVALS,
    "checkpoints",
    "bad-batch.json",
    "eval",
    "tensorboard",
)
LEFT_BY_STEPS = (LOG, "checkpoints", "bad-batch.json")
WAY_OUT = "choose another --out, or start over with --no-resume"
NAMED = 20  # uids of undecodable images that a run keeps


@dataclass
class State:
    """Everything that a run needs to go on: batches, crops and temperature follow from `step`.

    replaced: how often an image could not be decoded and another took its place. undecodable: uids of the first ones.
    recent: the last losses, which --max-spike compares with. since: sum and number of the losses since the last
    checkpoint of the schedule. best: step and mean loss (or score) of the best one.
    """

    step: int = 0
    replaced: int = 0
    undecodable: list[str] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    since: tuple[float, int] = (0.0, 0)
    best: tuple[int, float] | None = None

    def lost(self, uids: Sequence[str]) -> None:
        """Count images that could not be decoded."""
        self.replaced += len(uids)
        new = [uid for uid in dict.fromkeys(uids) if uid not in self.undecodable]
        self.undecodable += new[: NAMED - len(self.undecodable)]


def check_same(run: Folder, options: dict[str, Any], data: dict[str, Any]) -> None:
    """Raises CurateError where the run in this folder was started with other options or other data, and where the
    folder is none of a run."""
    if run.exists(MANIFEST):
        raise CurateError(f"--out {run.url} is a dataset; choose another folder for the run")
    if not run.exists(RUN):
        if run.exists(MODEL):
            raise CurateError(f"{run.url} holds a {MODEL} without its {RUN}; choose another --out")
        return
    before = run.read_json(RUN)
    for name, value in json.loads(json.dumps(options)).items():
        if before["options"].get(name) != value:
            old = before["options"].get(name)
            raise CurateError(f"{run.url} was started with {name} = {old}, not {value}; {WAY_OUT}")
    if before["data"]["fingerprint"] != data["fingerprint"]:
        old, new = (f"{about['samples']:,} pairs" for about in (before["data"], data))
        raise CurateError(f"{run.url} was started on other data ({old}, now {new}); {WAY_OUT}")


def start_over(run: Folder) -> None:
    """Remove what an earlier run left in this folder."""
    for name in LEFT_BY_A_RUN:
        run.remove(name)


class Saver:
    """Writes checkpoints in a thread, from a copy of the weights; keeps the newest `keep` and the best one.

    made_by: {"model": ..., "data": fingerprint}, which `restore` compares. A write that fails is raised by the next
    `save` or `wait`; the checkpoints before it stay.
    """

    def __init__(self, run: Folder, keep: int, made_by: Mapping[str, Any]):
        self.run, self.keep, self.made_by = run, keep, dict(made_by)
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:  # an error that ends the run says more than that its last checkpoint failed too
            self.wait()

    def save(self, state: State, model: torch.nn.Module, objective: torch.nn.Module,
             optimizer: torch.optim.Optimizer, here: bool = True) -> None:  # fmt: skip
        """Copy the state to the CPU and come back; the one before is on the disk by then. Where weights are shared out
        every process calls this, and the one that writes says `here`."""
        self.wait()
        content = {
            **asdict(state),
            "made_by": self.made_by,
            "state_dict": copied(model.state_dict(), here),
            "objective": copied(objective.state_dict(), here),
            "optimizer": copied(optimizer.state_dict(), here),
        }
        if not here:
            return
        self._writing = self._pool.submit(self._write, content)

    def wait(self) -> None:
        """Until the last checkpoint is on the disk. Raises CurateError where it could not be written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def check(self) -> None:
        """Raise what a write that has ended met, without waiting for one that has not."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def _write(self, content: dict[str, Any]) -> None:
        save_torch(self.run, path(content["step"]), content)
        best = content["best"]
        kept = self.run.names("checkpoints/*.pt")[-self.keep :]
        for name in self.run.names("checkpoints/*.pt"):
            if name not in kept and not (best and name == path(best[0])):
                self.run.remove(name)


def path(step: int) -> str:
    return f"checkpoints/{step:09d}.pt"


def restore(run: Folder, model: torch.nn.Module, objective: torch.nn.Module, optimizer: torch.optim.Optimizer,
            made_by: Mapping[str, Any], cut: bool = True) -> tuple[State, list[str]]:  # fmt: skip
    """Load the newest whole checkpoint into model, objective and optimizer, `cut` the log back to it; a new State where
    there is none. Comes back with the names of those that were damaged and passed over. Raises CurateError for one that
    another model or other data made."""
    damaged = []
    for name in reversed(run.names("checkpoints/*.pt")):
        try:
            with run.local(name) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
            before = content["made_by"]
        except NO_WEIGHTS:
            damaged.append(name)
            continue
        for what, value in json.loads(json.dumps(dict(made_by))).items():
            if before.get(what) != value:
                raise CurateError(f"{run.url}/{name} is of another run: its {what} is {before.get(what)}, not {value}; "
                                  f"remove it, or {WAY_OUT}")  # fmt: skip
        try:
            _load(model, objective, optimizer, content)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[-1].strip()
            raise CurateError(f"{run.url}/{name} does not fit this model: {reason[:160]}; {WAY_OUT}") from error
        if cut:
            _cut_logs(run, content["step"])
        best = content["best"]
        uids = content["undecodable"]  # all of them, and no count, in checkpoints of before 28 November 2026
        return State(content["step"], content.get("replaced", len(uids)), uids[:NAMED], content["recent"],
                     tuple(content["since"]), None if best is None else tuple(best)), damaged  # fmt: skip
    if cut:
        _cut_logs(run, 0)
    return State(), damaged


def _load(model: torch.nn.Module, objective: torch.nn.Module, optimizer: torch.optim.Optimizer,
          content: dict[str, Any]) -> None:  # fmt: skip
    """Give each what the checkpoint has of it; of what is shared out, its part."""
    held = model.state_dict()
    model.load_state_dict({name: like(value, held.get(name, value)) for name, value in content["state_dict"].items()})
    objective.load_state_dict(content["objective"])
    averages = content["optimizer"]["state"]
    for number, weight in enumerate(weight for group in optimizer.param_groups for weight in group["params"]):
        averages[number] = {name: like(value, weight) if value.ndim else value
                            for name, value in averages.get(number, {}).items()}  # fmt: skip
    optimizer.load_state_dict(content["optimizer"])


def save_torch(run: Folder, name: str, content: Any) -> None:
    """torch.save, whole or not at all; the same content gives the same bytes."""
    # through a file object: given a path, torch writes its name, with our process id in it, into the file
    with run.writing(name) as temporary, open(temporary, "wb") as file:
        told = _Told(file)
        try:
            torch.save(content, cast(IO[bytes], told))
        except RuntimeError as error:  # torch does not say why a write failed
            raise told.error or error from error


class _Told:
    """A file for torch.save that remembers why a write failed."""

    def __init__(self, file: Any):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def lines(run: Folder, name: str) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file; a line cut short by a kill does not count."""
    if not run.exists(name):
        return []
    return [json.loads(line) for line in run.read_bytes(name).splitlines(keepends=True) if line.endswith(b"\n")]


def _cut_logs(run: Folder, step: int) -> None:
    for name in (LOG, EVALS):
        if name == LOG or run.exists(name):
            kept = [line for line in lines(run, name) if line["step"] <= step]
            run.write_bytes(name, "".join(json.dumps(line) + "\n" for line in kept).encode())


def copied(value: Any, here: bool = True) -> Any:
    """The same nest of dicts and lists with every tensor whole and copied to the CPU; to nowhere unless `here`."""
    if isinstance(value, torch.Tensor):
        together = whole(value.detach())
        return together.to("cpu", copy=True) if here else None
    if isinstance(value, dict):
        return type(value)((key, copied(inner, here)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return type(value)(copied(inner, here) for inner in value)
    return value
