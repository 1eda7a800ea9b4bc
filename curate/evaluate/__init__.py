"""Evaluate a CLIP model on benchmark sets: what it classifies, finds, learns from few images and is fooled by."""

import io
import itertools
from collections.abc import Sequence
from typing import Any

from curate import named
from curate.benchmark import open_benchmark
from curate.clip import models
from curate.clip.model_config import weights_file
from curate.errors import BadShard, CurateError
from curate.evaluate import judge as judging
from curate.evaluate import plot, shifts, table, tasks
from curate.evaluate.few_shot import DRAWS
from curate.evaluate.retrieval import AT
from curate.evaluate.sets import TestSet
from curate.evaluate.tasks import TASKS
from curate.files import Folder
from curate.words import counted

ROBUSTNESS = "robustness"
LOOKED_AT = 100  # images of a benchmark, for whether they have labels or texts
TABLE, PAGE, DRAWING = "eval.csv", "eval.html", "robustness.svg"


def run(model: str, benchmarks: Sequence[str], out: str | None = None, arch: str | None = None, batch_size: int = 256,
        device: str = "auto", tasks_asked: Sequence[str] = (), precision: str = "fp32", train: Sequence[str] = (),
        shots: Sequence[int] = (), draws: int = DRAWS, base: str | None = None, baselines: Sequence[str] = (),
        beside: Sequence[str] = (), seed: int = 0) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Write <out>/<benchmark>.json, which keeps what other tasks of the same weights wrote before, and eval.csv and
    eval.html over all; comes back with (summary, numbers, failed benchmarks).

    `model` is a run, a checkpoint file or, with `arch`, an open_clip tag. `tasks_asked`: some of TASKS; by default
    zero-shot where a benchmark has labels, retrieval where it has texts. `train`: NAME=DIR, or a DIR for the only
    benchmark. `beside`: other runs' folders of results, as more columns.
    Raises CurateError for a model that does not load, and for a folder that is no benchmark.
    """
    unknown = [task for task in tasks_asked if task not in TASKS]
    if unknown:
        raise CurateError(f"no task '{unknown[0]}'; choose from: {', '.join(TASKS)}")
    if batch_size < 1:
        raise CurateError(f"--batch-size {batch_size} is not a positive number")
    for option, value, needed in (("--shots", shots, {"few-shot"}), ("--train", train, {"few-shot", "linear-probe"}),
                                  ("--base", base, {ROBUSTNESS}), ("--baseline", baselines, {ROBUSTNESS})):  # fmt: skip
        if value and needed.isdisjoint(tasks_asked):
            raise CurateError(f"{option} is for --task {' and '.join(sorted(needed))}; ask for it")
    folder = Folder(out or _beside(model, arch))
    learnt = _train_folders(train, benchmarks)
    others = {_name(place): results(place) for place in beside}
    clip = models.load(arch, model, device, precision)
    judge = judging.judge_of(model, clip)
    for task in tasks_asked:
        if judge:
            judge.check(task)
    sets = [TestSet(clip, path, learnt.get(_name(path)), folder.within("cache"), batch_size, seed, judge)
            for path in benchmarks]  # fmt: skip
    twice = next((test.name for test in sets if [each.name for each in sets].count(test.name) > 1), None)
    if twice:
        raise CurateError(f"two benchmarks are called '{twice}'; evaluate them one by one, with an --out for each")
    numbers: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for test in sets:
        try:
            numbers[test.name] = evaluate(test, tasks_asked, shots, draws, folder)
        except BadShard as error:
            failures[test.name] = str(error)
    if ROBUSTNESS in tasks_asked:
        usable = [test for test in sets if test.name not in failures]
        _shift(usable, base, baselines, _run_name(model), folder, numbers)
    made_by = {"model": clip.name, "weights": clip.made_by["weights"], "precision": clip.precision}
    made_by |= {"objective": judge.made_by} if judge else {}
    for name, found in numbers.items():
        numbers[name] = _kept(folder, name, {**made_by, **found})
    written = _write_table(folder, _run_name(model), numbers, others)
    summary = "\n".join([*(_line(name, found) for name, found in numbers.items()), *written])
    return summary or "eval: no benchmark could be read", {"out": folder.url, "benchmarks": numbers}, failures


def check(benchmarks: Sequence[str], objective: str) -> None:
    """What an evaluation of a run with this objective would refuse, before the run: raises CurateError for a folder
    that is no benchmark, and for one with nothing to ask such a run."""
    goal = named.load("train.objectives", objective)
    for path in benchmarks:
        benchmark = open_benchmark(path)
        seen = list(itertools.islice(benchmark.samples(), LOOKED_AT))
        labelled = any(sample.label is not None or sample.labels for sample in seen)
        if not labelled and not any(sample.texts for sample in seen):
            raise tasks.nothing_to_compare(benchmark.name)
        if judging.judges(goal):
            judging.check(objective, goal, "zero-shot" if labelled else "retrieval")


def evaluate(test: TestSet, asked: Sequence[str], shots: Sequence[int], draws: int, folder: Folder) -> dict[str, Any]:
    """The numbers of one benchmark; what belongs to single images goes into files beside its JSON."""
    found = test.found
    numbers: dict[str, Any] = {"images": len(found.keys), "undecodable": found.undecodable,
                               "files": test.benchmark.fingerprint()}  # fmt: skip
    if not found.keys:
        raise CurateError(f"benchmark {test.name}: none of its {len(found.undecodable)} images can be decoded")
    made_by = {"model": test.model.name, "weights": test.model.made_by["weights"]}
    for task in asked or tasks.offered(test):
        if task == ROBUSTNESS:
            continue
        numbers |= tasks.numbers(test, task, shots, draws)
        if task == "zero-shot" and "zero_shot" in numbers:
            folder.write_table(f"{test.name}-predictions.parquet", tasks.predictions(test), made_by)
        if task == "typographic":
            picture = io.BytesIO()
            tasks.examples(test).save(picture, "PNG")
            folder.write_bytes(f"{test.name}-typographic.png", picture.getvalue())
    return numbers


def results(place: str) -> dict[str, Any]:
    """benchmark -> numbers, of a run or of a folder that curate eval wrote. Raises CurateError where it holds none."""
    folder = Folder(place.rstrip("/"))
    folder = folder.within("eval") if folder.exists("eval") else folder
    found = {name.removesuffix(".json"): folder.read_json(name) for name in folder.names("*.json")}
    found = {name: numbers for name, numbers in found.items() if isinstance(numbers, dict) and "weights" in numbers}
    if not found:
        raise CurateError(f"--beside {place} holds no results of curate eval")
    return found


def _shift(sets: Sequence[TestSet], base: str | None, baselines: Sequence[str], model: str, folder: Folder,
           numbers: dict[str, Any]) -> None:  # fmt: skip
    """Add the numbers of the family of benchmarks, and write their table and plot."""
    others = shifts.read(baselines, shifts.base_of(sets, base).name)
    found = shifts.robustness(sets, base, others)
    for name, about in found.items():
        numbers[name][ROBUSTNESS] = about
    folder.write_bytes(shifts.FILE, shifts.table(model, found).encode())
    folder.write_bytes(DRAWING, shifts.drawing(model, found, others).encode())


def _kept(folder: Folder, name: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers, with those of other tasks that the same weights reached before on the same files; written."""
    same = ("model", "weights", "precision", "files", "objective")
    if folder.exists(f"{name}.json"):
        before = folder.read_json(f"{name}.json")
        if isinstance(before, dict) and all(before.get(key) == numbers.get(key) for key in same):
            numbers = {**before, **numbers}
    folder.write_json(f"{name}.json", numbers)
    return numbers


