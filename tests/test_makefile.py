"""Batch runs: targets chain by the files they make, and only what an option decides is made again."""

import os
import subprocess
import sys
import threading
from multiprocessing.connection import Client, Listener
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


# asks for a command and ends as it does: see the fixture `curate`
ASK = """
import sys
from multiprocessing.connection import Client
with Client(sys.argv[1]) as server:
    server.send(sys.argv[2:])
    code, out, errors = server.recv()
sys.stdout.write(out)
sys.stderr.write(errors)
sys.exit(code)
"""


@pytest.fixture
def curate(start, tmp_path):
    """What stands for curate in a shell, and runs it as the fixture `start` does: forked, not begun anew."""
    place, script = str(tmp_path / "socket"), tmp_path / "ask.py"
    script.write_text(ASK)
    listener = Listener(place)

    def serve():
        while True:
            with listener.accept() as asked:
                if not (arguments := asked.recv()):
                    return
                asked.send(start(*arguments).ended())

    server = threading.Thread(target=serve)
    server.start()
    yield f"{sys.executable} -S {script} {place}"
    with Client(place) as last:
        last.send([])
    server.join()
    listener.close()


def make(target: str, run: Path, curate: str) -> list[str]:
    """The commands that `make target` really ran."""
    command = ["make", "-C", str(ROOT), target, f"RUN={run}", f"CURATE={curate}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.removeprefix(curate).split()[0] for line in done.stdout.splitlines() if line.startswith(curate)]


@pytest.mark.slow
def test_a_second_make_does_nothing_and_a_changed_option_reruns_what_depends_on_it(web, curate, tmp_path):
    run = tmp_path / "run.mk"
    run.write_text(RUN.format(web=web, out=tmp_path / "out", words=2))
    assert make("dedup", run, curate) == ["harvest", "dedup"]
    assert make("train", run, curate) == ["filter", "train-clip"]
    assert make("train", run, curate) == []
    run.write_text(RUN.format(web=web, out=tmp_path / "out", words=1))
    assert make("train", run, curate) == ["filter", "train-clip"]
    run.write_text(RUN.format(web=web, out=tmp_path / "out", words=2))
    assert make("train", run, curate) == []


def test_a_target_without_a_run_file_says_so():
    done = subprocess.run(["make", "-C", str(ROOT), "harvest"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "name a run file" in done.stdout
