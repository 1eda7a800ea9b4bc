"""What a finished run says of itself: numbers, and one line."""

from typing import Any

from curate.files import Folder
from curate.train import checkpoint
from curate.train.checkpoint import MODEL, State
from curate.words import counted

LAST = 10  # lines of the log whose mean loss is reported as the last


def numbers(folder: Folder, state: State, batch_size: int) -> dict[str, Any]:
    losses = [line["loss"] for line in checkpoint.lines(folder, checkpoint.LOG)]
    timings = checkpoint.lines(folder, checkpoint.TIMINGS)
    seconds = sum(line["seconds"] for line in timings)
    return {
        "run": folder.url,
        "steps": state.step,
        "samples": state.step * batch_size,
        "first_loss": round(losses[0], 4),
        "last_loss": round(sum(losses[-LAST:]) / len(losses[-LAST:]), 4),
        "seconds": round(seconds, 1),
        "samples_per_s": round(sum(line["steps"] for line in timings) * batch_size / seconds, 1),
        "data_wait": round(sum(line["data_wait"] for line in timings) / seconds, 4),
        "undecodable": state.replaced,
        "undecodable_uids": state.undecodable,
        "best_step": state.best and state.best[0],
    }


def line(folder: Folder, record: dict[str, Any], found: dict[str, Any]) -> str:
    options, pairs = record["options"], record["data"]["samples"]
    epochs = options["epochs"] or round(found["samples"] / pairs, 3)
    replaced = f", {found['undecodable']:,} times an image could not be decoded" if found["undecodable"] else ""
    passes = f"{epochs:g} epoch{'s' * (epochs != 1)}"
    return (
        f"train-clip: {options['model']}, {counted(pairs, 'pair')} x {passes}, loss {found['first_loss']:.2f} -> "
        f"{found['last_loss']:.2f} in {found['seconds']:,.0f} s ({found['samples_per_s']:,.0f} samples/s)"
        f"{replaced}, {folder.url}/{MODEL}"
    )