def _write_table(folder: Folder, model: str, numbers: dict[str, Any], others: dict[str, dict[str, Any]]) -> list[str]:
    """eval.csv and eval.html of this run and those beside it; the table itself where there is something to compare."""
    runs = {model: numbers, **{f"{name} (beside)" if name == model else name: found for name, found in others.items()}}
    rows = [row for run_name, found in runs.items() for name in numbers if name in found
            for row in table.rows(run_name, name, found[name])]  # fmt: skip
    if not rows:
        return []
    folder.write_bytes(TABLE, table.as_csv(rows).encode())
    drawing = plot.dots(rows, f"Results of {', '.join(runs)}")
    about = "Dots with 95 % intervals; the grey tick is chance."
    folder.write_bytes(PAGE, plot.page("curate eval", about, [drawing], plot.html_table(*table.wide(rows))).encode())
    return ["", table.as_markdown(rows).rstrip()] if others or len(numbers) > 1 else []


def _train_folders(given: Sequence[str], benchmarks: Sequence[str]) -> dict[str, str]:
    """benchmark -> folder with its training images. Raises CurateError."""
    names = [_name(path) for path in benchmarks]
    found = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals and len(names) == 1:
            name, place = names[0], text
        if name not in names or not place:
            raise CurateError(f"--train {text}: write NAME=DIR, where NAME is a benchmark ({', '.join(names)})")
        found[name] = place
    return found


