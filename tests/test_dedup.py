"""Dedup on drawn shards: what is planted is found, what is distinct stays, and nothing but content decides."""

import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import COLOURS, SHAPES, draw, encoded, pair, write_shard
from PIL import Image

from curate import shard as shards
from curate.cli import main
from curate.dataset import Dataset
from curate.dedup import run
from curate.errors import CurateError
from curate.files import Folder


def copy_of(original: dict, key: str, **changes) -> dict:
    return {**original, "key": key, "url": f"http://copy.test/{key}", **changes}


def reencoded(image: bytes, side: int | None = None, quality: int = 60) -> bytes:
    picture = Image.open(io.BytesIO(image))
    buffer = io.BytesIO()
    (picture.resize((side, side)) if side else picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def planted() -> list[dict]:
    """Ten distinct 128-pixel pictures, then a byte copy, a re-encoded copy and a smaller copy of the first three."""
    pairs = [sized(index, 128) for index in range(10)]
    return [
        *pairs,
        copy_of(pairs[0], "900000", caption="other words"),
        copy_of(pairs[1], "900001", image=reencoded(pairs[1]["image"])),
        copy_of(pairs[2], "900002", image=reencoded(pairs[2]["image"], side=96), width=96, height=96),
    ]


def sized(index: int, side: int) -> dict:
    picture = draw(COLOURS[index % len(COLOURS)], SHAPES[index // len(COLOURS) % len(SHAPES)], index, side)
    return {**pair(index), "image": encoded(picture), "width": side, "height": side}


def uid(row: dict) -> str:
    return shards.uid_of(row["url"], row["caption"])


def rows_of(dataset: Dataset) -> dict[str, dict]:
    """The current selection, by uid."""
    tables = [dataset.folder.read_table(f"selections/{dataset.selection}/{s.name}.parquet") for s in dataset.shards]
    return {row["uid"]: row for row in pa.concat_tables(tables).to_pylist()}


def written(dataset: Dataset) -> dict[str, bytes]:
    """Every table that dedup decides, by name."""
    names = [*dataset.folder.names("selections/*/*.parquet"), *dataset.folder.names("reports/*.parquet")]
    return {name: dataset.folder.read_bytes(name) for name in names}


def test_planted_copies_are_dropped_and_name_their_keeper(make_dataset):
    pairs = planted()
    dataset = run(make_dataset(pairs, per_shard=5))
    found = rows_of(dataset)
    dropped = {key: row for key, row in found.items() if row["weight"] == 0}
    twins = {uid(pairs[0]), uid(pairs[10])}
    assert len(found) == 13
    assert len(dropped) == 3
    exact = next(row for row in dropped.values() if row["reason"] == "exact")
    assert {exact["uid"], exact["keeper"]} == twins
    assert exact["distance"] == 0
    assert dropped[uid(pairs[12])]["keeper"] == uid(pairs[2])  # the larger picture stays
    assert dropped[uid(pairs[12])]["signal"] == dropped[uid(pairs[12])]["reason"] == "phash"
    assert dataset.history[-1]["counts"]["duplicates"] == {"exact": 1, "phash": 2}


def test_distinct_drawn_images_stay(dataset):
    assert run(dataset).history[-1]["counts"]["kept"] == 60


def test_all_texts_of_a_group_stand_beside_its_keeper(make_dataset):
    dataset = run(make_dataset(planted()))
    groups = dataset.folder.read_table(f"reports/duplicates-{dataset.selection}.parquet").to_pylist()
    texts = next(group["texts"] for group in groups if "exact" in group["signals"])
    assert sorted(texts) == ["a red circle number 0", "other words"]
    assert len(groups) == 3


def test_near_blank_images_match_by_pixels_only(make_dataset):
    blank = [encoded(Image.new("RGB", (64, 64), (250 - index, 250, 250)), "PNG") for index in range(3)]
    pairs = [{**pair(index), "image": image} for index, image in enumerate([*blank, blank[0]])]
    counts = run(make_dataset(pairs)).history[-1]["counts"]
    assert counts["duplicates"] == {"exact": 1, "phash": 0}


def test_row_order_shard_content_and_workers_change_nothing(tmp_path, make_dataset):
    pairs = planted()
    first = run(make_dataset(pairs, per_shard=5, url=str(tmp_path / "a")))
    for number, start in enumerate(range(0, len(pairs), 5)):
        part = pairs[start : start + 5]
        random.Random(number).shuffle(part)
        write_shard(Folder(str(tmp_path / "b")), f"{number:05d}", part)
    second = run(Dataset.open(str(tmp_path / "b")), name=first.selection)  # the tars differ in size: another default name
    assert written(first) == written(second)
