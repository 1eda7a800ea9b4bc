"""How a run goes: a bar on a terminal, a line a minute in a file; and the timings, on which nothing else depends."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from curate import work
from curate.files import Folder
from curate.train import flops
from curate.train.checkpoint import TIMINGS
from curate.train.loader import Batch

REFRESH = 1.0  # seconds between lines of the timings
QUIET_LINE = 60.0  # seconds between lines where standard error is no terminal


@dataclass(frozen=True)
class Arithmetic:
    """FLOPs of an image and of a text token, forward; FLOP/s of the device at best, None where unknown."""

    of_image: float = 0.0
    of_token: float = 0.0
    peak: float | None = None


class Clock:
    """Counts steps; `out` is the run's folder, on this machine."""

    def __init__(self, out: Folder, step: int, steps: int, batch_size: int, arithmetic: Arithmetic):
        self.path, self.step, self.steps = out.path(TIMINGS), step, steps
        self.batch_size, self.arithmetic = batch_size, arithmetic
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=step, desc="train-clip", unit="step",
                        disable=work.QUIET or not self.terminal)  # fmt: skip
        self.wait = 0.0  # seconds without a batch since the last line
        self.tokens, self.texts = 0, 0

    def __enter__(self) -> "Clock":
        self.file = open(self.path, "a", buffering=1)
        self.last = self.said = self.began = self.ticked = time.perf_counter()
        self.began_at = self.step
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
            self.tokens += int(batch.tokens.argmax(dim=-1).sum()) + len(batch.tokens)  # up to the end token
            self.texts += len(batch.tokens)
            yield batch

    def pause(self) -> None:
        """What happened since the last step (an evaluation) is no training."""
        now = time.perf_counter()
        self.began += now - self.ticked
        self.last += now - self.ticked

    def tick(self, line: dict[str, Any]) -> None:
        """Count a step; `line` is what the log says of it."""
        self.bar.update()
        now = self.ticked = time.perf_counter()
        seconds = now - self.last
        if seconds < REFRESH and line["step"] < self.steps:
            return
        steps, self.step = line["step"] - self.step, line["step"]
        rate = steps * self.batch_size / seconds
        done = rate * flops.per_sample(self.arithmetic.of_image, self.arithmetic.of_token, self.tokens / self.texts)
        timing = {"step": self.step, "steps": steps, "seconds": round(seconds, 4), "data_wait": round(self.wait, 4),
                  "flops": round(done)}  # fmt: skip
        self.file.write(json.dumps(timing) + "\n")
        said = (f"loss {line['loss']:.3f}, scale {line['scale']:.1f}, {rate:,.0f} samples/s, "
                f"data wait {self.wait / seconds:.0%}{self._speed(done)}")  # fmt: skip
        self._say(said, now)
        self.last, self.wait, self.tokens, self.texts = time.perf_counter(), 0.0, 0, 0

    def _speed(self, done: float) -> str:
        if not done:
            return ""
        if self.arithmetic.peak:
            return f", MFU {done / self.arithmetic.peak:.0%}"
        return f", {done / 1e9:,.3g} GFLOP/s"

    def _say(self, said: str, now: float) -> None:
        if self.terminal or work.QUIET:
            self.bar.set_postfix_str(said)
        elif now - self.said >= QUIET_LINE or self.step == self.steps:
            self.said = now
            left = (self.steps - self.step) * (now - self.began) / (self.step - self.began_at)
            sys.stderr.write(
                f"train-clip: step {self.step:,} of {self.steps:,}, {said}, {tqdm.format_interval(left)} left\n"
            )