def _beside(model: str, arch: str | None) -> str:
    """Where the numbers of a model go when nobody says: a run keeps its own."""
    weights = weights_file(model)
    return weights[0].within("eval").url if weights else f"eval/{arch}-{model}"


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _run_name(model: str) -> str:
    """What a run is called in tables: its folder, for its model.pt too."""
    parts = [part for part in model.rstrip("/").split("/") if part not in ("", ".", "..")]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model.pt" else parts[-1] if parts else model


def _line(name: str, found: dict[str, Any]) -> str:
    lost = f", {len(found['undecodable'])} could not be decoded" if found["undecodable"] else ""
    parts = []
    if shot := found.get("zero_shot"):
        empty = f", {shot['classes_without_images']} without images" if shot["classes_without_images"] else ""
        chance = f"chance {shot['chance']:.1%} of {shot['classes']} classes{empty}"
        parts.append(f"zero-shot top-1 {_share(shot['top1'])} ({chance})")
    if several := found.get("multilabel"):
        parts.append(f"zero-shot mAP {_share(several['mean_average_precision'])} (chance {several['chance']:.1%})")
    if both := found.get("retrieval"):
        parts.append(f"image to text {_recalls(both['image_to_text'])}")
        parts.append(f"text to image {_recalls(both['text_to_image'])}")
    if probe := found.get("linear_probe"):
        parts.append(f"linear probe top-1 {_share(probe['top1'])} (strength {probe['strength']:g})")
    if few := found.get("few_shot"):
        parts.append(", ".join(f"{k}-shot {reached['value']:.1%}" for k, reached in few["shots"].items()))
    if attack := found.get("typographic"):
        parts.append(
            f"with a wrong word written {_share(attack['after'])}, {_share(attack['follow_the_word'])} follow it"
        )
    if shift := found.get("robustness"):
        above = (
            f", effective robustness {_points(shift['effective_robustness'])}"
            if "effective_robustness" in shift
            else ""
        )
        of = f"{shift['base_set']}" if "base_set" in shift else f"{len(shift['shifts'])} shifts on average"
        parts.append(f"gap to {of} {_points(shift['gap'])}{above}")
    return f"eval: {name}, {counted(found['images'], 'image')}{lost}: {'; '.join(parts)}"


def _share(found: dict[str, Any]) -> str:
    low, high = found["interval95"]
    return f"{found['value']:.1%} [{low:.1%}, {high:.1%}]"


def _points(found: dict[str, Any]) -> str:
    low, high = found.get("interval95", (None, None))
    reach = f" [{100 * low:+.1f}, {100 * high:+.1f}]" if low is not None else ""
    return f"{100 * found['value']:+.1f} points{reach}"


def _recalls(found: dict[str, Any]) -> str:
    return ", ".join(
        f"R@{k} {found[f'recall@{k}']['value']:.1%} (chance {found['chance'][f'recall@{k}']:.1%})" for k in AT
    )
