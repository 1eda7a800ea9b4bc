"""The command line: options and one call for each command; a stage is imported when its command runs."""

import contextlib
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import curate
from curate.errors import BadShard, CurateError, client_errors

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command has, and the one place where results and errors are printed.

    A command returns (summary line, numbers for --json, failures by item).
    """

    @click.option("-v", "--verbose", is_flag=True, help="Show a full traceback when something breaks.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
    @click.option("--json", "as_json", is_flag=True, help="Print a machine-readable summary on stdout.")
    @functools.wraps(command)
    def wrapped(*args: Any, verbose: bool, quiet: bool, as_json: bool, **kwargs: Any) -> None:
        try:
            _check_filled(click.get_current_context(), kwargs)
            with contextlib.suppress(ModuleNotFoundError):  # no pyarrow: doctor says so
                importlib.import_module("curate.memory").without_pandas()
            vars(importlib.import_module("curate.work"))["QUIET"] = quiet
            summary, numbers, failures = command(*args, **kwargs)
        except (CurateError, BadShard) as error:
            if verbose:
                raise
            click.echo(f"curate: {error}", err=True)
            sys.exit(1)
        except client_errors() as error:
            if verbose:
                raise
            click.echo(f"curate: a store does not answer: {error}; look at its address and your credentials", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("\ncurate: interrupted; what is done is kept, run again to go on", err=True)
            os._exit(INTERRUPTED)  # threads that still fetch or compute are not waited for
        for item, reason in failures.items():
            click.echo(f"curate: {reason}" if item in reason else f"curate: {item}: {reason}", err=True)
        click.echo(_json({"summary": summary, "failures": failures, **numbers}) if as_json else summary)
        if failures:
            click.echo(f"curate: {len(failures)} failed (above); what succeeded is kept, run again to retry", err=True)
            sys.exit(1)

    return wrapped


engine_option = click.option(
    "--engine", default="local", show_default=True, metavar="ENGINE",
    help="Where tasks run: local, local(workers=N), ray, ray(address=HOST:PORT).",
)  # fmt: skip
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of every choice left to chance.")


start_option = click.option(
    "--from", "start", default=None, metavar="SELECTION",
    help="Consider the rows that this selection keeps (all: every row); the one of the stage before by default.",
)  # fmt: skip


def last_step(dataset: Any) -> tuple[str, dict[str, Any], dict[str, str]]:
    """What `common` prints of a dataset: its newest step."""
    step = dataset.history[-1]
    return step["summary"], {"dataset": dataset.url, "stage": step["stage"], **step["counts"]}, dataset.failures


def _json(numbers: dict[str, Any]) -> str:
    """As other readers of JSON take it, too: what is no number, or infinite, is null."""
    plain = json.loads(json.dumps(numbers, default=str), parse_constant=lambda _: None)
    return json.dumps(plain)


def _check_filled(ctx: click.Context, given: dict[str, Any]) -> None:
    """Raises CurateError where nothing stands for a path or a name: "" would be the folder that one is in."""
    for parameter in ctx.command.params:
        value = given.get(parameter.name or "")
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise CurateError(f"{parameter.get_error_hint(ctx)} is empty; is a variable of the shell not set?")


def settings(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Read repeated NAME=NUMBER options."""
    found = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise click.BadParameter(f"'{value}' is not NAME=NUMBER", ctx, param) from None
    return found


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(curate.__version__, prog_name="curate")
def main() -> None:
    """From the raw web to a clean image-text dataset, and a CLIP model trained on it.

    \b
    Four commands over one dataset:
      curate harvest POOL... --queries FILE --out DATASET
      curate dedup DATASET --against BENCHMARK
      curate filter DATASET --where "clip > 0.28" --out CLEAN
      curate train-clip CLEAN --out RUN

    Shell completion: eval "$(_CURATE_COMPLETE=bash_source curate)"  (or zsh_source, fish_source).
    """


@main.group()
def queries() -> None:
    """Query lists: the words and names that harvest looks for."""


