"""The benchmarks run: those that can be small through their own main, the others as far as their options."""

import contextlib
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "embedding_search_vs_faiss": "--largest 1000 --dimensions 16",
    "hamming_vs_faiss": "--largest 1000 --rounds 1",
    "hashing_vs_peers": "--images 2 --rounds 1",
    "html_images": "--rounds 1",
    "match_vs_ahocorasick": "--queries 100 --captions 100 --rounds 1",
    "resize_vs_img2dataset": "--images 2 --rounds 1",
    "search_gpu": "--indexed 1000 --pool 200 --dimensions 16 --rounds 1 --device cpu",
    "wat_vs_cc2dataset": "--pages 20 --rounds 1",
}
ALL = sorted(path.stem for path in FOLDER.glob("*.py") if "def main(" in path.read_text())
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def peers():
    """The test is skipped where a package that a benchmark compares with, or draws from, is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] in ("curate", *ALL):
            raise
        pytest.skip(f"{error.name} is not installed")


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("name", SMALL)
def test_a_small_benchmark_runs_and_writes_its_results(monkeypatch, tmp_path, name):
    monkeypatch.setattr(sys, "argv", [name, *SMALL[name].split()])
    before = {path: path.stat().st_mtime_ns for path in (FOLDER / "results").iterdir()}
    with peers():
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "RESULTS", tmp_path / module.RESULTS.name if module.RESULTS.suffix else tmp_path)
        module.main()
    assert (tmp_path / f"{name}.json").stat().st_size > 2
    assert {path: path.stat().st_mtime_ns for path in (FOLDER / "results").iterdir()} == before


@pytest.mark.parametrize("name", [name for name in ALL if name not in SMALL])
def test_a_large_benchmark_explains_its_options(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with peers(), pytest.raises(SystemExit, match="0"):
        importlib.import_module(name).main()
    assert "usage: " in capsys.readouterr().out


def test_a_part_of_the_gpu_check_that_hangs_is_ended_with_all_it_started(capsys):
    gpu_check = importlib.import_module("gpu_check")
    code, said = gpu_check.ran([sys.executable, "-c", "print('one'); exit(3)"], 60)
    assert (code, said) == (3, ["one"])
    code, said = gpu_check.ran(["sh", "-c", "echo two; sleep 60; echo three"], 5)
    assert (code, said) == (-9, ["two"])
    assert capsys.readouterr().out == "one\ntwo\n"


def test_open_clips_loader_gets_as_many_workers_as_memory_allows():
    loaders = importlib.import_module("train_gpu_vs_open_clip").loaders
    assert loaders(1 << 24) == 1
    assert loaders(1) >= 1
