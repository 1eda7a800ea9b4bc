"""Measuring: once, by one pass, refused under other options, damaged shards by name."""

from pathlib import Path

import numpy as np
import pytest
from conftest import draw, encoded, pair, write_shard

from curate.errors import CurateError
from curate.measure import measure
from curate.rows import Rows

HERE = "local(workers=0)"
CONTRAST = """
import numpy as np, pyarrow as pa
class Signal:
    reads = ("pixels",)
    def __init__(self, scale=1.0):
        self.scale = scale
    def measure(self, rows):
        values = [None if image is None else float(image.std() * self.scale) for image in rows["pixels"]]
        table = np.array([[value or 0.0, 1.0] for value in values], np.float32)
        return {"contrast": pa.array(values, pa.float32()), "contrast_vector": table}
"""


@pytest.fixture
def contrast(tmp_path) -> str:
    path = tmp_path / "contrast.py"
    path.write_text(CONTRAST)
    return str(path)


def test_a_signal_is_one_file_with_columns_and_an_embedding(dataset, contrast):
    measured = measure(dataset, [contrast, "size"], HERE)
    table = measured.joined(measured.shards[2])
    assert set(measured.signals) == {"contrast", "size"}
    assert min(table["contrast"].to_pylist()) > 0
    assert set(table["size_width"].to_pylist()) == {64}
    vectors = measured.folder.read_array("signals/contrast/00002.npy")
    assert vectors.shape == (20, 2)
    assert vectors[:, 0] == pytest.approx(table["contrast"].to_numpy(), rel=1e-3)


def test_images_decoded_ahead_by_threads_give_the_same_table(dataset, contrast):
    ahead = contrast.replace("contrast.py", "ahead.py")
    Path(ahead).write_text(CONTRAST.replace("def __init__", "decode_threads = 3\n    def __init__"))
    measured = measure(dataset, [contrast], HERE)
    measured = measure(measured, [f"{ahead}(as=ahead)"], HERE)
    for shard in measured.shards:
        table = measured.joined(shard)
        assert table["ahead_contrast"].to_pylist() == table["contrast"].to_pylist()


def test_what_is_measured_is_not_measured_again(dataset):
    measure(dataset, ["size"], HERE)
    again = measure(dataset, ["size"], HERE)
    assert again.history[-1]["counts"]["skipped"] == 3


def test_other_options_are_refused_under_the_same_name_and_welcome_under_another(dataset, contrast):
    measured = measure(dataset, [contrast], HERE)
    with pytest.raises(CurateError, match=r"give the new one a name of its own: .*as=contrast2"):
        measure(measured, [f"{contrast}(scale=2)"], HERE)
    both = measure(measured, [f"{contrast}(scale=2, as=twice)"], HERE)
    table = both.joined(both.shards[0])
    assert table["twice"].to_numpy() == pytest.approx(2 * table["contrast"].to_numpy())
    assert (dataset.folder.exists("signals/twice/00000.npy"), "twice_vector" in table.column_names) == (True, False)


def test_what_failed_everywhere_keeps_no_name(dataset, contrast):
    wrong = contrast.replace("contrast.py", "wrong.py")
    raising = "if self.scale < 0: raise BadShard('below 0')"
    Path(wrong).write_text(
        CONTRAST.replace("values = [", f"{raising}\n        values = [").replace(
            "class Signal", "from curate.errors import BadShard\nclass Signal"
        )
    )
    failed = measure(dataset, [f"{wrong}(scale=-1)", "size"], HERE)
    assert (len(failed.failures), set(failed.signals)) == (3, set())
    mended = measure(failed, [f"{wrong}(scale=1)", "size"], HERE)
    assert set(mended.signals) == {"wrong", "size"}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["caption(as=one)", "size(as=one)"], r"caption and size are both called 'one'; .* size\(as=one2\)"),
        (["blur(as=uid)"], "as=uid makes a column 'uid', which the shards have"),
        (["size(as=../one)"], "as=../one in .*: a name has letters"),
        (["size(as=one, as=two)"], "says twice what as is"),
    ],
)
def test_a_name_that_would_hide_another_is_refused(dataset, specs, message):
    with pytest.raises(CurateError, match=message):
        measure(dataset, specs, HERE)
    assert not dataset.folder.names("signals/**")


