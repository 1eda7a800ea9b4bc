"""Files, columns and benchmarks that are not as they should be: each is named and counted, and nothing else is lost."""

import resource
import tempfile

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import encoded, pair
from PIL import Image
from test_dedup_rules import dropped, scene, uid
from test_dedup_tasks import with_vectors
from test_signals_odd_images import png

from curate.cli import main
from curate.dataset import Dataset
from curate.dedup.codes import Comparison
from curate.dedup.faiss_install import load_search
from curate.dedup.pool import Pool, collect
from curate.dedup.spill import mapped
from curate.errors import CurateError
from curate.measure import measure

HERE = "local(workers=1)"


def command(dataset: Dataset, *options: str):
    return CliRunner().invoke(main, ["dedup", dataset.url, "--engine", HERE, *options])


def turned(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees when shown
    return encoded(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def deep(picture: Image.Image) -> bytes:
    return encoded(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG")


def transparent(picture: Image.Image) -> bytes:
    palette = picture.quantize(200)
    return encoded(palette, "PNG", transparency=0)


def huge() -> bytes:
    side = 15_200  # 231 megapixels in a few kilobytes, as Debian's openclipart has them
    return png(side, side, 1, 0, bytes((side // 8 + 1) * side))


ODD = {
    "truncated": lambda: encoded(scene(50), "JPEG")[:1500],
    "text": lambda: b"<html>not found</html>",
    "empty": lambda: b"",
    "huge": huge,
    "one pixel": lambda: encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "animated": lambda: encoded(scene(51).quantize(), "GIF", save_all=True, append_images=[scene(52).quantize()]),
    "cmyk": lambda: encoded(scene(53).convert("CMYK"), "JPEG"),
    "16 bits": lambda: deep(scene(54)),
    "palette": lambda: transparent(scene(55)),
    "exif": lambda: turned(scene(56)),
}
UNDECODABLE = ("truncated", "text", "empty", "huge")
LIKE = {"cmyk": scene(53), "16 bits": scene(54).convert("L"), "palette": scene(55), "exif": scene(56)}


@pytest.mark.slow
def test_odd_files_are_counted_and_compared_as_the_pictures_they_show(make_dataset):
    odd = {name: {**pair(index), "image": make()} for index, (name, make) in enumerate(ODD.items())}
    plain = {name: {**pair(20 + at), "image": encoded(LIKE[name]), "width": 200, "height": 200}
             for at, name in enumerate(LIKE)}  # fmt: skip
    dataset = make_dataset([*odd.values(), *plain.values()], per_shard=5)
    result = command(dataset)
    assert result.exit_code == 0, result.output
    assert f"{len(UNDECODABLE)} images could not be decoded" in result.output
    assert f"dedup: {len(ODD)} of {len(ODD) + len(LIKE)} pairs kept" in result.output
    found = dropped(Dataset.open(dataset.url))
    keepers = {row["uid"]: row["keeper"] for row in found.values()}
    assert keepers == {uid(odd[name]): uid(plain[name]) for name in LIKE}


def test_a_tar_that_is_gone_is_named_and_the_manifest_still_lists_it(dataset):
    dataset.save().folder.remove("shards/00001.tar")
    result = command(Dataset.open(dataset.url), "--signal", "exact")
    assert result.exit_code == 1
    assert "shards/00001.tar is missing (1 of the shards that manifest.json lists); put it back" in result.output
    assert Dataset.open(dataset.url).manifest["shards"] == ["00000", "00001", "00002"]


def test_a_benchmark_of_which_no_image_can_be_decoded_is_refused(dataset, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held/page.jpg").write_bytes(b"<html>")
    result = command(dataset, "--signal", "exact", "--against", str(tmp_path / "held"))
    assert result.exit_code == 1
    assert "benchmark held: of 1 image none can be decoded, first page.jpg" in result.output


def test_unreadable_images_of_a_benchmark_are_named_and_the_others_are_found(make_dataset, tmp_path):
    folder = tmp_path / "held"
    folder.mkdir()
    (folder / "cut.jpg").write_bytes(encoded(scene(1), "JPEG")[:1500])
    (folder / "page.png").write_bytes(b"<html>")
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    Image.new("L", (200, 200), 7).save(folder / "black.png")
    scene(2).save(folder / "good.png")
    rows = [{**pair(index), "image": encoded(scene(index))} for index in range(4)]
    dataset = make_dataset(rows)
    result = command(dataset, "--against", str(folder))
    assert result.exit_code == 0, result.output
    assert "3 unreadable: cut.jpg, gone.jpg, page.png" in result.output
    assert "left out: 1 blank" in result.output
    assert "1 of 5 images (20.0 %) found in the pool, 1 pair dropped" in result.output
    excluded = Dataset.open(dataset.url).folder.read_table("reports/excluded-held.parquet").to_pylist()
    assert [(row["benchmark_key"], row["reason"]) for row in excluded] == [
        ("black.png", "blank"), ("cut.jpg", "unreadable"), ("gone.jpg", "unreadable"), ("page.png", "unreadable")
    ]  # fmt: skip


@pytest.mark.slow
def test_vectors_of_two_lengths_are_refused_by_name(make_dataset):
    dataset = make_dataset([pair(index) for index in range(6)], per_shard=3)
    dataset = with_vectors(dataset, np.eye(6, 8)).save()
    dataset.folder.write_array("signals/embedding/00001.npy", np.eye(3, 16).astype(np.float16))
    with pytest.raises(CurateError, match=r"signals/embedding holds codes of \[8, 16\] columns; delete it and measure"):
        collected(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_shard_whose_vectors_hold_nan_is_named_and_the_others_are_compared(make_dataset, wrong):
    dataset = make_dataset([pair(index) for index in range(6)], per_shard=3)
    vectors = np.eye(6, 8)
    vectors[5] = vectors[4]
    dataset = with_vectors(dataset, vectors)
    broken = np.eye(3, 8).astype(np.float16)
    broken[1, 2] = wrong
    dataset.folder.write_array("signals/embedding/00000.npy", broken)
    pool = collected(dataset)
    assert list(pool.failures) == ["shards/00000"]
    assert (
        "signals/embedding/00000.npy holds NaN or infinity; delete signals/embedding" in pool.failures["shards/00000"]
    )
    assert len(pool) == 3


def collected(dataset: Dataset) -> Pool:
    return collect(dataset, [Comparison("embedding", "embedding", "cosine", 0.9)], None, engine=HERE)


def test_vectors_measured_again_are_read_again(make_dataset):
    rows = [pair(index) for index in range(6)]
    dataset = with_vectors(make_dataset(rows, per_shard=3), np.ones((6, 4), np.float32))
    whole = dataset.folder.read_bytes("signals/embedding/00001.npy")
    dataset.folder.write_array("signals/embedding/00001.npy", np.ones((3, 2), np.float16))
    with pytest.raises(CurateError, match=r"holds codes of \[2, 4\] columns; delete it and measure again"):
        collected(dataset)
    dataset.folder.write_bytes("signals/embedding/00001.npy", b"")
    reason = collected(dataset).failures["shards/00001"]
    assert "signals/embedding/00001.npy cannot be read: No data left in file" in reason
    dataset.folder.write_bytes("signals/embedding/00001.npy", whole)
    assert len(collected(dataset)) == 6


def test_where_no_shard_can_be_read_the_selection_before_stays(dataset):
    assert command(dataset, "--signal", "exact", "--name", "first").exit_code == 0
    for shard in dataset.shards:
        dataset.folder.write_bytes(f"signals/exact/{shard.name}.parquet", b"PAR1")
    result = command(dataset, "--signal", "exact", "--name", "second")
    assert result.exit_code == 1
    assert "signals/exact/00000.parquet cannot be read" in result.output
    assert "nothing was selected" in result.output
    assert Dataset.open(dataset.url).selection == "first"


def test_an_empty_dataset_is_compared_with_a_benchmark_without_a_word_of_error(tmp_path):
    folder = tmp_path / "held"
    folder.mkdir()
    scene(2).save(folder / "good.png")
    dataset = Dataset.create(str(tmp_path / "empty")).save()
    result = command(dataset, "--against", str(folder), "--signal", "exact", "--signal", "pdq")
    assert result.exit_code == 0, result.output
    assert "0 of 0 pairs kept" in result.output
    assert "0 of 1 image (0.0 %) found" in result.output


def test_a_column_of_another_imagehash_costs_its_shard_only_and_says_what_to_do(make_dataset):
    rows = [{**pair(index), "image": encoded(scene(index % 4))} for index in range(8)]
    dataset = measure(make_dataset(rows, per_shard=4), ["phash"], HERE)
    name = "signals/phash/00001.parquet"
    made_by = {**dataset.folder.made_by(name), "imagehash": "3.0"}
    dataset.folder.write_table(name, dataset.folder.read_table(name), made_by)
    result = command(dataset, "--signal", "phash")
    assert result.exit_code == 1
    assert "shards/00001" in result.output
    assert "measured with another imagehash; delete signals/phash or measure under another name" in result.output
    assert "4 of 4 pairs kept" in result.output


def test_two_faiss_packages_end_the_run_before_any_work(make_dataset, tmp_path, monkeypatch):
    for package in ("faiss_cpu", "faiss_gpu"):
        folder = tmp_path / f"{package}-1.15.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.15.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_search.cache_clear()  # as in a new process
    scene(2).save(tmp_path / "good.png")
    dataset = make_dataset([pair(0)])
    result = command(dataset, "--against", str(tmp_path))
    assert result.exit_code == 1
    assert "faiss-cpu and faiss-gpu are both installed" in result.output
    assert "pip uninstall -y faiss-cpu faiss-gpu && pip install faiss-gpu" in result.output
    assert not dataset.folder.exists("signals")


@pytest.fixture
def little_space():
    """Files of at most 4 KB for a while, which the system tells as it tells a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_temporary_space_is_told_with_the_way_out(little_space):
    with pytest.raises(CurateError, match=rf"cannot write {tempfile.gettempdir()}: .*; set TMPDIR to a larger place"):
        mapped(700, np.int64)
