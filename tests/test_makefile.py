"""Batch runs: targets chain by the files they make, and only what an option decides is made again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = """
POOLS = {web}/pool.parquet
QUERIES = {web}/queries.txt
OUT = {out}
HARVEST_OPTIONS = --cap 50 --shard-size 20 --allow-private --engine 'local(workers=0)' -q
DEDUP_OPTIONS = --signal exact --engine 'local(workers=0)' -q
FILTER_OPTIONS = --signal caption --where "caption_words > {words}" --engine 'local(workers=0)' -q
TRAIN_OPTIONS = --model ViT-Test-32 --batch-size 8 --epochs 1 --workers 1 -q
"""


def make(target: str, run: Path) -> list[str]:
    """The commands that `make target` really ran."""
    command = ["make", "-C", str(ROOT), target, f"RUN={run}", f"CURATE={sys.executable} -m curate.cli"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "MAKEFLAGS": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("curate.cli ")[1].split()[0] for line in done.stdout.splitlines() if "curate.cli " in line]


@pytest.mark.slow
def test_a_second_make_does_nothing_and_a_changed_option_reruns_what_depends_on_it(web, tmp_path):
    run = tmp_path / "run.mk"
    run.write_text(RUN.format(web=web, out=tmp_path / "out", words=2))
    assert make("dedup", run) == ["harvest", "dedup"]
    assert make("train", run) == ["filter", "train-clip"]
    assert make("train", run) == []
    run.write_text(RUN.format(web=web, out=tmp_path / "out", words=1))
    assert make("train", run) == ["filter", "train-clip"]
    run.write_text(RUN.format(web=web, out=tmp_path / "out", words=2))
    assert make("train", run) == []


def test_a_target_without_a_run_file_says_so():
    done = subprocess.run(["make", "-C", str(ROOT), "harvest"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "name a run file" in done.stdout
