"""kill -9 in the middle of dedup, then the same command again: the tables are those of a run that was left alone."""

import pytest
from conftest import draw, encoded, pair
from test_dedup_rules import scene

from curate import shuffle
from curate.dataset import Dataset
from curate.dedup import equal, join_bits, ranking, run

HERE = "local(workers=0)"


def tables(dataset: Dataset) -> dict[str, bytes]:
    patterns = ("signals/*/*", "selections/*/*", "reports/*", "work/dedup/**/*.parquet")
    names = [name for pattern in patterns for name in dataset.folder.names(pattern)]
    return {name: dataset.folder.read_bytes(name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "signals/pdq/00002.parquet",
        "work/dedup/rows-*/00001.parquet",
        "work/dedup/held-*/00001.parquet",
        "selections/*/*",
    ],
)
def test_a_killed_run_is_finished_by_the_next(make_dataset, start, tmp_path, moment):
    benchmark = tmp_path / "held"
    benchmark.mkdir()
    draw("red", "circle", 0).save(benchmark / "0.png")
    pairs = [pair(index) for index in range(12)]
    pairs += [{**row, "key": f"9{row['key']}", "caption": f"again {row['caption']}"} for row in pairs[:6]]
    whole = run(make_dataset(pairs, 3, str(tmp_path / "whole")), against=[str(benchmark)], engine=HERE)
    broken = make_dataset(pairs, 3, str(tmp_path / "broken"))
    start("dedup", broken.url, "--against", str(benchmark), "--engine", "local(workers=1)", "--quiet",
          killed_once=broken.folder.path(moment)).killed()  # fmt: skip
    run(Dataset.open(broken.url), against=[str(benchmark)], engine=HERE)
    assert tables(Dataset.open(broken.url)) == tables(whole)
    assert Dataset.open(broken.url).history[-1]["counts"] == whole.history[-1]["counts"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["rows-*/ranks-*/sorted/*", "rows-*/ranks-*/bounds/*", "rows-*/ranks-*/ranked/*",
                                    "pool-*/exact/*/digests/*", "pool-*/exact/*/repeats-*/*", "pool-*/pdq/*/firsts/*",
                                    "pool-*/pdq/*/placed/*/*", "pool-*/pdq/*/pairs/*", "pool-*/pdq/*/joined-row/*/*",
                                    "pool-*/pdq/*/near/*", "pool-*/decided/dropped/*", "pool-*/decided/hanging/*",
                                    "pool-*/decided/joined-place/0/*"])  # fmt: skip
def test_a_run_killed_among_its_buckets_is_finished_by_the_next(make_dataset, start, tmp_path, monkeypatch, moment):
    pairs = [{**pair(index), "image": encoded(scene(index % 10))} for index in range(16)]
    whole = run(make_dataset(pairs, 4, str(tmp_path / "whole")), engine=HERE)
    monkeypatch.setattr(join_bits, "BUCKET", 8)
    monkeypatch.setattr(join_bits, "RANGES", 1)
    monkeypatch.setattr(equal, "FEW", 6)
    monkeypatch.setattr(equal, "BUCKET", 6)
    monkeypatch.setattr(ranking, "RANGE", 6)
    monkeypatch.setattr(shuffle, "FAN", 2)
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 6)
    broken = make_dataset(pairs, 4, str(tmp_path / "broken"))
    start(broken.url, module="dedup_run", killed_once=broken.folder.path(f"work/dedup/{moment}")).killed()
    assert not broken.folder.names("selections/*/*")
    run(Dataset.open(broken.url), engine=HERE)
    assert tables(Dataset.open(broken.url)) == tables(whole)
    assert not broken.folder.names("work/dedup/**")
