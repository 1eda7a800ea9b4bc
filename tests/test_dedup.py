"""Dedup on drawn shards: what is planted is found, what is distinct stays, and nothing but content decides."""

import io
import random
import re
import socket
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import COLOURS, SHAPES, draw, encoded, pair, write_shard
from PIL import Image

from curate import shard as shards
from curate.cli import main
from curate.dataset import Dataset
from curate.dedup import run as dedup
from curate.errors import CurateError
from curate.files import Folder

SIGNALS = ("exact", "phash")  # the default's PDQ does not trust pictures as plain as the drawn ones


def run(dataset: Dataset, signals=SIGNALS, *args, engine: str = "local(workers=1)", **options) -> Dataset:
    """In this very process, for speed."""
    return dedup(dataset, signals, *args, engine=engine, **options)


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


@pytest.mark.slow
def test_workers_change_nothing(tmp_path, make_dataset):
    first, second = (make_dataset(planted(), per_shard=5, url=str(tmp_path / name)) for name in "ab")
    assert written(run(first)) == written(run(second, engine="local(workers=2)"))


def test_row_order_inside_a_shard_changes_nothing(tmp_path, make_dataset):
    pairs = planted()
    first = run(make_dataset(pairs, per_shard=5, url=str(tmp_path / "a")))
    for number, start in enumerate(range(0, len(pairs), 5)):
        part = pairs[start : start + 5]
        random.Random(number).shuffle(part)
        write_shard(Folder(str(tmp_path / "b")), f"{number:05d}", part)
    second = run(Dataset.open(str(tmp_path / "b")), name=first.selection)  # tars of other sizes: another default name
    assert written(first) == written(second)


def test_dedup_again_replaces_its_own_choice(make_dataset):
    dataset = run(make_dataset(planted()))
    again = run(dataset)
    assert again.selection == dataset.selection
    assert again.history[-1]["counts"] == dataset.history[-1]["counts"]


def test_rows_that_an_earlier_selection_dropped_are_no_keepers(make_dataset):
    pairs = planted()
    dataset = make_dataset(pairs)
    rows = dataset.shards[0].rows()
    weight = [0 if key == uid(pairs[2]) else 3 for key in rows["uid"].to_pylist()]
    table = pa.table({"uid": rows["uid"], "weight": pa.array(weight, pa.int32())})
    dataset.folder.write_table("selections/mine/00000.parquet", table)
    dataset = dataset.after("filter", {}, "", **dataset.with_selection("mine", "filter", None)).save()
    found = rows_of(run(dataset))
    assert uid(pairs[2]) not in found
    assert found[uid(pairs[12])]["weight"] == 3  # what it copies was not there, and the weight is handed on


def test_a_loose_threshold_drops_more_and_does_not_chain(dataset):
    loose = run(dataset, ["phash"], {"phash": 24})
    found = rows_of(loose)
    dropped = [row for row in found.values() if row["weight"] == 0]
    assert len(dropped) > 5
    assert all(row["distance"] <= 24 and found[row["keeper"]]["weight"] == 1 for row in dropped)


def test_a_truncated_tar_costs_its_shard_only(make_dataset):
    dataset = make_dataset(planted(), per_shard=5)
    broken = dataset.shards[1]
    dataset.folder.write_bytes(broken.tar, dataset.folder.read_bytes(broken.tar)[:3000])
    options = ["--signal", "exact", "--signal", "phash", "--engine", "local(workers=1)"]
    result = CliRunner().invoke(main, ["dedup", dataset.url, *options])
    assert result.exit_code == 1
    assert "00001.tar" in result.output
    assert "5 of 8 pairs kept; 1 exact, 2 phash duplicates in 3 groups" in result.output


def test_an_empty_dataset_has_no_duplicates(tmp_path):
    dataset = Dataset.create(str(tmp_path / "empty")).save()
    assert run(dataset).history[-1]["counts"]["of"] == 0


