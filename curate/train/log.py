"""What is written down of the steps: JSON lines, equal in every run; TensorBoard and wandb where asked for."""

import importlib
import json
from typing import Any

from curate.errors import CurateError
from curate.files import Folder
from curate.train.checkpoint import EVALS, LOG

SHOWN = ("loss", "lr", "scale")


class Log:
    """Writes the lines of steps and evaluations, each as soon as it is known.

    tensorboard: into RUN/tensorboard. wandb: the project of Weights & Biases; WANDB_MODE=offline keeps it here. Raises
    CurateError where their packages are not installed, and where wandb does not let us in.
    """

    def __init__(self, out: Folder, step: int, tensorboard: bool = False, wandb: str | None = None,
                 about: dict[str, Any] | None = None):  # fmt: skip
        self.out = out
        self.board: Any = None
        self.wandb: Any = None
        if tensorboard:
            writer = _imported("torch.utils.tensorboard", "--tensorboard", "tensorboard").SummaryWriter
            self.board = writer(out.path("tensorboard"), purge_step=step + 1)
        if wandb:
            module = _imported("wandb", "--wandb", "wandb")
            try:
                self.wandb = module.init(project=wandb, dir=out.path(), config=about, resume="allow", id=_id(out))
            except module.Error as error:
                raise CurateError(f"--wandb {wandb}: {error} Or set WANDB_MODE=offline") from error

    def __enter__(self) -> "Log":
        self.file = open(self.out.path(LOG), "a", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board:
            self.board.close()
        if self.wandb:
            self.wandb.finish()

    def step(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self._send(line["step"], {f"train/{name}": line[name] for name in SHOWN})

    def evaluated(self, step: int, scores: dict[str, float]) -> None:
        with open(self.out.path(EVALS), "a") as file:
            file.write(json.dumps({"step": step, "scores": scores}) + "\n")
        self._send(step, {f"eval/{name}": score for name, score in scores.items()})

    def _send(self, step: int, values: dict[str, float]) -> None:
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(values, step=step)


def check(tensorboard: bool, wandb: str | None) -> None:
    """Raises CurateError where a package is missing, before anything is begun."""
    if tensorboard:
        _imported("torch.utils.tensorboard", "--tensorboard", "tensorboard")
    if wandb:
        _imported("wandb", "--wandb", "wandb")


def _imported(module: str, option: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CurateError(f"{option} needs the package {package}: pip install 'curate[train]'") from error


def _id(out: Folder) -> str:
    """The same for one folder, so that a run that goes on is one run there too."""
    return "".join(char if char.isalnum() else "-" for char in out.url.strip("/"))[-64:]
