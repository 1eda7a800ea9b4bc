"""What of a pool a benchmark holds: planted copies are found in any size or encoding, blank pictures never count."""

import io

import pytest
from click.testing import CliRunner
from conftest import COLOURS, SHAPES, draw, encoded, pair
from PIL import Image

from curate import shard as shards
from curate.cli import main
from curate.dedup import run as dedup
from curate.errors import CurateError

BLANK = encoded(Image.new("RGB", (64, 64), "black"), "PNG")


def run(dataset, **options):
    """In this very process, for speed."""
    return dedup(dataset, engine="local(workers=1)", **options)


def bench_image(index: int) -> Image.Image:
    return draw(COLOURS[index % 6], SHAPES[index % 3], 1000 + index, 128)


@pytest.fixture
def benchmark(tmp_path):
    """A folder of eight pictures in two classes, and a black one."""
    folder = tmp_path / "drawings"
    for index in range(8):
        (folder / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
        bench_image(index).save(folder / f"class{index % 2}" / f"{index}.png")
    (folder / "class0" / "black.png").write_bytes(BLANK)
    return str(folder)


def pool() -> list[dict]:
    """Ten pictures of its own; benchmark image 0 as it is, 1 as a JPEG of half the size (twice), 2 as a poor JPEG;
    and a black frame."""
    buffer = io.BytesIO()
    bench_image(0).save(buffer, "PNG")
    small = encoded(bench_image(1).resize((64, 64)))
    poor = io.BytesIO()
    bench_image(2).save(poor, "JPEG", quality=40)
    planted = [buffer.getvalue(), small, small, poor.getvalue(), BLANK]
    return [pair(index) if index < 10 else {**pair(index), "image": planted[index - 10]} for index in range(15)]


@pytest.mark.slow
def test_planted_copies_are_found_and_blank_pictures_are_not(make_dataset, benchmark):
    pairs = pool()
    dataset = run(make_dataset(pairs, per_shard=4), against=[benchmark])
    found = dataset.history[-1]["counts"]["overlap"]["drawings"]
    expected = {"images": 9, "compared": 8, "unreadable": 0, "blank": 1, "overlapping": 3, "pool_rows": 4, "twins": 0}
    assert {name: found[name] for name in expected} == expected
    report = dataset.folder.read_table("reports/overlap-drawings.parquet").to_pylist()
    uids = [shards.uid_of(row["url"], row["caption"]) for row in pairs]
    assert {(row["benchmark_key"], row["uid"]) for row in report} == {
        ("class0/0.png", uids[10]), ("class1/1.png", uids[11]), ("class1/1.png", uids[12]), ("class0/2.png", uids[13])
    }  # fmt: skip
    assert {row["signal"] for row in report if row["uid"] == uids[10]} >= {"exact", "pdq"}
    assert dataset.history[-1]["counts"]["kept"] == 11


@pytest.mark.slow
def test_dropped_rows_name_the_benchmark(make_dataset, benchmark):
    dataset = run(make_dataset(pool()), against=[benchmark])
    rows = dataset.folder.read_table(f"selections/{dataset.selection}/00000.parquet").to_pylist()
    reasons = [row["reason"] for row in rows if row["weight"] == 0]
    assert reasons == ["benchmark:drawings"] * 4
    assert all(row["keeper"] is None for row in rows)


@pytest.mark.slow
def test_a_second_run_measures_nothing_again(make_dataset, benchmark):
    dataset = run(make_dataset(pool()), against=[benchmark])
    before = {name: dataset.folder.read_bytes(name) for name in dataset.folder.names("work/dedup/**/*.parquet")}
    report = dataset.folder.read_bytes("reports/overlap-drawings.parquet")
    again = run(dataset, against=[benchmark])
    assert before == {name: again.folder.read_bytes(name) for name in again.folder.names("work/dedup/**/*.parquet")}
    assert again.folder.read_bytes("reports/overlap-drawings.parquet") == report
    assert again.selection == dataset.selection


@pytest.mark.slow
def test_another_benchmark_image_makes_another_selection(make_dataset, benchmark, tmp_path):
    dataset = run(make_dataset(pool()), against=[benchmark])
    draw("red", "square", 77, 128).save(tmp_path / "drawings" / "class0" / "new.png")
    again = run(dataset, against=[benchmark])
    assert again.selection != dataset.selection
    assert again.history[-1]["counts"]["overlap"]["drawings"]["images"] == 10


@pytest.mark.slow
def test_several_benchmarks_each_get_a_report(make_dataset, benchmark, tmp_path):
    (tmp_path / "other").mkdir()
    bench_image(2).save(tmp_path / "other" / "2.png")
    dataset = run(make_dataset(pool()), against=[benchmark, str(tmp_path / "other")])
    overlap = dataset.history[-1]["counts"]["overlap"]
    assert (overlap["drawings"]["overlapping"], overlap["other"]["overlapping"]) == (3, 1)
    assert dataset.folder.exists("reports/overlap-other.parquet")


def test_a_dataset_can_be_the_benchmark(make_dataset, tmp_path):
    held_out = make_dataset([pair(3), pair(4)], url=str(tmp_path / "heldout"))
    dataset = run(make_dataset([pair(index) for index in range(6)]), against=[held_out.url])
    assert dataset.history[-1]["counts"]["overlap"]["heldout"]["overlapping"] == 2
    assert not held_out.folder.exists("signals")  # a benchmark is only read


@pytest.mark.parametrize("kind", ["empty", "texts", "itself"])
def test_a_folder_that_is_no_benchmark_is_one_clear_line(dataset, tmp_path, kind):
    path = dataset.url if kind == "itself" else str(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    if kind == "texts":
        (tmp_path / "folder" / "readme.txt").write_text("no pictures here")
    result = CliRunner().invoke(main, ["dedup", dataset.url, "--against", path])
    assert result.exit_code == 1
    assert "not a benchmark" in result.output or "no benchmark" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_benchmarks_of_one_name_are_refused(dataset, benchmark):
    with pytest.raises(CurateError, match="two benchmarks are called 'drawings'"):
        run(dataset, against=[benchmark, benchmark + "/"])


@pytest.mark.slow
def test_a_looser_threshold_against_benchmarks_leaves_the_pool_alone(make_dataset, benchmark):
    dataset = make_dataset(pool())
    counts = run(dataset, against=[benchmark]).history[-1]["counts"]
    loose = run(dataset, against=[benchmark], against_thresholds={"pdq": 100}).history[-1]["counts"]
    assert loose["overlap"]["drawings"]["pool_rows"] > counts["overlap"]["drawings"]["pool_rows"]
    assert loose["duplicates"] == counts["duplicates"]
