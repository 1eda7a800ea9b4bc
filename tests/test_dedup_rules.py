"""What dedup does beside its default: closure, SemDeDup, colours, moving pictures, whitening, calibration."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from conftest import encoded, pair
from PIL import Image

from curate import shard as shards
from curate.cli import main
from curate.dataset import Dataset
from curate.dedup import calibrate, whitened
from curate.dedup import run as dedup
from curate.dedup.calibrate import Rates, _extrapolated
from curate.dedup.groups import CHAINED, Alike, closure, semantic
from curate.dedup.whiten import read
from curate.dedup.whiten_fit import fit
from curate.errors import CurateError
from curate.files import Folder
from curate.measure import measure

HERE = "local(workers=1)"


def scene(seed: int, side: int = 96) -> Image.Image:
    """A picture with as much in it as a photograph: noise of three sizes."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((side, side)) for n in (3, 8, 16)]
    mixed = sum(np.asarray(layer, np.float32) * share for layer, share in zip(layers, (0.4, 0.3, 0.3), strict=True))
    return Image.fromarray(np.clip(2 * mixed - 128, 0, 255).astype(np.uint8))


def worse(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return buffer.getvalue()


def shown(index: int, image: Image.Image | bytes, side: int = 96) -> dict:
    image = image if isinstance(image, bytes) else encoded(image)
    return {**pair(index), "image": image, "width": side, "height": side}


def uid(row: dict) -> str:
    return shards.uid_of(row["url"], row["caption"])


def dropped(dataset: Dataset) -> dict[str, dict]:
    tables = [dataset.folder.read_table(f"selections/{dataset.selection}/{s.name}.parquet") for s in dataset.shards]
    return {row["uid"]: row for row in pa.concat_tables(tables).to_pylist() if not row["weight"]}


def alike(pairs: list[tuple[int, int, float]], rows: int) -> Alike:
    a, b, distance = (np.array(column) for column in zip(*pairs, strict=True))
    return Alike("phash", np.arange(rows), a, b, distance.astype(float))


def test_a_copy_of_a_picture_with_detail_is_found_by_default(make_dataset):
    pairs = [shown(index, scene(index)) for index in range(8)]
    copy = shown(20, worse(scene(3)), side=64)
    found = dropped(dedup(make_dataset([*pairs, copy]), engine=HERE))
    assert found.keys() == {uid(copy)}
    assert found[uid(copy)]["keeper"] == uid(pairs[3])
    assert found[uid(copy)]["signal"] == "pdq"
    assert 0 < found[uid(copy)]["distance"] <= 31


def test_closure_drops_the_far_end_of_a_chain_and_says_so():
    chain = alike([(0, 1, 4), (1, 2, 4)], 4)
    star = closure(np.array([0, 1, 2, 3]), [chain])
    assert star.keeper.tolist() == [-1, 0, 0, -1]
    assert star.matched_by.tolist() == [-1, 0, CHAINED, -1]
    assert star.distance[1] == 4
    assert np.isnan(star.distance[2])


def test_closure_is_an_option_of_the_command(make_dataset):
    chain = [scene(0), Image.blend(scene(0), scene(1), 0.12), Image.blend(scene(0), scene(1), 0.24)]
    dataset = make_dataset([shown(index, image, 96 + index) for index, image in enumerate(chain)])
    gaps = {row["distance"] for row in dropped(dedup(dataset, ["pdq"], {"pdq": 250}, engine=HERE)).values()}
    between = {"pdq": max(gaps) - 1}  # the ends do not match
    stars = dedup(dataset, ["pdq"], between, engine=HERE)
    chained = dedup(dataset, ["pdq"], between, closure=True, engine=HERE)
    assert len(dropped(stars)) == 1
    assert sorted(row["reason"] for row in dropped(chained).values()) == ["closure", "pdq"]
    assert chained.history[-1]["counts"]["duplicates"] == {"pdq": 1, "closure": 1}


def test_semdedup_drops_what_any_harder_row_resembles_and_names_the_row_it_hangs_on():
    likeness = alike([(0, 1, 0.01), (1, 2, 0.02)], 4)
    star = semantic(np.array([3, 2, 1, 0]), likeness, np.array([0.1, 0.2, 0.3, 0.4]))
    assert star.keeper.tolist() == [-1, 0, 0, -1]  # 2 goes for 1, which went itself for 0
    assert star.distance[1:3].tolist() == [0.01, 0.02]


@pytest.mark.slow
def test_semdedup_is_labelled(make_dataset):
    pairs = [shown(index, scene(index)) for index in range(6)]
    copies = [shown(10 + index, encoded(scene(index), "PNG")) for index in range(3)]
    found = dropped(dedup(make_dataset([*pairs, *copies]), ["embedding"], semdedup=0.1, engine=HERE))
    assert len(found) == 3
    assert {row["reason"] for row in found.values()} == {"semdedup"}
    assert all(row["signal"] == "embedding" and row["distance"] <= 0.1 for row in found.values())


def test_semdedup_needs_vectors(dataset):
    with pytest.raises(CurateError, match="--semdedup compares embeddings: add --signal embedding"):
        dedup(dataset, ["exact"], semdedup=0.1, engine=HERE)


@pytest.mark.parametrize(
    "options", [["--semdedup", "1.5"], ["--recall", "0"], ["--calibrate", "--calibrate-rate", "0"]]
)
def test_options_that_make_no_sense_are_one_clear_line(dataset, options):
    result = CliRunner().invoke(main, ["dedup", dataset.url, *options])
    assert result.exit_code == 1
    assert options[-2] in result.output
    assert "Traceback" not in result.output


def test_a_recoloured_picture_is_another_one_where_that_is_asked_for(make_dataset):
    grey = Image.merge("RGB", (scene(1).convert("L"),) * 3)
    pairs = [shown(0, scene(1), 97), shown(1, grey), shown(2, worse(scene(1)))]
    dataset = make_dataset(pairs)
    assert dropped(dedup(dataset, engine=HERE)).keys() == {uid(pairs[1]), uid(pairs[2])}
    assert dropped(dedup(dataset, distinct_colours=True, engine=HERE)).keys() == {uid(pairs[2])}


def test_a_moving_picture_is_not_its_first_frame(make_dataset):
    frames = [scene(index).quantize() for index in range(3)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    still = encoded(Image.open(io.BytesIO(moving)).convert("RGB"), "PNG")
    pairs = [shown(0, moving, 98), shown(1, still, 97), shown(2, encoded(scene(0)))]
    dataset = make_dataset(pairs)
    assert dropped(dedup(dataset, engine=HERE)).keys() == {uid(pairs[1]), uid(pairs[2])}
    told = measure(dataset, ["flags"], HERE)
    again = dropped(dedup(told, name="told", engine=HERE))
    assert again.keys() == {uid(pairs[2])}
    assert again[uid(pairs[2])]["keeper"] == uid(pairs[1])


def test_whitening_leaves_no_common_direction_and_keeps_copies_alike():
    rng = np.random.default_rng(0)
    common = 5 * rng.normal(size=64)
    vectors = common + rng.normal(size=(2000, 64)) * np.linspace(3, 0.1, 64)
    vectors[1] = vectors[0] + 0.02 * rng.normal(size=64)
    vectors[2] = 0
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    found = fit(vectors[3:]).apply(vectors)
    alike = found @ found.T
    assert abs(alike[3:, 3:].mean()) < 0.01 < 0.5 < (vectors[3:] @ vectors[3:].T).mean()
    assert alike[0, 1] > 0.9
    assert not found[2].any()


def test_a_whitening_has_at_most_a_dimension_for_ten_images():
    vectors = np.random.default_rng(0).normal(size=(300, 64))
    assert fit(vectors).matrix.shape == (64, 30)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_whitening_read_back_is_the_same_for_any_number_of_threads(tmp_path, threads):
    vectors = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    fit(vectors).write(Folder(str(tmp_path)), "w.npy")
    assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert np.array_equal(read(Folder(str(tmp_path)), "w.npy").matrix, fit(vectors).matrix)


@pytest.mark.slow
def test_large_pools_are_whitened_small_ones_are_not(make_dataset, monkeypatch):
    pairs = [shown(index, scene(index)) for index in range(30)]
    dataset = make_dataset([*pairs, shown(40, worse(scene(3)))])
    small = dedup(dataset, ["embedding"], engine=HERE)
    assert small.history[-1]["options"]["whitened"] == []
    assert small.history[-1]["options"]["thresholds"] == {"embedding": 0.95}
    monkeypatch.setattr(whitened, "LEAST", 20)
    large = dedup(dataset, ["embedding"], engine=HERE)
    assert large.history[-1]["options"]["whitened"] == ["embedding"]
    assert large.history[-1]["options"]["thresholds"] == {"embedding": whitened.THRESHOLD}
    assert dropped(large).keys() & {uid(pairs[3]), uid({**pair(40)})}
    assert large.folder.names("reports/whitening-embedding-*.npy")
    assert dedup(dataset, ["embedding"], whiten=False, engine=HERE).selection == small.selection


def test_calibration_counts_false_pairs_only_and_names_the_threshold(make_dataset):
    pairs = [shown(index, scene(index)) for index in range(40)]
    copies = [shown(50 + index, worse(scene(index))) for index in range(5)]
    dataset = calibrate(make_dataset([*pairs, *copies]), wished=0.5, engine=HERE)
    assert dataset.selection is None
    found = json.loads(dataset.folder.read_bytes("reports/calibration.json"))
    assert found["pdq"]["pairs"] == 45 * 44 // 2 - 5  # the copies are known by their phash
    table = {line["threshold"]: line for line in found["pdq"]["table"]}
    assert table[31]["pairs"] == 0
    assert table[31]["extrapolated"]
    assert 31 < found["pdq"]["threshold"] < 128
    partners = [line["partners"] for line in found["pdq"]["table"]]
    assert partners == sorted(partners)
    assert table[found["pdq"]["threshold"]]["partners"] <= 0.5 < table[found["pdq"]["threshold"] + 1]["partners"]
    assert "pdq: at most" in dataset.history[-1]["summary"]


def test_rates_below_what_was_seen_follow_the_slope_above():
    cumulative = np.array([0, 0, 0, 0, 100, 1000, 10_000])
    seen, rate = _extrapolated(cumulative, 10**6)
    assert seen.tolist() == [False] * 4 + [True] * 3
    assert rate == pytest.approx([1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])


def test_no_threshold_is_promised_where_none_is_strict_enough():
    rates = Rates(
        "pdq", "hamming", 10, 45, 10**9, np.arange(2.0), np.array([20, 30]), np.array([0.4, 0.5]), np.ones(2, bool)
    )
    assert rates.threshold(0.01) is None
    assert rates.as_json(0.01)["threshold"] is None
