"""Is it better data? The same small model is trained on each selection at equal compute, several times, and measured.

Every seed is one initialisation and one rule of order, the same for all selections; the budget counts samples seen, so
a smaller selection is seen more often. Beside each selection stands a random one of the same size, drawn anew for every
seed from what the selection was chosen from: without it, quality and repetition cannot be told apart (the protocol of
DataComp, Gadre et al. 2023, with that control added).
"""

import math
from collections.abc import Sequence
from typing import Any

from curate import evaluate, train
from curate.benchmark import open_benchmark
from curate.clip import models
from curate.clip.model_config import made_by
from curate.compare import verdict
from curate.compare.arms import Arm, arms_of
from curate.compare.result import measures, report
from curate.errors import CurateError
from curate.files import Folder
from curate.train import index, plan, sources

SEEDS = 3
RESULT = "eval-data.json"


def run(data: Sequence[str], benchmarks: Sequence[str], out: str, budget: int, seeds: int = SEEDS,
        model: str = "ViT-Ti-64", batch_size: int = 256, lr: float = 1e-3, warmup: int = 50, control: bool = True,
        pool: str | None = None, device: str = "auto", precision: str = "auto", seed: int = 0,
        ) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Train seeds * (selections + controls) models into <out>/runs, evaluate them, write <out>/eval-data.json, .csv and
    .html; comes back with (summary, numbers, failed shards). What an earlier call finished is not done again.

    `data`: DATASET, DATASET:SELECTION or DATASET:all. `pool`: what controls are drawn from, a selection or "all"; the
    parent of each selection by default. Raises CurateError for fewer than 3 seeds, a selection that does not exist, and
    a budget below one batch.
    """
    if seeds < SEEDS:
        raise CurateError(f"--seeds {seeds}: from fewer than {SEEDS} runs no spread can be told")
    settings = {"model": model, "batch_size": batch_size, "lr": lr, "warmup": warmup, "precision": precision}
    plan.settings(None, None, settings)
    models.torch_device(device)
    if budget < batch_size:
        raise CurateError(f"--budget {budget:,} is less than one batch of {batch_size:,}")
    numbers_of = range(seed, seed + seeds)
    evaluate.check(benchmarks, "clip")
    folder, arms = Folder(out), arms_of(data, pool, numbers_of, control)
    few = next((arm for arm in arms if arm.pairs < batch_size), None)
    if few:
        raise CurateError(f"{few.name} has {few.pairs:,} pairs, fewer than one batch of {batch_size:,}")
    steps = math.ceil(budget / batch_size)
    options = {**settings, "device": device}
    failures: dict[str, str] = {}
    for number in numbers_of:  # one seed of every arm first: a run that is stopped has something to compare
        for arm in arms:
            failures |= _run(folder, arm, number, steps, options, benchmarks)
    reached = {arm.name: [_measured(_place(folder, arm, number), benchmarks) for number in numbers_of] for arm in arms}
    judged = verdict.judge(reached, arms)
    about = {"budget": budget, "steps": steps, "seeds": list(numbers_of), **options}
    told = [{"name": arm.name, "url": arm.url, "pairs": arm.pairs, "seen": round(steps * batch_size / arm.pairs, 2),
             "control_of": arm.control_of, "selections": arm.selections, "reached": reached[arm.name]}
            for arm in arms]  # fmt: skip
    result = {"options": about, "benchmarks": list(benchmarks), "arms": told, "verdict": judged}
    folder.write_json(RESULT, result)
    return report(folder, result), {"out": folder.url, **result}, failures


def _place(folder: Folder, arm: Arm, seed: int) -> Folder:
    return folder.within(f"runs/{arm.slug}-s{seed}")


def _run(folder: Folder, arm: Arm, seed: int, steps: int, options: dict[str, Any],
         benchmarks: Sequence[str]) -> dict[str, str]:  # fmt: skip
    """Train and evaluate one model, unless it is there; the shards that could not be read come back."""
    place, selection = _place(folder, arm, seed), arm.selections[str(seed)]
    pairs = len(index.build(sources.of([arm.url], selection), place.within("cache")))
    # half a sample less than a whole step: rounding must not add another
    epochs = (steps * options["batch_size"] - 0.5) / pairs
    _, _, failures = train.run([arm.url], place.url, selection=selection, epochs=epochs, seed=seed, **options)
    place.remove("checkpoints")  # a finished run needs none
    weights = made_by(None, place.url)["weights"]
    todo = [path for path in benchmarks if not _evaluated(place, path, weights)]
    if todo:
        _, _, lost = evaluate.run(place.url, todo, device=options["device"], precision="fp32")
        failures = {**failures, **lost}
        place.within("eval").remove("cache")
    if missing := [path for path in benchmarks if not _evaluated(place, path, weights)]:
        raise CurateError(
            f"benchmark {missing[0]} could not be evaluated: {next(iter(failures.values()), 'no numbers')}"
        )
    return {f"{arm.name}, seed {seed}: {item}": reason for item, reason in failures.items()}


def _evaluated(place: Folder, benchmark: str, weights: str) -> bool:
    opened, name = open_benchmark(benchmark), f"eval/{open_benchmark(benchmark).name}.json"
    if not place.exists(name):
        return False
    found = place.read_json(name)
    return found.get("weights") == weights and found.get("files") == opened.fingerprint()


def _measured(place: Folder, benchmarks: Sequence[str]) -> dict[str, float]:
    """measure -> value, over all benchmarks."""
    found: dict[str, float] = {}
    for path in benchmarks:
        name = open_benchmark(path).name
        found |= {f"{name}: {measure}": value for measure, value in measures(place.read_json(f"eval/{name}.json"))}
    return found
