"""What stops a run before its last step: a signal, a loss that is not finite, a loss that leaps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from curate.errors import CurateError
from curate.files import Folder
from curate.train.checkpoint import State
from curate.train.loader import Batch, Loader

COMPARED = 100  # losses that a new one is compared with
FIRST = 20  # losses before which nothing counts as a leap
BAD_BATCH = "bad-batch.json"


@contextmanager
def stop_signals() -> Iterator[list[str]]:
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


def spike(state: State, loss: float, most: float | None) -> str | None:
    """What is wrong with a loss of more than `most` times the mean of the last ones; None where nothing is. The loss
    joins the last ones."""
    recent = state.recent
    mean = sum(recent) / len(recent) if recent else 0.0
    leaps = most is not None and len(recent) >= FIRST and loss > most * mean
    state.recent = [*recent, loss][-COMPARED:]
    return f"the loss is {loss:.4g}, {loss / mean:.1f} times the mean of the last {len(recent)}" if leaps else None


def bad_batch(run: Folder, loader: Loader, batch: Batch, step: int, what: str, way_out: str) -> CurateError:
    """Write the uids of a batch down, of all processes together; the error that ends the run."""
    uids = loader.ranks.together(loader.index.uids(batch.rows))
    if loader.ranks.first:
        facts: dict[str, Any] = {"step": step, "what": what, "uids": uids}
        run.write_json(BAD_BATCH, facts)
    return CurateError(
        f"{what} at step {step:,}; the uids of its pairs are in {run.url}/{BAD_BATCH}. {way_out}; "
        "the last checkpoint is kept"
    )