def test_a_truncated_tar_fails_its_shard_by_name_and_the_others_go_on(dataset):
    whole = dataset.folder.read_bytes("shards/00001.tar")
    dataset.folder.write_bytes("shards/00001.tar", whole[: len(whole) // 2])
    measured = measure(dataset, ["size"], HERE)
    assert list(measured.failures) == ["shards/00001"]
    assert "00001.tar: truncated at byte" in measured.failures["shards/00001"]
    assert dataset.folder.names("signals/size/*") == ["signals/size/00000.parquet", "signals/size/00002.parquet"]


def test_an_image_that_cannot_be_decoded_is_null_and_counted(make_dataset, contrast):
    pairs = [pair(index) for index in range(4)]
    pairs[2]["image"] = pairs[2]["image"][:200]
    measured = measure(make_dataset(pairs), [contrast], HERE)
    assert measured.history[-1]["counts"]["undecodable"] == 1
    assert "1 image could not be decoded" in measured.history[-1]["summary"]
    assert measured.joined(measured.shards[0])["contrast"].null_count == 1


def test_a_signal_measured_on_another_tar_is_refused(dataset):
    measure(dataset, ["size"], HERE)
    write_shard(dataset.folder, "00000", [pair(index) for index in range(100, 110)])
    measured = measure(dataset, ["size"], HERE)
    assert "was measured on another 00000.tar; delete this file" in measured.failures["shards/00000"]


def test_a_signal_measured_on_a_tar_of_the_same_size_is_refused(dataset):
    measure(dataset, ["caption"], HERE)
    size = dataset.folder.size("shards/00000.tar")
    write_shard(
        dataset.folder, "00000", [pair(index) | {"caption": pair(index)["caption"][::-1]} for index in range(20)]
    )
    assert dataset.folder.size("shards/00000.tar") == size
    measured = measure(dataset, ["caption"], HERE)
    assert list(measured.failures) == ["shards/00000"]
    assert "was measured on another 00000.tar; delete this file" in measured.failures["shards/00000"]


def test_other_images_in_a_tar_of_the_same_size_are_noticed(make_dataset, tmp_path):
    """The parquet beside it is as it was: only the tar tells. The small tar is read whole, the large one in part."""
    rng = np.random.default_rng(0)
    for name, size in (("small", 900), ("large", 300_000)):
        pairs = [pair(index) | {"image": rng.bytes(size)} for index in range(4)]
        dataset = make_dataset(pairs, url=str(tmp_path / name))
        measure(dataset, ["caption"], HERE)
        assert measure(dataset, ["caption"], HERE).history[-1]["counts"]["skipped"] == 1
        before = dataset.folder.size("shards/00000.tar")
        write_shard(dataset.folder, "00000", [row | {"image": rng.bytes(size)} for row in pairs])
        assert dataset.folder.size("shards/00000.tar") == before
        refused = measure(dataset, ["caption"], HERE).failures["shards/00000"]
        assert "was measured on another 00000.tar; delete this file and measure again" in refused


def test_a_signal_that_was_measured_before_tars_were_sampled_stays_valid(dataset):
    measure(dataset, ["caption"], HERE)
    for name in dataset.folder.names("signals/caption/*.parquet"):
        made_by = dataset.folder.made_by(name)
        assert made_by.pop("tar_sample")
        table = dataset.folder.read_table(name)
        dataset.folder.write_table(name, table, made_by)
    again = measure(dataset, ["caption"], HERE)
    assert (again.failures, again.history[-1]["counts"]["skipped"]) == ({}, 3)


def test_what_a_signal_says_of_its_making_decides_whether_it_is_measured_again(dataset, contrast):
    made = CONTRAST.replace("self.scale = scale", "self.scale, self.made_by = scale, {'version': 1}")
    Path(contrast).write_text(made)
    measure(dataset, [contrast], HERE)
    assert measure(dataset, [contrast], HERE).history[-1]["counts"]["skipped"] == 3
    Path(contrast).write_text(made.replace("'version': 1", "'version': 2"))
    measured = measure(dataset, [contrast], HERE)
    assert all("was measured with another version; delete signals/contrast" in x for x in measured.failures.values())
    Path(contrast).write_text(made.replace("'version': 1", ""))
    assert len(measure(dataset, [contrast], HERE).failures) == 3


def test_a_signal_without_a_single_value_is_named(make_dataset):
    pairs = [pair(index) | {"image": b"<html>"} for index in range(4)]
    measured = measure(make_dataset(pairs), ["blur", "caption"], HERE)
    assert measured.history[-1]["summary"].endswith("4 images could not be decoded; blur has no value for any of them")


def test_rows_decode_only_when_asked():
    rows = Rows(None, [encoded(draw("red", "circle")), b"no image"])
    assert "pixels" not in rows.__dict__
    assert [None if image is None else image.shape for image in rows["pixels"]] == [(64, 64, 3), None]


def test_a_damaged_file_of_a_signal_is_named_and_the_others_are_measured(dataset):
    measured = measure(dataset, ["size"], HERE)
    measured.folder.write_bytes("signals/size/00001.parquet", b"PAR1")
    again = measure(measured, ["size"], HERE)
    assert list(again.failures) == ["shards/00001"]
    assert "signals/size/00001.parquet cannot be read" in again.failures["shards/00001"]