@queries.command("build")
@click.option("--out", required=True, metavar="FILE", help="The list: .txt or .txt.gz; .parquet or .tsv with counts.")
@click.option("--size", default=500_000, show_default=True, help="Queries in the list.")
@click.option("--language", default="en", show_default=True, help="Language of sources and dumps: en, de, ja ...")
@click.option("--wikipedia", multiple=True, metavar="DUMP", help="pages-articles .xml.bz2; CLIP's recipe. Repeatable.")
@click.option("--pageviews", multiple=True, metavar="FILE", help="Page view counts, .gz; adds titles. Globs work.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help='In place of the recipe, in this order: wordnet, "wordfreq(language=de, share=0.4)", ./mine.py.',
)
@click.option("--blocklist", multiple=True, metavar="FILE", help="Words that no query may hold, one entry a line.")
@click.option(
    "--casefold/--cased",
    default=None,
    help="One query for all spellings by case, or each its own.  [default: --cased with a dump, else --casefold]",
)
@click.option("--stop-share", default=0.002, show_default=True, help="A word this frequent is dropped; 0 keeps all.")
@click.option(
    "--match",
    type=click.Choice(["default", "metaclip"]),
    default="default",
    show_default=True,
    help="metaclip also drops what can never match in that mode of harvest.",
)
@engine_option
@common
def build(out: str, **options: Any) -> Any:
    """Make a query list from dictionaries, places and word counts in packages, or from Wikipedia dumps."""
    from curate.queries import run

    return run(out, **options)


@main.command()
@click.argument("pools", nargs=-1, required=True, metavar="POOL...")
@click.option("--queries", default=None, metavar="FILE", help="The query list: one query a line (.txt, .gz).")
@click.option("--all", "every", is_flag=True, help="In place of --queries: every pair of the pools, or --cap of them.")
@click.option("--out", required=True, metavar="DATASET", help="The dataset to make or to go on with.")
@click.option(
    "--cap", default=None, type=int,
    help="At most this many pairs are drawn for each query.  [default: 20000; with --all none]",
)  # fmt: skip
@click.option(
    "--tail-share",
    default=None,
    type=float,
    metavar="SHARE",
    help="In place of --cap: the smallest cap within which queries hold this share of all matches (MetaCLIP: 0.06).",
)
@click.option(
    "--balance",
    type=click.Choice(["cap", "metaclip"]),
    default="cap",
    show_default=True,
    help="cap: exactly min(count, cap) pairs a query; metaclip: each pair with probability cap / count.",
)
@click.option(
    "--match",
    type=click.Choice(["default", "metaclip"]),
    default="default",
    show_default=True,
    help="How texts are matched: whole tokens on both sides, or MetaCLIP's exact substring rule.",
)
@click.option(
    "--casefold/--cased",
    default=False,
    help='Whether "dog" also matches "Dog" and "DOG"; right for lists of queries build.  [default: --cased]',
)
@click.option("--download/--no-download", default=True, show_default=True, help="Stop after the candidates are chosen.")
@click.option(
    "--downloader",
    default="native",
    show_default=True,
    metavar="NAME",
    help="native or img2dataset, with options: native(image_size=512, threads=64, robots_txt=true).",
)
@click.option(
    "--decode",
    type=click.Choice(["exact", "balanced", "fast"]),
    default=None,
    help="JPEG of img2dataset's pixels, or close to them in less time.  [default: balanced]",
)
@click.option(
    "--allow-private", is_flag=True, help="Also fetch from loopback and private addresses (intranets, tests)."
)
@click.option("--shard-size", default=10_000, show_default=True, help="Pairs in a shard, about.")
@click.option(
    "--oversample", default=1.0, show_default=True, help="Draw so many times the cap at once: many links are dead."
)
@click.option(
    "--top-up",
    default=0,
    show_default=True,
    metavar="ROUNDS",
    help="Draw further for queries that dead links left under their cap, at most so often.",
)
@click.option("--retry-failed", is_flag=True, help="Also download again what failed for a reason that may have passed.")
@click.option(
    "--min-success",
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="Fail, keeping what came, where a smaller share of the pairs gave an image.",
)
@seed_option
@engine_option
@common
def harvest(out: str, queries: str | None, every: bool, **options: Any) -> Any:
    """Match POOLs of URLs and texts against queries, cap each query, download the images.

    A POOL is a file or folder whose kind is told by its ending (.parquet .csv .tsv .jsonl ...), or KIND(path=...).
    """
    from curate.dataset import Dataset
    from curate.harvest import run

    if every == (queries is not None):
        raise CurateError("name a query list with --queries, or take every pair with --all; one of the two")
    return last_step(run(Dataset.create(out), queries=queries, **options))


