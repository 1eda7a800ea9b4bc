"""kill -9 in the middle of dedup, then the same command again: the tables are those of a run that was left alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import draw, pair

from curate.dataset import Dataset
from curate.dedup import run


def tables(dataset: Dataset) -> dict[str, bytes]:
    patterns = ("signals/*/*", "selections/*/*", "reports/*", "work/dedup/**/*.parquet")
    names = [name for pattern in patterns for name in dataset.folder.names(pattern)]
    return {name: dataset.folder.read_bytes(name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["signals/phash/00002.parquet", "work/dedup/*/00001.parquet", "selections/*/*"])
def test_a_killed_run_is_finished_by_the_next(make_dataset, tmp_path, moment):
    benchmark = tmp_path / "held"
    benchmark.mkdir()
    draw("red", "circle", 0).save(benchmark / "0.png")
    pairs = [pair(index) for index in range(40)]
    pairs += [{**row, "key": f"9{row['key']}", "caption": f"again {row['caption']}"} for row in pairs[:20]]
    whole = run(make_dataset(pairs, 10, str(tmp_path / "whole")), against=[str(benchmark)], engine="local(workers=1)")
    broken = make_dataset(pairs, 10, str(tmp_path / "broken"))
    command = [sys.executable, "-c", "from curate.cli import main; main()", "dedup", broken.url,
               "--against", str(benchmark), "--engine", "local(workers=2)", "--quiet"]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True)
    while not broken.folder.names(moment) and process.poll() is None:
        time.sleep(0.001)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    assert tables(Dataset.open(broken.url)) == tables(whole)
    assert Dataset.open(broken.url).history[-1]["counts"] == whole.history[-1]["counts"]
