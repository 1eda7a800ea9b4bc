"""One task, every engine: the same tables, the same failures, no item lost."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from curate.errors import BadShard, CurateError
from curate.measure import measure
from curate.work import Report, engine, run_all

ENGINES = [
    pytest.param("local(workers=0)", id="in-process"),
    pytest.param("local(workers=2)", id="two-processes", marks=pytest.mark.slow),
    pytest.param("ray(workers=2)", id="ray", marks=[pytest.mark.slow, pytest.mark.ray]),
]


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
class AlwaysDie:
    def __call__(self, number: int) -> Report:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")


@pytest.fixture
def stop_ray():
    yield
    import sys

    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.mark.parametrize("spec", ENGINES)
def test_every_engine_gives_the_same_reports_in_order(spec, stop_ray):
    if spec.startswith("ray"):
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    outcome = run_all(Square(), [3, 13, *range(20)], spec)
    assert [report.rows for report in outcome.reports] == [9, *(n * n for n in range(20) if n != 13)]
    assert outcome.failures == {"13": "thirteen is damaged"}


@pytest.mark.parametrize("spec", ENGINES)
def test_every_engine_writes_the_same_tables(spec, dataset, tmp_path, stop_ray):
    if spec.startswith("ray"):
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    first = measure(dataset, ["size"], "local(workers=0)")
    expected = {name: first.folder.read_bytes(name) for name in first.folder.names("signals/**")}
    first.folder.remove("signals")
    measure(dataset, ["size"], spec)
    assert len(expected) == 3
    assert {name: dataset.folder.read_bytes(name) for name in dataset.folder.names("signals/**")} == expected


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(tmp_path):
    outcome = run_all(DieOnce(tmp_path / "marker"), range(6), "local(workers=2)")
    assert [report.item for report in outcome.reports] == ["0", "1", "2", "3", "4", "5"]
    assert (tmp_path / "marker").exists()


@pytest.mark.slow
def test_workers_that_are_always_killed_are_reported(tmp_path):
    with pytest.raises(CurateError, match="a worker was killed 3 times"):
        run_all(AlwaysDie(), range(4), "local(workers=2)")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("lokal", "no engines called 'lokal'"), ("local(workers=many)", "workers is a whole number"),
     ("local(cores=2)", "no option 'cores'")],
)  # fmt: skip
def test_an_engine_that_cannot_be_made_is_named(spec, message):
    with pytest.raises(CurateError, match=message):
        engine(spec)