@main.command()
@click.argument("dataset")
@click.argument("signals", nargs=-1, required=True, metavar="SIGNAL...")
@engine_option
@common
def measure(dataset: str, signals: tuple[str, ...], engine: str) -> Any:
    """Measure SIGNALs of every image-text pair: phash, size, language, "clip(model=ViT-B-32, pretrained=...)"."""
    from curate.dataset import Dataset
    from curate.measure import measure as run

    return last_step(run(Dataset.open(dataset), signals, engine))


@main.command()
@click.argument("dataset")
@click.option(
    "--signal",
    "signals",
    multiple=True,
    default=("exact", "pdq"),
    show_default=True,
    metavar="SIGNAL",
    help='What tells duplicates: exact, pdq, phash, "embedding(pretrained=RUN)" ... Measured first where missing.',
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    callback=settings,
    metavar="SIGNAL=NUMBER",
    help="Most bits that differ (pdq: 31, phash: 4) or least cosine similarity (embedding: 0.95, whitened 0.8) that "
    "counts; inclusive.",
)
@click.option("--closure", is_flag=True, help="Drop all that a chain of matches connects with the best image.")
@click.option(
    "--semdedup",
    default=0.0,
    metavar="EPS",
    help="Drop by embeddings as SemDeDup does: whatever a harder image resembles by 1 - EPS, in chains too.",
)
@click.option(
    "--calibrate",
    "only_calibrate",
    is_flag=True,
    help="Only say how often unlike images of this pool lie near each other, and which thresholds follow.",
)
@click.option(
    "--calibrate-rate", default=0.01, show_default=True, help="False partners of an image that --calibrate aims at."
)
@click.option(
    "--thorough",
    is_flag=True,
    help="Also find crops, mirror images, tilts, frames and screenshots inside DATASET, as --against does; for up to "
    "some 100,000 images.",
)
@click.option("--distinct-colours", is_flag=True, help="A recoloured picture is another one.")
@click.option(
    "--whiten/--no-whiten",
    default=None,
    help="Compare embeddings whitened on the pool.  [default: from 5,000 distinct images]",
)
@click.option(
    "--recall",
    default=0.995,
    show_default=True,
    help="Of the pairs right at the threshold, where an exact search costs too much (pdq: from about 200,000 images).",
)
@click.option(
    "--against",
    multiple=True,
    metavar="BENCHMARK",
    help="Also drop what a benchmark holds: an image folder, CLIP_benchmark's layout or a dataset.",
)
@click.option(
    "--against-threshold",
    "against_thresholds",
    multiple=True,
    callback=settings,
    metavar="SIGNAL=NUMBER",
    help="The same between the pool and the benchmarks, where it should be looser: embedding=0.9 finds 5 % crops.",
)
@click.option(
    "--against-signal",
    "against_signals",
    multiple=True,
    metavar="SIGNAL",
    help="What tells that a benchmark holds an image.  [default: pdq, and those of --signal that are no hashes]",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare the local features of pictures that look like a benchmark's but are too far for a hash to be sure.",
)
@click.option(
    "--candidates", default=10, show_default=True, help="Pictures that --verify looks at for each benchmark image."
)
@click.option(
    "--predictions",
    multiple=True,
    metavar="FILE",
    help="What a model said of the test images: BENCHMARK=FILE, or the folder of curate eval; adds what overlap does "
    "to its accuracy.",
)
@click.option(
    "--checkpoint",
    default=None,
    metavar="RUN|CHECKPOINT",
    help="Let this model say it: curate eval's zero-shot answers for every benchmark that has classes, in RUN/eval.",
)
@click.option("--name", default=None, help="Name of the selection made; told by its content by default.")
@click.option("--device", default="auto", show_default=True, help="Where benchmarks are searched: auto, cpu, cuda.")
@start_option
@engine_option
@common
def dedup(dataset: str, **options: Any) -> Any:
    """Find duplicates inside DATASET and against benchmarks; keep the best image of each group.

    A row is dropped only where it matches its keeper itself: the image with most pixels, then with the best CLIP score
    (where "clip" was measured), then the first uid. Nothing is deleted: the rows that stay, and why the others go, are
    in DATASET/selections/, the texts of each group in DATASET/reports/duplicates-*.parquet.
    """
    from curate.dataset import Dataset
    from curate.dedup import calibrate, run

    wished = options.pop("calibrate_rate")
    if options.pop("only_calibrate"):
        deciding = ("thresholds", "against", "against_signals", "against_thresholds", "predictions", "checkpoint",
                    "closure", "semdedup", "thorough", "distinct_colours", "name")  # fmt: skip
        if asked := next((option for option in deciding if options[option]), None):
            named = next(known for known in click.get_current_context().command.params if known.name == asked)
            raise CurateError(f"--calibrate makes no selection; leave {named.opts[0]} out")
        shared = {name: options[name] for name in ("signals", "whiten", "start", "engine")}
        return last_step(calibrate(Dataset.open(dataset), wished=wished, **shared))
    if checkpoint := options.pop("checkpoint"):
        options["predictions"] += (predicted(checkpoint, options["against"], options["device"]),)
    return last_step(run(Dataset.open(dataset), **options))


