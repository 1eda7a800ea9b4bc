"""One task, every engine: the same tables, the same failures, no item lost."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from processes import wait_for_group

from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.measure import measure
from curate.work import Report, engine, run_all

ENGINES = [
    pytest.param("local(workers=0)", id="in-process"),
    pytest.param("local(workers=2)", id="two-processes", marks=pytest.mark.slow),
    pytest.param("ray(workers=2)", id="ray", marks=[pytest.mark.slow, pytest.mark.ray]),
]
MANY = ENGINES[1:]


@dataclass(frozen=True)
class Square:
    """The square of a number; 13 is a bad shard."""

    def __call__(self, number: int) -> Report:
        if number == 13:
            raise BadShard("thirteen is damaged")
        return Report(str(number), number * number)


@dataclass(frozen=True)
class DieOnce:
    """Kill the process that runs item 2, the first time."""

    marker: Path

    def __call__(self, number: int) -> Report:
        if number == 2 and not self.marker.exists():
            self.marker.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        return Report(str(number))


@dataclass(frozen=True)
class DieOver:
    """Kill the process that runs one of these items, always, and leave a file for each time."""

    items: frozenset[int]
    place: Path

    def __call__(self, number: int) -> Report:
        if number in self.items:
            (self.place / f"{number} {os.getpid()}").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return Report(str(number))


@dataclass(frozen=True)
class Divide:
    def __call__(self, number: int) -> Report:
        return Report(str(1 / number))


@dataclass(frozen=True)
class Unwritable:
    def __call__(self, number: int) -> Report:
        Folder("/proc/no-such-folder").write_bytes("file", b"")
        return Report(str(number))


@dataclass(frozen=True)
class Look:
    """Where a worker is, and whether Arrow has made it import pandas."""

    def __call__(self, number: int) -> Report:
        pa.array([number])
        here = {"pandas": "pandas" in sys.modules, "told": int(os.environ.get("TOLD", "0"))}
        return Report(str(number), counts=here)


def engine_for(spec: str) -> str:
    if spec.startswith("ray"):
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    return spec


@pytest.mark.parametrize("spec", ENGINES)
def test_every_engine_gives_the_same_reports_in_order(spec):
    outcome = run_all(Square(), [3, 13, *range(20)], engine_for(spec))
    assert [report.rows for report in outcome.reports] == [9, *(n * n for n in range(20) if n != 13)]
    assert outcome.failures == {"13": "thirteen is damaged"}


@pytest.mark.parametrize("spec", ENGINES)
def test_every_engine_writes_the_same_tables(spec, dataset, tmp_path):
    engine_for(spec)
    first = measure(dataset, ["size"], "local(workers=0)")
    expected = {name: first.folder.read_bytes(name) for name in first.folder.names("signals/**")}
    first.folder.remove("signals")
    measure(dataset, ["size"], spec)
    assert len(expected) == 3
    assert {name: dataset.folder.read_bytes(name) for name in dataset.folder.names("signals/**")} == expected


@pytest.mark.parametrize("spec", MANY)
def test_a_killed_worker_costs_nothing(spec, tmp_path):
    outcome = run_all(DieOnce(tmp_path / "marker"), range(6), engine_for(spec))
    assert [report.item for report in outcome.reports] == ["0", "1", "2", "3", "4", "5"]
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("spec", MANY)
def test_an_item_that_kills_its_workers_is_given_up_by_name_and_the_others_go_on(spec, tmp_path):
    outcome = run_all(DieOver(frozenset({3}), tmp_path), range(8), engine_for(spec))
    assert [report.item for report in outcome.reports] == ["0", "1", "2", "4", "5", "6", "7"]
    assert list(outcome.failures) == ["3"]
    assert "3: 3 workers were killed (out of memory?) over it" in outcome.failures["3"] or "ray" in spec
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "spec",
    [pytest.param("local(workers=2)", id="two-processes", marks=pytest.mark.slow),
     pytest.param("ray(workers=2, cpus=2)", id="ray", marks=[pytest.mark.slow, pytest.mark.ray])],
)  # fmt: skip
def test_kills_without_any_progress_end_the_run(spec, tmp_path, monkeypatch):
    if "ray" in spec:
        monkeypatch.setattr("curate.engines.ray.KILLS", 1)  # Ray takes seconds to replace a worker
    with pytest.raises(CurateError, match="nothing got done"):
        run_all(DieOver(frozenset(range(20)), tmp_path), range(20), engine_for(spec))
    assert len(list(tmp_path.iterdir())) < 20


@pytest.mark.slow
def test_an_error_in_a_worker_is_raised_here_and_says_where_it_was(tmp_path):
    with pytest.raises(ZeroDivisionError) as raised:
        run_all(Divide(), [3, 0, 1], "local(workers=2)")
    assert "in __call__" in "".join(raised.value.__notes__)
    with pytest.raises(CurateError, match="cannot write"):
        run_all(Unwritable(), [1, 2], "local(workers=2)")


@pytest.mark.slow
def test_a_worker_has_the_environment_of_the_moment_and_no_pandas(monkeypatch):
    for told in ("1", "2", "0"):
        monkeypatch.setenv("TOLD", told) if told != "0" else monkeypatch.delenv("TOLD")
        reports = run_all(Look(), range(3), "local(workers=2)").reports
        assert [report.counts for report in reports] == [{"pandas": False, "told": int(told)}] * 3


@pytest.mark.slow
def test_pandas_works_where_arrow_did_not_look_for_it():
    script = """
