"""When things break in the middle of a harvest: one line is said, nothing is left half, it goes on when run again."""

import json
import math
import os
import random
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DOWNLOADERS
from harvest_web import serving
from processes import Command
from test_harvest_topup import DOWNLOADER, WORDS, contents, rows_of

from curate.dataset import Dataset

pytestmark = pytest.mark.slow
PATIENT = ("--downloader", "native(timeout=300, deadline=300)")  # where a test keeps it waiting


@pytest.fixture
def harvest(tmp_path, start):
    """harvest(rows, out, *options, **how) -> the running harvest of a small pool."""
    (tmp_path / "queries.txt").write_text("\n".join(WORDS) + "\n")

    def started(rows, out: str, *options: str, **how) -> Command:
        pool = tmp_path / "pool.parquet"
        table = pa.table({"url": [url for url, _ in rows], "caption": [text for _, text in rows]})
        if not pool.exists() or pq.read_table(pool) != table:
            pq.write_table(table, pool)
        return start("harvest", str(pool), "--queries", str(tmp_path / "queries.txt"), "--out", str(tmp_path / out),
                     "--shard-size", "8", "--allow-private", "--json", "-q", *options, **how)  # fmt: skip

    return started


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


def test_ctrl_c_ends_a_download_though_no_answer_comes_and_it_goes_on(harvest, tmp_path):
    with serving() as web:
        rows = [(url, f"ant {text}") for url, text in map(web.pair, range(40))]
        code, _, said = harvest(rows, "calm", "--engine", "local(workers=1)").ended()
        assert code == 0, said
        for workers in (1, 2):
            stormy = (rows, f"stormy-{workers}", *PATIENT, "--engine", f"local(workers={workers})")
            web.let(10)
            process = harvest(*stormy)
            process.wait_for(lambda: not web.turns)
            process.send_all(signal.SIGINT)
            code, _, said = process.ended()
            assert code == 130
            assert said.strip() == "curate: interrupted; what is done is kept, run again to go on"
            assert not left_over(tmp_path / f"stormy-{workers}")
            web.let(math.inf)
            assert harvest(*stormy).ended()[0] == 0
            stormy, calm = (Dataset.open(str(tmp_path / name)) for name in (f"stormy-{workers}", "calm"))
            assert contents(stormy) == contents(calm)


def test_a_killed_worker_costs_a_download_nothing(harvest, tmp_path):
    with serving() as web:
        rows = [(url, f"ant {text}") for url, text in (web.pair(number) for number in range(60))]
        web.let(10)
        process = harvest(rows, "dataset", *PATIENT, "--engine", "local(workers=2)")
        for more in (20, math.inf):
            process.wait_for(lambda: not web.turns)
            os.kill(process.worker(), signal.SIGKILL)
            web.let(more)
        code, said, errors = process.ended()
    assert code == 0, errors
    assert json.loads(said)["downloaded"] == 60
    assert not left_over(tmp_path / "dataset")


def test_a_full_disk_is_one_line_that_names_the_place_and_the_rest_follows_later(harvest, tmp_path):
    """The disk is full at once, then in the middle of matching, then of the shards, of one process and of two."""
    rows = rows_of(random.Random(1), 300)
    downloader = ("--downloader", f"{DOWNLOADER}(log={tmp_path}/log, dead=0.2)", "--top-up", "2", "--cap", "40")
    for limit, workers in ((200, 1), (2_500, 1), (2_500, 2), (12_000, 2), (12_000, 1)):
        code, _, said = harvest(rows, "full", *downloader, "--engine", f"local(workers={workers})",
                                largest_file=limit).ended()  # fmt: skip
        assert code == 1
        assert len(said.splitlines()) == 1
        assert said.startswith(f"curate: cannot write {tmp_path}/full/")
        assert "File too large; make room, then run again" in said
        assert not left_over(tmp_path / "full")
    for out, workers in (("full", 2), ("calm", 1)):
        code, _, said = harvest(rows, out, *downloader, "--engine", f"local(workers={workers})").ended()
        assert code == 0, said
    assert contents(Dataset.open(str(tmp_path / "full"))) == contents(Dataset.open(str(tmp_path / "calm")))


@pytest.mark.parametrize("downloader", DOWNLOADERS)
def test_a_full_temporary_space_is_named(harvest, tmp_path, downloader):
    with serving() as web:
        rows = [(url, f"ant {text}") for url, text in (web.pair(number) for number in range(40))]
        (tmp_path / "tmp").mkdir()
        environment = {"TMPDIR": str(tmp_path / "tmp")}
        options = ("--downloader", downloader, "--engine", "local(workers=1)")
        code, _, said = harvest(rows, downloader, *options, environment=environment, largest_file=9_000).ended()
        assert code == 1
        wanted = f"curate: cannot write {tmp_path}/tmp: File too large; set TMPDIR to a larger place"
        assert said.splitlines() == [wanted]
        assert not list((tmp_path / "tmp").glob("curate-*"))
        assert harvest(rows, downloader, *options).ended()[0] == 0


def test_kill_9_anywhere_in_a_top_up_changes_no_byte(harvest, tmp_path):
    rows = rows_of(random.Random(2), 400)
    options = ("--top-up", "3", "--cap", "60", "--oversample", "1.2", "--engine", "local(workers=2)")

    def ask(out: str, *more: str, **how) -> Command:
        downloader = ("--downloader", f"{DOWNLOADER}(log={tmp_path}/{out}.log, dead=0.6)")
        return harvest(rows, out, *downloader, *options, *more, **how)

    assert ask("calm", "--engine", "local(workers=1)").ended()[0] == 0
    calm, out = Dataset.open(str(tmp_path / "calm")), tmp_path / "stormy"
    rounds = calm.folder.names("candidates/rounds/*.parquet")
    assert len(rounds) >= 2
    about = calm.folder.made_by(rounds[0])
    last = f"shards/{about['first'] + about['shards'] - 1:05d}.tar"
    for sign in ("work/harvest/rounds/00001/images/*", "work/harvest/rounds/00001/kept/*", rounds[0],
                 f"shards/{about['first']:05d}_stats.json", last, "work/harvest/rounds/00002/depth.parquet", rounds[1],
                 "work/harvest/counted/limits.parquet", "selections/*/00003.parquet"):  # fmt: skip
        ask("stormy", killed_once=f"{out}/{sign}").killed()
    code, _, said = ask("stormy").ended()
    assert code == 0, said
    assert contents(Dataset.open(str(out))) == contents(calm)
    assert not left_over(out)