def predicted(checkpoint: str, against: Sequence[str], device: str) -> str:
    """The folder with what a model says of the benchmarks that have classes. Raises CurateError where none has."""
    from curate.benchmark import open_benchmark
    from curate.evaluate import run

    classified = [path for path in against if open_benchmark(path).classnames]
    if not classified:
        raise CurateError(f"--checkpoint {checkpoint}: no benchmark of --against has classes to tell apart")
    _, numbers, failures = run(checkpoint, classified, device=device, tasks_asked=("zero-shot",))
    if failures:
        raise CurateError("; ".join(failures.values()))
    return str(numbers["out"])


@main.command("filter")
@click.argument("dataset", required=False)
@click.option(
    "--recipe",
    default=None,
    metavar="FILE|NAME",
    help="A YAML recipe, or a built-in one: basic (the default), clip-l14-30, clip-top30, datacomp-basic, "
    "datacomp-image-based, dfn-style, laion2b-en, laion400m, t-mars.",
)
@click.option("--show", is_flag=True, help="Only print the recipe: its source, and the signals that it needs.")
@click.option("--where", multiple=True, metavar="SQL", help="Keep the rows for which this holds; may be repeated.")
@click.option("--top", default=None, metavar="30%|1000", help="Keep the best share or number by --by; ties all stay.")
@click.option(
    "--by", default=None, metavar="COLUMN", help="The column or SQL number that --top ranks by, best largest."
)
@click.option(
    "--of",
    type=click.Choice(["pool", "survivors"]),
    default="pool",
    show_default=True,
    help="--top of all rows considered, or of those that the steps before kept.",
)
@click.option(
    "--on-null",
    type=click.Choice(["drop", "keep", "error"]),
    default=None,
    help="What becomes of rows without a value for a step that does not say it.  [default: error]",
)
@click.option(
    "--subset", "subset_file", default=None, metavar="FILE.npy", help="Consider only the uids of DataComp's sample_ids."
)
@click.option("--sample-ids", default=None, metavar="FILE.npy", help="Also write the uids kept as DataComp does.")
@click.option("--signal", "signals", multiple=True, metavar="SIGNAL", help="Measure this first where it is missing.")
@click.option("--name", default=None, help="Name of the selection made; told by its content by default.")
@click.option("--out", default=None, metavar="CLEAN", help="Also export what is kept as a new dataset.")
@start_option
@engine_option
@common
def filter_(dataset: str | None, show: bool, **options: Any) -> Any:
    """Keep the pairs of DATASET that a recipe or --where wants; measured once, selected many times.

    A recipe is a list of named steps: SQL conditions on the columns of the shards and the measured signals, the top
    share by a column, caps, weights. Thresholds are exact over all shards.

    \b
      curate filter DATASET --signal language --where "language = 'en'" --on-null drop
      curate filter DATASET --top 30% --by clip --out CLEAN
      curate filter --recipe laion2b-en --show
    """
    from curate.dataset import Dataset
    from curate.filter import run, text_of

    if show:
        text = text_of(options["recipe"])
        return text.rstrip(), {"recipe": text}, {}
    if dataset is None:
        raise CurateError("name the DATASET to filter (only --show goes without one)")
    result = run(Dataset.open(dataset), **options)
    if options["out"] is None:
        return last_step(result)
    _, numbers, failures = last_step(result)
    filtered, exported = result.history[-2:]
    return f"{filtered['summary']}\n{exported['summary']}", {**filtered["counts"], **numbers}, failures