def test_dedup_works_in_memory(make_dataset):
    dataset = run(make_dataset(planted(), url="memory://dedup/dataset"))
    assert dataset.history[-1]["counts"]["kept"] == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--signal", "size"], "size.*no distance"),
        (["--signal", "phsh"], "no signals called 'phsh'"),
        (["--threshold", "embedding=0.9"], "no such signal here.*exact, pdq"),
        (["--threshold", "pdq=-1"], "pdq=-1"),
        (["--threshold", "phash=few"], "not NAME=NUMBER"),
        (["--signal", "phash(size=7)"], "multiple of 4"),
        (["--against", "nowhere"], "no such benchmark: nowhere"),
        (["--threshold", "pdq=nan"], "pdq=nan: it is a whole number of bits"),
        (["--threshold", "pdq=2.5"], "pdq=2.5: it is a whole number of bits"),
        (["--threshold", "exact=3"], "exact tells equal images, without a threshold"),
        (["--against-threshold", "pdq=3"], "--against-threshold tells how benchmarks are compared"),
        (["--against-signal", "pdq"], "--against-signal tells how benchmarks are compared"),
        (["--thorough", "--against-threshold", "phash=3"], "--against-threshold phash: no such signal"),
        (["--candidates", "-1"], "--candidates -1: it is a number of pictures, 0 or more"),
        (["--device", "gpu"], "--device gpu: there are auto, cpu and cuda"),
        (["--thorough", "--device", "cuda:99"], "--device cuda:99: FAISS sees . GPUs here"),
        (["--name", "../x"], "'../x' cannot name a selection"),
        (["--name", "all"], "'all' cannot name a selection"),
        (["--calibrate", "--predictions", "x"], "--calibrate makes no selection; leave --predictions out"),
    ],
)
def test_bad_options_are_one_clear_line(dataset, options, message):
    result = CliRunner().invoke(main, ["dedup", dataset.url, *options])
    assert result.exit_code != 0
    assert re.search(message, result.output)
    assert "Traceback" not in result.output
    assert not dataset.folder.exists("signals")


def test_a_threshold_as_large_as_the_hash_is_refused(dataset):
    with pytest.raises(CurateError, match="phash at 64: it has 64 bits"):
        run(dataset, ("phash",), {"phash": 64}, engine="local(workers=0)")


def test_a_dataset_is_no_benchmark_for_itself_however_it_is_written(dataset, monkeypatch):
    monkeypatch.chdir(dataset.folder.path("shards"))
    with pytest.raises(CurateError, match=r"--against \.\.: a dataset is no benchmark for itself"):
        run(dataset, against=("..",))


def test_what_a_worker_killed_on_the_way_left_half_written_goes_at_the_end(dataset, tmp_path):
    child = subprocess.Popen(["true"])
    child.wait()
    left = Path(dataset.folder.path(f"selections/.00000.parquet.{socket.gethostname()}-{child.pid}.tmp"))
    (tmp_path / "killed.py").write_text(
        "from pathlib import Path\n"
        "class Signal:\n"
        "    reads, distance = ('caption',), 'equal'\n"
        "    def measure(self, rows):\n"
        f"        left = Path({str(left)!r})\n"
        "        left.parent.mkdir(exist_ok=True)\n"
        "        left.write_bytes(b'half')\n"
        "        return {'killed': rows['caption']}\n"
    )
    run(dataset, (f"{tmp_path}/killed.py",), engine="local(workers=0)")
    assert list(left.parent.iterdir()) == [
        Path(dataset.folder.path(f"selections/{Dataset.open(dataset.url).selection}"))
    ]


def test_a_named_selection_is_not_remade_with_other_options(make_dataset):
    dataset = run(make_dataset(planted()), name="clean")
    with pytest.raises(CurateError, match="'clean' was made with another thresholds; choose another --name"):
        run(dataset, thresholds={"phash": 0}, name="clean")


def test_keepers_ranked_by_clip_scores_are_another_selection(make_dataset):
    pairs = [sized(0, 128), copy_of(sized(0, 128), "900000", caption="better words")]
    first = run(make_dataset(pairs), ("exact",))
    kept = {key for key, row in rows_of(first).items() if row["weight"]}
    uids = sorted(rows_of(first))
    scores = pa.table({"uid": uids, "clip": [0.1 if key in kept else 0.9 for key in uids]})
    first.folder.write_table("signals/clip/00000.parquet", scores, {"signal": "clip"})
    second = run(first.after("measure", {}, "", signals={**first.signals, "clip": "clip"}).save(), ("exact",))
    assert second.selection != first.selection
    assert {key for key, row in rows_of(second).items() if row["weight"]}.isdisjoint(kept)
    assert {key for key, row in rows_of(first).items() if row["weight"]} == kept
