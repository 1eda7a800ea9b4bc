"""The same commands on a disk, in memory and on an S3 server, with the same tables."""

import os

import fsspec
import pytest

from curate import filter as filtering
from curate import harvest
from curate.dataset import Dataset

ENGINE = "local(workers=0)"


@pytest.fixture
def s3(monkeypatch):
    """A bucket on a local S3 server."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'curate[dev]'")
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'curate[s3]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "test", "secret": "test"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    monkeypatch.setitem(os.environ, "AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").mkdir("s3://bucket")
    yield "s3://bucket/dataset"
    fsspec.filesystem("s3").rm("s3://bucket", recursive=True)  # moto keeps it in this process
    server.stop()


def whole_job(web, url: str) -> dict[str, bytes]:
    """harvest -> measure -> filter -> export on one storage; the tables and tars that came out."""
    dataset = harvest.run(Dataset.create(url), (str(web / "pool.parquet"),), str(web / "queries.txt"), cap=8,
                          allow_private=True, shard_size=10, engine=ENGINE)  # fmt: skip
    clean = f"{url}-clean"
    filtering.run(dataset, where=("caption_words > 2", "size_width = 64"), signals=("caption", "size"), name="f",
                  out=clean, engine=ENGINE)  # fmt: skip
    assert len(Dataset.open(clean).shards) >= 1
    found = {}
    for label, folder in (("dataset", dataset.folder), ("clean", Dataset.open(clean).folder)):
        for name in folder.names("**"):
            if name.endswith((".parquet", ".tar", ".npy")) and not name.startswith("work/"):
                found[f"{label}/{name}"] = folder.read_bytes(name)
    return found


@pytest.mark.slow
def test_harvest_to_filter_gives_the_same_tables_on_disk_in_memory_and_on_s3(web, s3, tmp_path):
    on_disk = whole_job(web, str(tmp_path / "dataset"))
    assert {name.split("/")[1] for name in on_disk} >= {"shards", "signals", "selections", "candidates"}
    assert whole_job(web, "memory://storage/dataset") == on_disk
    assert whole_job(web, s3) == on_disk