@main.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("--out", required=True, metavar="CLEAN", help="The new dataset.")
@click.option("--selection", default=None, metavar="NAME", help="What to export; the current selection by default.")
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=float,
    metavar="NUMBER",
    help="How often the pairs of each DATASET stand, in their order: 2 twice, 0.5 half of them.  [default: 1]",
)
@click.option("--shard-size", default=10_000, show_default=True, help="Pairs in a shard.")
@click.option(
    "--signals/--no-signals", default=True, show_default=True, help="Measured columns come along in the parquet."
)
@seed_option
@engine_option
@common
def export(datasets: tuple[str, ...], out: str, **options: Any) -> Any:
    """Write what is selected of DATASETs as a fresh dataset of plain img2dataset shards.

    Images and texts are copied byte for byte. Several DATASETs follow one another. Cut short, run it again.
    """
    from curate.dataset import Dataset
    from curate.filter.export import run

    return last_step(run([Dataset.open(url) for url in datasets], Dataset.create(out), **options))


@main.command("train-clip")
@click.argument("data", nargs=-1, metavar="DATASET|TARS...")
@click.option(
    "--data", "more", multiple=True, metavar="DATASET|TARS", help="More data, each with a --weight; may be repeated."
)
@click.option(
    "--weight", "weights", multiple=True, type=float, metavar="W",
    help="Passes over the --data of the same place in one epoch: 0.2 shows each of its pairs every fifth epoch.",
)  # fmt: skip
@click.option("--out", default=None, metavar="RUN", help="Folder of the run; runs/<dataset> by default.")
@click.option(
    "--recipe", default=None, metavar="NAME|FILE",
    help="Values of a paper (clip-vit-b-32, clip-rn50, datacomp-small, siglip ...) or of a YAML file; options win.",
)  # fmt: skip
@click.option("--show", is_flag=True, help="Print every value and where it came from, and train nothing.")
@click.option(
    "--model", default=None, metavar="NAME|FILE",
    help="An open_clip model name, one of ours (ViT-Ti-64) or a JSON config; by default what --init is, or ViT-B-32.",
)  # fmt: skip
@click.option(
    "--init", default=None, metavar="CHECKPOINT", help="Start from these weights: a run, a file, an open_clip tag."
)
@click.option("--objective", default=None, help="What is minimised: one file of curate/train/objectives.  [clip]")
@click.option("--batch-size", default=None, type=int, help="Pairs in a step.  [1024, or all if fewer]")
@click.option("--epochs", default=None, type=float, help="Passes over the data; may be a fraction.  [32]")
@click.option("--samples", default=None, type=int, help="Samples seen in all, instead of --epochs.")
@click.option("--lr", default=None, type=float, help="Peak learning rate.  [0.0005]")
@click.option("--warmup", default=None, type=int, help="Steps of linear warm-up, at most a tenth of all.  [2000]")
@click.option("--beta1", default=None, type=float, help="Of AdamW.  [0.9]")
@click.option("--beta2", default=None, type=float, help="Of AdamW.  [0.98 for a ViT, 0.999 for a ResNet]")
@click.option("--eps", default=None, type=float, help="Of AdamW.  [1e-6 for a ViT, 1e-8 for a ResNet]")
@click.option(
    "--weight-decay", default=None, type=float, help="Decoupled; not on gains, biases, temperature.  [0.2]"
)  # fmt: skip
@click.option("--clip-norm", default=None, type=float, help="Shorten longer gradients to this norm.  [off]")
@click.option(
    "--temperature", default=None, type=float, help="What the learned temperature starts from.  [0.07; siglip: 0.1]"
)
@click.option("--crop", default=None, help="square (CLIP's), random-resized (open_clip's), center, squash.  [square]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default=None,
    help="auto: bf16 on a GPU that has it, fp32 elsewhere.  [auto]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option(
    "--workers", default=None, type=int,
    help="Decoding threads, from 8 on in processes of 4; one for each core by default.",
)  # fmt: skip
@click.option("--shuffle", default=None, type=int, help="Pairs of random shards shuffled together.  [1000000]")
@click.option(
    "--cache", default=None, metavar="DIR", help="The index, and tars while they are read from a store.  [RUN/cache]"
)
@click.option("--cache-size", default=200.0, show_default=True, metavar="GB", help="Of tars fetched from a store.")
@click.option("--lock-image", is_flag=True, default=None, help="The image tower stays as it is (LiT).")
@click.option("--lock-text", is_flag=True, default=None, help="The text tower stays as it is.")
@click.option("--patch-dropout", default=None, type=float, help="Share of the patches left out of each image (FLIP).")
@click.option("--distill", default=None, metavar="CHECKPOINT", help="Learn from this run or checkpoint file too.")
@click.option("--chunk", default=None, type=int, help="Pairs encoded at a time.  [GPU: what fits; CPU: all]")
@click.option("--grad-checkpointing", is_flag=True, help="Less memory for a third more arithmetic.")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile for the image tower.")
@click.option("--fsdp", is_flag=True, help="Share weights and AdamW's state out over the processes (FSDP2).")
@click.option("--save-every", default=500, show_default=True, help="Steps between checkpoints.")
@click.option("--keep", default=2, show_default=True, help="Newest checkpoints that stay, beside the best.")
@click.option("--max-spike", default=None, type=float, help="Stop at a loss so many times the mean of the last 100.")
@click.option(
    "--eval", "benchmarks", multiple=True, metavar="BENCHMARK",
    help="Evaluate checkpoints as `curate eval` does, and let that choose the best; may be repeated.",
)  # fmt: skip
@click.option("--eval-every", default=None, type=int, help="Steps between evaluations.  [as --save-every]")
@click.option("--tensorboard", is_flag=True, help="Write RUN/tensorboard too.")
@click.option("--wandb", default=None, metavar="PROJECT", help="Log to Weights & Biases too.")
@click.option("--selection", default=None, metavar="NAME", help="Train on this selection; the current one by default.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the last checkpoint in RUN.")
@seed_option
@common
def train_clip(data: tuple[str, ...], out: str | None, benchmarks: tuple[str, ...], more: tuple[str, ...],
               weights: tuple[float, ...], **options: Any) -> Any:  # fmt: skip
    """Train a CLIP model on a DATASET, or on any folder or glob of webdataset tars."""
    from curate.train import run

    if weights and len(weights) != len(more):
        raise CurateError(f"{len(more)} --data and {len(weights)} --weight; give each --data its --weight")
    mixed = list(zip(more, weights or [1.0] * len(more), strict=True))
    score = None
    if benchmarks:
        check_evaluations(benchmarks, options["recipe"], options["objective"])
        score = evaluator(benchmarks, options["device"])
    return run(data, out, evaluator=score, mixed=mixed, **options)


