"""Run the real commands one after the other on the staged web, each printed as it would be typed."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass

import click

from curate.demo import summary
from curate.demo.prepare import Demo, prepare, statement
from curate.demo.web import served
from curate.errors import CurateError

# title, and the command with {out} for the demo's folder
TRAIN = "--model ViT-Ti-64 --batch-size 128 --lr 1e-3 --warmup 50 --save-every 100"
COMMANDS = (
    (
        "harvest: match, cap, download",
        "harvest {out}/pool.parquet --queries {out}/queries.txt --out {out}/dataset --cap 20 --casefold"
        " --shard-size 1000 --allow-private",
    ),
    (
        "dedup: inside the pool, and against the test images",
        "dedup {out}/dataset --signal exact --signal phash --signal embedding"
        " --against {out}/benchmark --against-threshold embedding=0.9",
    ),
    ("train on what is left", f"train-clip {{out}}/dataset --out {{out}}/run-1 --epochs 8 {TRAIN}"),
    ("evaluate", "eval {out}/run-1 {out}/benchmark"),
    (
        "filter: by rules, and by the score of the model just trained",
        "filter {out}/dataset --signal caption --signal language --signal size"
        " --signal 'clip(pretrained={out}/run-1, as=score)'"
        " --where \"language = 'en'\" --where 'caption_words > 1' --where 'size_min >= 64'"
        " --top 85% --by score --on-null drop --out {out}/clean",
    ),
    ("train again, on the clean dataset", f"train-clip {{out}}/clean --out {{out}}/run-2 --epochs 20 {TRAIN}"),
    ("evaluate again", "eval {out}/run-2 {out}/benchmark"),
    ("report", "report {out}/dataset --run {out}/run-1 --run {out}/run-2"),
)


@dataclass(frozen=True)
class Step:
    """One command: its title, the line as it is typed, and its arguments after `curate`."""

    title: str
    line: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.line)[1:]


def steps(demo: Demo) -> list[Step]:
    """Everything between the pool and the report."""
    return [Step(title, f"curate {command.format(out=demo.out)}") for title, command in COMMANDS]


def run(demo: Demo) -> None:
    """Prepare, serve and run everything; ends with a table. Raises CurateError where a command fails."""
    started = time.monotonic()
    click.secho("curate demo", bold=True)
    facts = prepare(demo)
    click.echo(statement(facts))
    seconds = {"prepare: draw the web, write pool, queries, test images": time.monotonic() - started}
    with served(demo.web, demo.port) as origin:
        click.echo(f"\nThe staged web answers at {origin} while the commands run.")
        for step in steps(demo):
            seconds[step.title] = _run(step)
    seconds["everything"] = time.monotonic() - started
    found = summary.gather(demo, facts)
    demo.folder.write_json("summary.json", {"seconds": seconds, **found})
    click.echo(summary.told(found, seconds))


def _run(step: Step) -> float:
    click.echo()
    click.secho(f"# {step.title}", bold=True)
    click.secho(f"$ {step.line}", fg="cyan")
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "curate", *step.arguments])
    if done.returncode:
        raise CurateError(f"'{step.line}' ended with {done.returncode}; run the demo again to go on from there")
    return time.monotonic() - started
