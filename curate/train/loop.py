"""The training loop: a batch, a step, a line in the log, now and then a checkpoint."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from curate import work
from curate.errors import CurateError
from curate.files import Folder
from curate.train import checkpoint
from curate.train.checkpoint import LOG, TIMINGS, State
from curate.train.loader import Batch, Loader
from curate.train.step import BadLoss, How, learning_rate, train_step

LOG_LINES = 10_000  # about; every step of short runs is logged
REFRESH = 1.0  # seconds between lines of the timings


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, how often saved."""

    steps: int
    lr: float
    warmup: int
    save_every: int
    precision: str

    @property
    def log_every(self) -> int:
        return max(1, self.steps // LOG_LINES)


def train(run: Folder, model: Any, objective: Any, optimizer: torch.optim.AdamW, loader: Loader,
          schedule: Schedule) -> State:  # fmt: skip
    """Go on from the newest checkpoint of `run` to the last step. Raises CurateError where the loss is not finite, and
    where a signal (SIGTERM, Ctrl-C) asks to stop: a checkpoint is saved first."""
    state = checkpoint.restore(run, model, optimizer)
    with ExitStack() as stack:
        stopped = stack.enter_context(_stop_signals())
        log = stack.enter_context(open(_local(run, LOG), "a", buffering=1))
        clock = stack.enter_context(_Clock(run, state.step, schedule, loader.batch_size))
        for batch in clock.waited(loader.batches(state.step, schedule.steps)):
            lr = learning_rate(state.step, schedule.steps, schedule.lr, schedule.warmup)
            seed = loader.seed * 1_000_003 + state.step  # patch dropout: from the step alone
            try:
                loss = train_step(model, objective, optimizer, batch, lr, How(schedule.precision), seed)
            except BadLoss as error:
                raise _bad_batch(run, loader, batch, state.step, error) from error
            state.step += 1
            state.undecodable.update(loader.index.uids(batch.undecodable))
            line = {
                "step": state.step,
                "loss": loss,
                "lr": lr,
                "scale": model.logit_scale.exp().item(),
                "samples": state.step * loader.batch_size,
            }
            if state.step % schedule.log_every == 0 or state.step == schedule.steps:
                log.write(json.dumps(line) + "\n")
            clock.tick(line)
            if stopped or state.step % schedule.save_every == 0:
                checkpoint.save(run, state, model, optimizer)
            if stopped and state.step < schedule.steps:
                raise CurateError(
                    f"stopped by {stopped[0]} after step {state.step:,} of {schedule.steps:,}; "
                    f"{run.url} is saved, the same command goes on from there"
                )
    return state


class _Clock:
    """The progress bar, and the timings of this process: kept out of the log, which is the same in every run."""

    def __init__(self, run: Folder, step: int, schedule: Schedule, batch_size: int):
        self.path, self.step, self.steps, self.batch_size = _local(run, TIMINGS), step, schedule.steps, batch_size
        self.bar = tqdm(total=schedule.steps, initial=step, desc="train-clip", unit="step", disable=work.QUIET)
        self.wait = 0.0  # seconds without a batch since the last line

    def __enter__(self) -> "_Clock":
        self.file = open(self.path, "a", buffering=1)
        self.last = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.file.close()

    def waited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time until each of them is there counts as waiting for data."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.wait += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def tick(self, line: dict[str, Any]) -> None:
        """Count a step; `line` is what the log says of it."""
        self.bar.update()
        seconds = time.perf_counter() - self.last
        if seconds < REFRESH and line["step"] < self.steps:
            return
        steps, self.step = line["step"] - self.step, line["step"]
        timing = {"step": self.step, "steps": steps, "seconds": round(seconds, 4), "data_wait": round(self.wait, 4)}
        self.file.write(json.dumps(timing) + "\n")
        self.bar.set_postfix_str(
            f"loss {line['loss']:.3f}, scale {line['scale']:.1f}, {steps * self.batch_size / seconds:,.0f} samples/s, "
            f"data wait {self.wait / seconds:.0%}"
        )
        self.last, self.wait = time.perf_counter(), 0.0


@contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """A list that the name of a signal joins when one asks to stop; the step that runs is finished first."""
    arrived: list[str] = []

    def note(number: int, frame: object) -> None:
        arrived.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bad_batch(run: Folder, loader: Loader, batch: Batch, step: int, error: BadLoss) -> CurateError:
    run.write_json("bad-batch.json", {"step": step + 1, "uids": loader.index.uids(batch.rows)})
    return CurateError(
        f"{error} at step {step + 1}; the uids of its pairs are in {run.url}/bad-batch.json. "
        f"A lower --lr, a longer --warmup or --precision fp32 may help; the last checkpoint is kept"
    )


def _local(run: Folder, name: str) -> Path:
    if not run.is_local:
        raise CurateError(f"--out {run.url} is not on this machine; train into a local folder and copy it")
    path = Path(run.path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