def check_evaluations(benchmarks: tuple[str, ...], recipe: str | None, objective: str | None) -> None:
    """Raises CurateError where checkpoints of a run cannot be scored on a benchmark, before the run begins."""
    from curate.evaluate import check
    from curate.train.recipe import settings

    check(benchmarks, settings(recipe, {"objective": objective})["objective"])


def evaluator(benchmarks: tuple[str, ...], device: str) -> Callable[[str, str], dict[str, float]]:
    """Scores a checkpoint of train-clip: zero-shot top-1 (mAP where images have several classes), or
    where texts belong to images the mean recall@1."""
    from curate.evaluate import run

    def scores(checkpoint: str, out: str) -> dict[str, float]:
        config = f"{checkpoint.rsplit('/checkpoints/', 1)[0]}/config.json"
        _, numbers, failures = run(checkpoint, benchmarks, out=out, arch=config, device=device)
        if failures:
            raise CurateError(f"--eval: {next(iter(failures.values()))}")
        return {name: score(found) for name, found in numbers["benchmarks"].items()}

    def score(found: dict[str, Any]) -> float:
        if "zero_shot" in found:
            return found["zero_shot"]["top1"]["value"]
        if "multilabel" in found:
            return found["multilabel"]["mean_average_precision"]["value"]
        sides = [found["retrieval"][side]["recall@1"]["value"] for side in ("image_to_text", "text_to_image")]
        return sum(sides) / len(sides)

    return scores


