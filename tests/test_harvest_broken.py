"""When things break in the middle of a harvest: one line is said, nothing is left half, it goes on when run again."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import workers_of
from harvest_web import serving
from test_harvest_topup import DOWNLOADER, WORDS, contents, rows_of

from curate.dataset import Dataset

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    """command(rows, out, *options) -> the harvest command of a small pool."""
    (tmp_path / "queries.txt").write_text("\n".join(WORDS) + "\n")

    def made(rows, out: str, *options: str) -> list[str]:
        pool = tmp_path / "pool.parquet"
        table = pa.table({"url": [url for url, _ in rows], "caption": [text for _, text in rows]})
        if not pool.exists() or pq.read_table(pool) != table:
            pq.write_table(table, pool)
        return [sys.executable, "-m", "curate.cli", "harvest", str(pool), "--queries", str(tmp_path / "queries.txt"),
                "--out", str(tmp_path / out), "--shard-size", "8", "--allow-private", "--json", "-q",
                *options]  # fmt: skip

    return made


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


def wait_for(happened, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()


def test_ctrl_c_ends_a_download_within_seconds_and_it_goes_on(command, tmp_path):
    with serving() as web:
        rows = [(url, f"ant {text}") for url, text in map(web.pair, range(40))]
        calm = run(command(rows, "calm", "--engine", "local(workers=1)"))
        assert calm.returncode == 0, calm.stderr
        for workers in (1, 2):
            stormy = command(rows, f"stormy-{workers}", "--engine", f"local(workers={workers})")
            web.delay = 6.0
            with subprocess.Popen(stormy, start_new_session=True, text=True, stderr=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL) as process:  # fmt: skip
                before = sum(web.hits.values())
                wait_for(lambda before=before: sum(web.hits.values()) > before, process)
                start = time.monotonic()
                os.killpg(process.pid, signal.SIGINT)
                said = process.communicate()[1]
            assert time.monotonic() - start < 5  # an answer takes six
            assert process.returncode == 130
            assert said.strip() == "curate: interrupted; what is done is kept, run again to go on"
            assert not left_over(tmp_path / f"stormy-{workers}")
            web.delay = 0.0
            assert run(stormy).returncode == 0
            stormy, calm = (Dataset.open(str(tmp_path / name)) for name in (f"stormy-{workers}", "calm"))
            assert contents(stormy) == contents(calm)


def test_a_killed_worker_costs_a_download_nothing(command, tmp_path):
    with serving() as web:
        rows = [(url, f"ant {text}") for url, text in (web.pair(number) for number in range(60))]
        web.delay = 0.3
        with subprocess.Popen(command(rows, "dataset", "--engine", "local(workers=2)"), text=True,
                              stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
            for more in (0, 20):
                wait_for(lambda more=more: sum(web.hits.values()) > more, process)
                os.kill(workers_of(process.pid)[0], signal.SIGKILL)
                time.sleep(0.3)
            said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(said)["downloaded"] == 60
    assert not left_over(tmp_path / "dataset")


def test_a_full_disk_is_one_line_that_names_the_place_and_the_rest_follows_later(command, tmp_path):
    """The disk is full at once, then in the middle of matching, then of the shards, of one process and of two."""
    rows = rows_of(random.Random(1), 300)
    downloader = ("--downloader", f"{DOWNLOADER}(log={tmp_path}/log, dead=0.2)", "--top-up", "2", "--cap", "40")
    for limit, workers in ((200, 1), (2_500, 1), (2_500, 2), (12_000, 2), (12_000, 1)):

        def full(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        broken = run(command(rows, "full", *downloader, "--engine", f"local(workers={workers})"), preexec_fn=full)
        assert broken.returncode == 1
        assert len(broken.stderr.splitlines()) == 1
        assert broken.stderr.startswith(f"curate: cannot write {tmp_path}/full/")
        assert "File too large; make room, then run again" in broken.stderr
        assert not left_over(tmp_path / "full")
    for out, workers in (("full", 2), ("calm", 1)):
        done = run(command(rows, out, *downloader, "--engine", f"local(workers={workers})"))
        assert done.returncode == 0, done.stderr
    assert contents(Dataset.open(str(tmp_path / "full"))) == contents(Dataset.open(str(tmp_path / "calm")))


def test_a_full_temporary_space_is_named(command, tmp_path):
    with serving() as web:
        rows = [(url, f"ant {text}") for url, text in (web.pair(number) for number in range(40))]

        def full():
            resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, resource.RLIM_INFINITY))

        (tmp_path / "tmp").mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
        for downloader in ("native", "img2dataset"):
            options = ("--downloader", downloader, "--engine", "local(workers=1)")
            broken = run(command(rows, downloader, *options), preexec_fn=full, env=environment)
            assert broken.returncode == 1
            said = f"curate: cannot write {tmp_path}/tmp: File too large; set TMPDIR to a larger place"
            assert broken.stderr.splitlines() == [said]
            assert not list((tmp_path / "tmp").glob("curate-*"))
            assert run(command(rows, downloader, *options)).returncode == 0


def test_kill_9_anywhere_in_a_top_up_changes_no_byte(command, tmp_path):
    rows = rows_of(random.Random(2), 400)
    options = ("--top-up", "3", "--cap", "60", "--oversample", "1.2", "--engine", "local(workers=2)")

    def ask(out: str) -> list[str]:
        return command(rows, out, "--downloader", f"{DOWNLOADER}(log={tmp_path}/{out}.log, dead=0.6)", *options)

    assert run([*ask("calm"), "--engine", "local(workers=1)"]).returncode == 0
    calm, out = Dataset.open(str(tmp_path / "calm")), tmp_path / "stormy"
    rounds = calm.folder.names("candidates/rounds/*.parquet")
    assert len(rounds) >= 2
    about = calm.folder.made_by(rounds[0])
    last = f"shards/{about['first'] + about['shards'] - 1:05d}.tar"
    for sign in ("work/harvest/rounds/00001/images/*", "work/harvest/rounds/00001/kept/*", rounds[0],
                 f"shards/{about['first']:05d}_stats.json", last, "work/harvest/rounds/00002/depth.parquet", rounds[1],
                 "work/harvest/counted/limits.parquet", "selections/*/00003.parquet"):  # fmt: skip
        with subprocess.Popen(ask("stormy"), start_new_session=True, stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL) as process:  # fmt: skip
            wait_for(lambda sign=sign: any(out.glob(sign)), process)
            os.killpg(process.pid, signal.SIGKILL)
    finished = run(ask("stormy"))
    assert finished.returncode == 0, finished.stderr
    assert contents(Dataset.open(str(out))) == contents(calm)
    assert not left_over(out)
