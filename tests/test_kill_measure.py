"""kill -9 in the middle of measure, run again: the same bytes as a run that was left alone."""

from pathlib import Path

import pytest
from conftest import pair, write_shard

from curate.files import Folder

MEAN = """
import numpy as np, pyarrow as pa
class Signal:
    reads = ("pixels",)
    def measure(self, rows):
        values = np.array([[image.mean(), 1.0] for image in rows["pixels"]], np.float32)
        return {"mean": pa.array(values[:, 0]), "mean_vector": values}
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_measure_killed_in_the_middle_and_run_again_gives_the_same_bytes(start, tmp_path, workers):
    (tmp_path / "mean.py").write_text(MEAN)
    tables = []
    for name in ("left-alone", "killed"):
        folder = Folder(str(tmp_path / name))
        for shard in range(6):
            write_shard(folder, f"{shard:05d}", [pair(index) for index in range(shard * 8, shard * 8 + 8)])
        command = ["measure", folder.url, str(tmp_path / "mean.py"), "size", "--engine", f"local(workers={workers})",
                   "-q"]  # fmt: skip
        if name == "killed":
            start(*command, killed_once=folder.path("signals/mean/0000[1-9].parquet")).killed()
            assert 1 <= len(folder.names("signals/mean/*.parquet")) < 6
        code, _, said = start(*command).ended()
        assert code == 0, said
        files = [path for path in Path(folder.url).rglob("*") if path.is_file() and path.name != "manifest.json"]
        tables.append({str(path.relative_to(folder.url)): path.read_bytes() for path in files})
    assert len(tables[0]) == 6 * (3 + 3)
    assert tables[0] == tables[1]
