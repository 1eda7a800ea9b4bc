"""The training loop: a batch, a step, a line in the log, now and then a checkpoint."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch

from curate.errors import CurateError
from curate.files import Folder
from curate.train import checkpoint, guard, memory
from curate.train.checkpoint import Saver, State
from curate.train.loader import Batch, Loader
from curate.train.log import Log
from curate.train.progress import Arithmetic, Clock
from curate.train.ranks import Ranks, all_there
from curate.train.step import AT_ONCE, BadLoss, How, learning_rate, train_step

LOG_LINES = 10_000  # about; every step of short runs is logged
MORE_CARE = "A lower --lr, a longer --warmup or --precision fp32 may help"

# (checkpoint file, folder for the details) -> a score by benchmark, more is better
Evaluator = Callable[[str, str], dict[str, float]]


@dataclass(frozen=True)
class Schedule:
    """How long, how fast."""

    steps: int
    lr: float
    warmup: int

    @property
    def log_every(self) -> int:
        return max(1, self.steps // LOG_LINES)


@dataclass(frozen=True)
class Watch:
    """How a run is kept and watched; none of it changes a weight.

    save_every: steps between checkpoints. keep: how many of the newest stay. max_spike: a loss of so many times the
    mean of the last 100 stops the run. evaluator, eval_every: scores a checkpoint every so many steps, and the best
    score decides which is the best, instead of the mean loss since the one before.
    """

    save_every: int = 500
    keep: int = 2
    max_spike: float | None = None
    evaluator: Evaluator | None = None
    eval_every: int = 0
    tensorboard: bool = False
    wandb: str | None = None
    arithmetic: Arithmetic = field(default_factory=Arithmetic)


@dataclass
class Trainer:
    """One run: what is trained, on what, how, and where it is kept."""

    run: Folder
    model: Any
    objective: Any
    optimizer: torch.optim.AdamW
    loader: Loader
    schedule: Schedule
    watch: Watch
    made_by: Mapping[str, Any]  # model and fingerprint of the data, which checkpoints carry
    note: Callable[[str], None] = lambda line: None  # called with what the user should know
    how: How = AT_ONCE

    @property
    def ranks(self) -> Ranks:
        return self.how.ranks

    def train(self) -> State:
        """Go on from the newest checkpoint to the last step. Raises CurateError where the loss is not finite or leaps,
        where the disk is full, and where a signal (SIGTERM, Ctrl-C) asks to stop: a checkpoint is saved first."""
        state, damaged = checkpoint.restore(self.run, self.model, self.objective, self.optimizer, self.made_by,
                                             cut=self.ranks.first)  # fmt: skip
        self.ranks.wait()  # nobody removes a checkpoint that another one reads
        for name in damaged:
            self.note(f"{self.run.url}/{name} is damaged; going on from step {state.step:,}")
        steps, watch = self.schedule.steps, self.watch
        with ExitStack() as stack:
            # one process writes; the files of the others are of no use to anyone
            own = self.run if self.ranks.first else Folder(stack.enter_context(TemporaryDirectory()))
            stopped = stack.enter_context(guard.stop_signals())
            log = stack.enter_context(Log(own, state.step, watch.tensorboard, watch.wandb if self.ranks.first else None,
                                          dict(self.made_by)))  # fmt: skip
            saver = stack.enter_context(Saver(own, watch.keep, self.made_by))
            clock = stack.enter_context(Clock(own, state.step, steps, self.loader.batch_size, watch.arithmetic))
            self._evaluate(state, saver, log, clock)
            for batch in clock.waited(self.loader.batches(state.step, steps)):
                line, asked = self._step(state, batch, stopped)
                if state.step % self.schedule.log_every == 0 or state.step == steps:
                    log.step(line)
                clock.tick(line)
                saver.check()
                self._save(state, saver, bool(asked))
                self._evaluate(state, saver, log, clock)
                if asked and state.step < steps:
                    saver.wait()
                    raise CurateError(
                        f"stopped by {asked[0]} after step {state.step:,} of {steps:,}; "
                        f"{self.run.url} is saved, the same command goes on from there"
                    )
        return state

    def _step(self, state: State, batch: Batch, stopped: list[str]) -> tuple[dict[str, Any], list[str]]:
        """One step: (what the log says of it, the signals that any process was sent before it ended)."""
        schedule, loader = self.schedule, self.loader
        lr = learning_rate(state.step, schedule.steps, schedule.lr, schedule.warmup)
        seed = loader.seed * 1_000_003 + state.step  # patch dropout: from the step alone
        try:
            with all_there():  # where weights are shared out, they are exchanged anywhere in a step
                loss = self._fitting(batch, lr, seed)
        except BadLoss as error:
            raise guard.bad_batch(self.run, loader, batch, state.step + 1, str(error), MORE_CARE) from error
        state.step += 1
        uids = loader.index.uids(batch.undecodable)
        undecodable, asked = self.ranks.joint(uids, list(stopped))  # a signal from here on is the next step's
        state.lost(undecodable)
        if leap := guard.spike(state, loss, self.watch.max_spike):
            raise guard.bad_batch(self.run, loader, batch, state.step, leap, f"{MORE_CARE}, or a higher --max-spike")
        state.since = (state.since[0] + loss, state.since[1] + 1)
        scale = self.model.logit_scale.exp().item()
        samples = state.step * loader.batch_size
        return {"step": state.step, "loss": loss, "lr": lr, "scale": scale, "samples": samples}, asked

    def _fitting(self, batch: Batch, lr: float, seed: int) -> float:
        """The loss of a step, taken in smaller parts from here on where the GPU has no room for it: a step changes no
        weight before its end. Raises CurateError where that does not help, and where others wait for this process."""
        while True:
            try:
                return train_step(self.model, self.objective, self.optimizer, batch, lr, self.how, seed)
            except torch.OutOfMemoryError as error:
                how, reason = self.how, str(error).split(". ", 1)[0]
            # beyond the except, which holds all that was computed
            less = memory.smaller(how.chunk, how.keep, len(batch.pixels)) if self.ranks.size == 1 else None
            if less is None:
                raise CurateError(f"{reason}, with --chunk {how.chunk or len(batch.pixels)}: a smaller one, or a "
                                  "smaller --batch-size; the last checkpoint is kept")  # fmt: skip
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.how = replace(how, chunk=less[0], keep=less[1])
            self.note(f"{reason}: going on with {less[0]:,} pairs at a time and {less[1]:,} graphs kept")

    def _save(self, state: State, saver: Saver, asked: bool) -> None:
        """A checkpoint where the schedule or a signal wants one."""
        on_schedule = state.step % self.watch.save_every == 0
        if on_schedule and not self.watch.evaluator:
            mean = state.since[0] / state.since[1]
            if state.best is None or mean < state.best[1]:
                state.best = (state.step, mean)
            state.since = (0.0, 0)
        due = asked or on_schedule or self._evaluates_at(state.step)
        if due and (self.ranks.first or self.how.sharded):
            saver.save(state, self.model, self.objective, self.optimizer, self.ranks.first)

    def _evaluates_at(self, step: int) -> bool:
        return bool(self.watch.evaluator and step and step % self.watch.eval_every == 0)

    def _evaluate(self, state: State, saver: Saver, log: Log, clock: Clock) -> None:
        """Score the checkpoint of this step, where one is due and was not scored before the run was stopped."""
        if not self._evaluates_at(state.step):
            return
        if self.ranks.first:
            self._scored(state, saver, log)
        self.ranks.wait()
        clock.pause()

    def _scored(self, state: State, saver: Saver, log: Log) -> None:
        before = checkpoint.lines(self.run, checkpoint.EVALS)
        if any(line["step"] == state.step for line in before):
            return
        saver.wait()
        assert self.watch.evaluator
        name = checkpoint.path(state.step)
        scores = self.watch.evaluator(f"{self.run.url}/{name}", f"{self.run.url}/eval/{state.step:09d}")
        log.evaluated(state.step, scores)
        mean = sum(scores.values()) / len(scores)
        if state.best is None or mean > state.best[1]:
            state.best = (state.step, mean)