@main.command("eval")
@click.argument("model", metavar="RUN|CHECKPOINT")
@click.argument("benchmarks", nargs=-1, required=True, metavar="BENCHMARK...")
@click.option("--out", default=None, metavar="DIR", help="Where the results go; MODEL/eval by default.")
@click.option("--arch", default=None, help="The open_clip model name, where CHECKPOINT does not say it.")
@click.option(
    "--task",
    "tasks_asked",
    multiple=True,
    metavar="TASK",
    help="zero-shot, retrieval, linear-probe, few-shot, typographic or robustness; repeatable.  [default: zero-shot "
    "and retrieval, where a benchmark has labels and texts]",
)
@click.option(
    "--train",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Training images of a benchmark, for linear-probe and few-shot.  [default: BENCHMARK/train]",
)
@click.option(
    "--shots", multiple=True, type=int, metavar="K", help="Images of each class; repeatable.  [default: 1 2 4 8 16]"
)
@click.option("--draws", default=3, show_default=True, help="How often the images of few-shot are drawn.")
@click.option(
    "--base", default=None, metavar="NAME", help="The base set of robustness.  [default: the first BENCHMARK]"
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="DIR|FILE.csv",
    help="Accuracies of other models, for effective robustness: results of eval --task robustness; repeatable.",
)
@click.option(
    "--beside", multiple=True, metavar="RUN", help="Show the results of this run in the table too; repeatable."
)
@click.option("--batch-size", default=256, show_default=True, help="Images encoded at a time.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "auto"]),
    default="fp32",
    show_default=True,
    help="auto: bf16 where the processor has it.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@seed_option
@common
def evaluate(model: str, benchmarks: tuple[str, ...], **options: Any) -> Any:
    """What a model classifies and finds on BENCHMARKs, beside chance, with 95 % intervals.

    \b
      curate eval RUN imagenet
      curate eval RUN cifar10 --task linear-probe --task few-shot --shots 4
      curate eval RUN imagenet imagenet-r imagenet-a --task robustness --baseline others.csv
      curate eval RUN fruit --task typographic
    """
    from curate.evaluate import run

    return run(model, benchmarks, **options)


@main.command("eval-data")
@click.argument("data", nargs=-1, required=True, metavar="DATASET[:SELECTION]...")
@click.option("--benchmark", "benchmarks", multiple=True, required=True, metavar="BENCHMARK", help="Repeatable.")
@click.option("--out", required=True, metavar="DIR", help="Runs and results; what is there is not done again.")
@click.option(
    "--budget", required=True, type=int, metavar="SAMPLES", help="Pairs that each model sees, repeats counted."
)
@click.option("--seeds", default=3, show_default=True, help="Models for each selection; 3 at least.")
@click.option("--model", default="ViT-Ti-64", show_default=True, metavar="NAME|FILE", help="As for train-clip.")
@click.option("--batch-size", default=256, show_default=True, help="Pairs in a step.")
@click.option("--lr", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--warmup", default=50, show_default=True, help="Steps of linear warm-up, at most a tenth of all.")
@click.option(
    "--control/--no-control",
    default=True,
    show_default=True,
    help="Beside each selection, random ones of the same size.",
)
@click.option(
    "--pool",
    default=None,
    metavar="SELECTION",
    help="What controls are drawn from (all: every row).  [default: what each selection was chosen from]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of the training; evaluated in fp32.",
)
@seed_option
@common
def eval_data(data: tuple[str, ...], **options: Any) -> Any:
    """Is it better data? Trains the same small model on each selection at equal compute, several times.

    Same initialisation, steps, batch and rule of order for every selection of a seed; beside each a random selection of
    the same size. Who is not better beyond the spread over the seeds is not called better.

    \b
      curate eval-data DATASET:filter-clip DATASET:all --benchmark imagenet-val --budget 1000000 --out compared
    """
    from curate.compare import run

    return run(data, **options)


@main.command()
@click.argument("dataset")
@click.option("--out", default=None, metavar="FILE", help="The page; DATASET/reports/report.html by default.")
@click.option("--run", "runs", multiple=True, metavar="RUN", help="Training runs to show (their loss and evaluation).")
@click.option("--eval-data", multiple=True, metavar="DIR", help="What eval-data wrote, to show: selections, verdict.")
@click.option("--selection", default=None, metavar="NAME", help="Whose rows are kept; the current one by default.")
@click.option(
    "--diff", default=None, metavar="OTHER",
    help="Tell what OTHER, a selection of DATASET (all: every pair) or another dataset, keeps and drops beside it.",
)  # fmt: skip
@click.option(
    "--blur", default="nsfw", show_default=True, type=click.Choice(["nsfw", "all", "none"]),
    help="Pictures blurred until they are asked for: those that a column nsfw does not call safe, all, none.",
)  # fmt: skip
@common
def report(dataset: str, **options: Any) -> Any:
    """One self-contained HTML page: counts, scores, samples, duplicates."""
    from curate.dataset import Dataset
    from curate.report import run

    return run(Dataset.open(dataset), **options)


@main.command()
@click.argument("dataset")
@click.option(
    "--signal",
    "signals",
    multiple=True,
    metavar="NAME",
    help="A measured signal; may be repeated.  [default: all that have a reference]",
)
@click.option("--sample", default=200, show_default=True, metavar="N", help="Pairs to measure again, drawn by uid.")
@click.option(
    "--selection", default=None, metavar="NAME", help="Whose cuts may flip.  [default: the newest that cuts by them]"
)
@click.option(
    "--tolerance",
    default=None,
    type=float,
    help="Largest difference that passes.  [default: clip 0.001, in bf16 0.01; everything else 0]",
)
@seed_option
@engine_option
@common
def verify(dataset: str, **options: Any) -> Any:
    """Measure a sample of DATASET again by the plainest means and compare: open_clip's own loop, imagehash, pdqhash.

    Prints the largest and mean difference of each column and how many decisions of a selection flip; exits 1 where a
    difference is over the tolerance. The values stand in DATASET/reports/verify.parquet.
    """
    from curate.dataset import Dataset
    from curate.verify import run

    return last_step(run(Dataset.open(dataset), **options))


@main.command()
@common
def doctor() -> Any:
    """Check this installation: versions, packages that fight each other, CPU and GPU."""
    from curate.doctor import run

    return run()
