"""Files appear whole or not at all, on a disk and on any store."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.storage import disk


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path) -> Folder:
    return Folder(str(tmp_path) if request.param == "disk" else f"memory://{request.node.name}")


def test_a_table_comes_back_with_what_made_it(folder):
    folder.write_table("a/b.parquet", pa.table({"x": [1, 2]}), {"option": 3})
    assert folder.read_table("a/b.parquet").to_pydict() == {"x": [1, 2]}
    assert folder.made_by("a/b.parquet") == {"option": 3}
    assert folder.made_by("a/c.parquet") is None


def test_the_same_table_gives_the_same_bytes(folder):
    for name in ("a.parquet", "b.parquet"):
        folder.write_table(name, pa.table({"x": ["one", None]}), {"b": 1, "a": [2]})
    assert folder.read_bytes("a.parquet") == folder.read_bytes("b.parquet")


def test_an_array_comes_back(folder):
    folder.write_array("a.npy", np.eye(3, dtype=np.float16))
    assert np.array_equal(folder.read_array("a.npy"), np.eye(3))
    assert np.array_equal(folder.read_rows("a.npy", 1, 3), np.eye(3)[1:])
    assert folder.read_rows("a.npy", 2, 2).shape == (0, 3)
    assert np.array_equal(folder.read_rows("a.npy"), np.eye(3))


def test_an_error_while_writing_leaves_nothing_behind(folder):
    def fail() -> None:
        with folder.writing("a.txt") as path:
            with open(path, "w") as file:
                file.write("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert folder.names("*") == []


def test_names_leave_out_half_written_files(tmp_path):
    (tmp_path / ".a.parquet.host-1.tmp").write_bytes(b"half")
    (tmp_path / "b.parquet").write_bytes(b"whole")
    assert Folder(str(tmp_path)).names("*") == ["b.parquet"]


def test_names_are_files_at_any_depth_and_nothing_where_there_is_no_folder(tmp_path):
    folder = Folder(f"{tmp_path}/[a*]")
    for name in ("a/b/c.txt", "a/.d/e.txt", "a/f.csv"):
        folder.write_bytes(name, b"")
    assert folder.names("a/**") == ["a/.d/e.txt", "a/b/c.txt", "a/f.csv"]
    assert folder.names("a/*") == ["a/f.csv"]
    assert folder.names("none/**") == folder.names("none/*.txt") == []


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path):
    host = socket.gethostname()
    dead, living, other = (
        tmp_path / f".x.{name}.tmp" for name in (f"{host}-999999999", f"{host}-{os.getpid()}", "h-9")
    )
    for path in (dead, living, other):
        path.write_bytes(b"")
    Folder(str(tmp_path)).sweep()
    assert not dead.exists()
    assert living.exists()
    assert other.exists()


def test_a_missing_table_and_a_damaged_one_are_named(folder):
    folder.write_bytes("bad.parquet", b"PAR1 nothing PAR1")
    for name in ("bad.parquet", "none.parquet"):
        with pytest.raises(BadShard, match=name):
            folder.read_table(name)


def test_columns_are_read_by_their_whole_name_and_must_be_there_once(tmp_path):
    pq.write_table(pa.table([[1], [2], [3], [4]], ["a", "a.b", "c", "c"]), tmp_path / "table.parquet")
    folder = Folder(str(tmp_path))
    assert folder.read_table("table.parquet", ["a"]).to_pydict() == {"a": [1]}
    assert folder.read_table("table.parquet", ["a.b", "a"]).column_names == ["a.b", "a"]
    with pytest.raises(BadShard, match=r"table.parquet cannot be read: none of its columns is called 'd'"):
        folder.read_table("table.parquet", ["a", "d"])
    for columns in (None, ["c"]):
        with pytest.raises(BadShard, match="2 of its columns are called 'c'"):
            folder.read_table("table.parquet", columns)


def test_a_target_under_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CurateError, match=r"cannot write .*file/data.*choose another place"):
        Folder(str(tmp_path / "file" / "data")).write_bytes("a", b"")


def test_a_store_whose_package_is_missing_names_the_package():
    with pytest.raises(CurateError, match="pip install"):
        Folder("gdrive://x").exists("a")


def test_floats_are_split_by_their_bytes_and_come_back_bit_by_bit_for_every_reader(tmp_path):
    values = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 0.1, -1e300] * 100)
    with np.errstate(over="ignore"):
        columns = {"double": pa.array(values), "single": pa.array(values.astype(np.float32)), "text": ["a", "b"] * 400}
    table = pa.table({**columns, "holes": pa.array(values, mask=np.arange(800) % 3 == 0)})
    Folder(str(tmp_path)).write_table("a.parquet", table)
    about = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    encodings = [about.column(index).encodings for index in range(4)]
    assert ["BYTE_STREAM_SPLIT" in found for found in encodings] == [True, True, False, True]
    found = pq.read_table(tmp_path / "a.parquet")
    for name in ("double", "single", "holes"):
        assert found[name].to_numpy().tobytes() == table[name].to_numpy().tobytes()
    place = str(tmp_path / "a.parquet")
    assert duckdb.execute("SELECT count(*), count(holes), sum(double) FILTER (double = 0.1) FROM read_parquet(?)",
                          [place]).fetchall() == [(800, 533, pytest.approx(10))]  # fmt: skip


def test_a_name_that_the_disk_does_not_take_is_one_line(tmp_path):
    with pytest.raises(CurateError, match=r"cannot write .*nnn: File name too long; choose another place"):
        Folder(str(tmp_path)).write_bytes("n" * 250, b"")


def test_several_may_remove_the_same_folder(tmp_path):
    for attempt in range(3):
        folder = tmp_path / f"{attempt}"
        for number in range(1000):
            (folder / str(number % 7)).mkdir(parents=True, exist_ok=True)
            (folder / str(number % 7) / str(number)).touch()
        with ThreadPoolExecutor(4) as several:
            list(several.map(disk.remove, [str(folder)] * 4))
        assert not folder.exists()