import sys
from curate.memory import without_pandas
without_pandas()
import pyarrow as pa
assert "pandas" not in sys.modules
assert pa.table({"a": [1, 2]}).to_pandas()["a"].tolist() == [1, 2]
import pandas
assert pa.Table.from_pandas(pandas.DataFrame({"a": [1.5, None]}))["a"].to_pylist() == [1.5, None]
"""
    pytest.importorskip("pandas")
    subprocess.run([sys.executable, "-c", script], check=True)


DRIVER = """
import sys, time
from pathlib import Path
from curate.engines import local
from curate.storage.scratch import scratch
from curate.work import Report, run_all

class Wait:
    def __call__(self, number):
        with scratch() as folder:
            Path(sys.argv[1], str(number)).write_text(folder)
            while True:
                time.sleep(1)

local.GRACE = 200
{guard}run_all(Wait(), range(4), "local(workers=2)")
"""
GUARD = 'if __name__ == "__main__":\n    '


def started(tmp_path, guard: str = GUARD) -> tuple[subprocess.Popen, Path]:
    """A driver with two workers, both in the middle of an item that never ends, or the driver once it has ended, and
    the folder in which they tell their scratch."""
    (tmp_path / "driver.py").write_text(DRIVER.format(guard=guard))
    told = tmp_path / "told"
    told.mkdir()
    process = subprocess.Popen([sys.executable, tmp_path / "driver.py", told], start_new_session=True,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    while len([path for path in told.iterdir() if path.read_text()]) < 2 and process.poll() is None:
        time.sleep(0.02)
    return process, told


def gone(told: Path) -> bool:
    return not any(Path(path.read_text()).exists() for path in told.iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_every_worker_and_tidies_up(tmp_path):
    process, told = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode != 0
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert said.count("Traceback") == 1  # the driver's, none of a worker
    assert gone(told)
    wait_for_group(process.pid)


@pytest.mark.slow
def test_workers_end_with_a_killed_driver_and_what_they_left_is_swept(tmp_path):
    process, told = started(tmp_path)
    process.kill()
    process.communicate()
    wait_for_group(process.pid)
    sweeping = "from curate.storage.scratch import scratch\nwith scratch(): pass"
    subprocess.run([sys.executable, "-c", sweeping], check=True)
    assert gone(told)


FAILING = """
import sys, time
from pathlib import Path
from curate.errors import CurateError
from curate.work import run_all

def held():
    try:
        yield
    finally:
        Path(sys.argv[1]).touch()
        while True:
            time.sleep(1)

class Fail:
    def __call__(self, number):
        if number:
            next(held())  # it ends here, and is still about it when the other item has failed
        while not Path(sys.argv[1]).exists():
            time.sleep(0.02)
        raise CurateError("no weights")

if __name__ == "__main__":
    run_all(Fail(), range(2), "local(workers=2)")
"""


@pytest.mark.slow
def test_an_error_is_told_once_whatever_the_other_workers_are_about(tmp_path):
    (tmp_path / "driver.py").write_text(FAILING)
    command = [sys.executable, tmp_path / "driver.py", tmp_path / "held"]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr.count("Traceback (") == 2  # of the driver, and where it happened in the worker
    assert "Exception ignored" not in process.stderr


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so_in_one_line(tmp_path):
    process, _ = started(tmp_path, guard="")
    said = process.communicate()[1]
    assert process.returncode == 1
    assert 'put its calls under if __name__ == "__main__":' in said.splitlines()[-1]
    assert said.count("Traceback") == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [("lokal", "no engines called 'lokal'"), ("local(workers=many)", "workers is a whole number"),
     ("local(cores=2)", "no option 'cores'")],
)  # fmt: skip
def test_an_engine_that_cannot_be_made_is_named(spec, message):
    with pytest.raises(CurateError, match=message):
        engine(spec)
