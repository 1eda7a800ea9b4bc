"""What the trainer reads: every pair once an epoch, the same for any number of threads, from any folder of tars."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import pair, write_shard
from torchvision.transforms import RandomResizedCrop

from curate import shard as shards
from curate.errors import CurateError
from curate.files import Folder
from curate.tokenizer import Tokenizer
from curate.train import index
from curate.train.crops import CROPS
from curate.train.loader import Loader
from curate.train.order import Order, uniform

TOKENIZER = Tokenizer(16)


def indexed(*data, selection=None, cache="memory://cache"):
    return index.build(index.sources(data, selection), Folder(cache))


def loader(pairs, batch_size=16, seed=0, workers=2):
    return Loader(pairs, TOKENIZER, 32, batch_size, seed, workers)


def plain_tar(folder, name, pairs, *members):
    """A webdataset tar as others write it: no manifest, no parquet, captions in .txt or .json members."""
    files = []
    for row in pairs:
        parts = {"txt": row["caption"].encode(), "json": json.dumps({"caption": row["caption"], "url": None}).encode(),
                 "text.json": json.dumps({"text": row["caption"]}).encode()}  # fmt: skip
        files.append((f"{row['key']}.jpg", row["image"]))
        files += [(f"{row['key']}.{member.removeprefix('text.')}", parts[member]) for member in members]
    Folder(str(folder)).write_bytes(f"{name}.tar", shards.tar_bytes(files))


def test_each_epoch_holds_every_sample_once_in_its_own_order():
    order = Order(1000, seed=3)
    first, second = order.samples(np.arange(1000)), order.samples(np.arange(1000, 2000))
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert (first != Order(1000, seed=4).samples(np.arange(1000))).mean() > 0.9


def test_the_order_is_a_pure_function_of_seed_and_place():
    places = np.random.default_rng(0).integers(0, 500, 300)
    whole = Order(70, seed=1).samples(np.arange(500))
    assert (Order(70, seed=1).samples(places) == whole[places]).all()
    assert whole[:8].tolist() == [63, 31, 36, 61, 62, 47, 22, 50]  # on every machine and numpy


def test_random_numbers_are_uniform_and_do_not_repeat_between_purposes():
    draws = np.stack([uniform(7, purpose, np.arange(20_000)) for purpose in (1, 3, 5)])
    assert (np.abs(draws.mean(axis=1) - 0.5) < 0.01).all()
    assert (np.abs(np.corrcoef(draws)[np.triu_indices(3, 1)]) < 0.03).all()


@pytest.mark.parametrize("workers", [1, 5])
def test_batches_do_not_depend_on_the_number_of_threads(dataset, workers):
    pairs = indexed(dataset.url)
    expected = list(loader(pairs, workers=2).batches(0, 6))
    for ours, theirs in zip(loader(pairs, workers=workers).batches(0, 6), expected, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.tokens, theirs.tokens)
        assert (ours.rows == theirs.rows).all()


def test_starting_in_the_middle_gives_the_same_batches(dataset):
    pairs = indexed(dataset.url)
    whole = list(loader(pairs).batches(0, 7))
    for ours, theirs in zip(loader(pairs).batches(4, 7), whole[4:], strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)


def test_every_pair_comes_once_an_epoch(dataset):
    pairs = indexed(dataset.url)
    batches = list(loader(pairs, batch_size=7).batches(0, 18))  # 126 places: two epochs of 60, and 6 more
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows[:60]) == sorted(rows[60:120]) == list(range(60))


def test_pixels_and_tokens_belong_to_the_same_pair(make_dataset):
    pairs = indexed(make_dataset([pair(i) for i in range(36)]).url)
    for batch in loader(pairs, batch_size=36).batches(0, 1):
        captions = pairs.table["caption"].take(pa.array(batch.rows)).to_pylist()
        assert torch.equal(batch.tokens, TOKENIZER(captions))
        for pixels, caption in zip(batch.pixels.float(), captions, strict=True):
            red, green, blue = pixels.amin(dim=(1, 2)) if "black" in caption else pixels.mean(dim=(1, 2))
            if "blue" in caption:
                assert blue > red
                assert blue > green
            elif "red" in caption:
                assert red > green
                assert red > blue
            elif "black" in caption:
                assert max(red, green, blue) < 40


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (200, 33), (1, 50), (32, 32)])
@pytest.mark.parametrize("name", CROPS)
def test_crops_lie_inside_the_image(name, size):
    ramp = np.arange(size[0] * size[1], dtype=np.uint32).reshape(size)
    image = np.stack([ramp % 251, ramp % 241, ramp % 239], axis=2).astype(np.uint8)
    crop = CROPS[name]
    for draws in (np.zeros(crop.draws), np.full(crop.draws, 0.999999), uniform(3, 1, np.arange(crop.draws))):
        assert crop.cut(image, 32, draws).shape == (3, 32, 32)


def test_random_resized_crops_are_torchvisions(monkeypatch):
    """The same share of the area and the same ratios, over 400 draws each, as RandomResizedCrop gives."""
    seen = []
    monkeypatch.setattr("curate.train.crops.resized", lambda image, top, left, h, w, size: seen.append((h, w)))
    image = np.zeros((300, 400, 3), np.uint8)
    for number in range(400):
        CROPS["random-resized"].cut(image, 32, uniform(5, number, np.arange(CROPS["random-resized"].draws)))
    torch.manual_seed(0)
    picture = torch.zeros(3, 300, 400)
    theirs = [RandomResizedCrop.get_params(picture, (0.9, 1.0), (3 / 4, 4 / 3))[2:] for _ in range(400)]
    for measured in (lambda h, w: h * w / 120_000, lambda h, w: w / h):
        ours, expected = (np.array([measured(*size) for size in sizes]) for sizes in (seen, theirs))
        assert abs(ours.mean() - expected.mean()) < 0.005
        assert abs(ours.std() - expected.std()) < 0.005
        assert abs(ours.min() - expected.min()) < 0.01


def test_the_center_crop_is_the_middle_square():
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, 32:64] = 200
    assert (CROPS["center"].cut(image, 32, np.zeros(0)) == 200).all()


def test_two_views_of_an_image_are_two_crops_that_follow_from_the_place(dataset):
    pairs = indexed(dataset.url)
    (both,) = Loader(pairs, TOKENIZER, 32, 16, 0, 2, views=2).batches(0, 1)
    (one,) = loader(pairs).batches(0, 1)
    assert both.pixels.shape == (16, 2, 3, 32, 32)
    assert torch.equal(both.pixels[:, 0], one.pixels)
    assert not torch.equal(both.pixels[:, 1], one.pixels)


def test_undecodable_images_are_replaced_and_counted(make_dataset):
    pairs = [pair(i) for i in range(40)]
    for row in pairs[:4]:
        row["image"] = row["image"][:200]
    found = indexed(make_dataset(pairs).url)
    batches = list(loader(found, batch_size=20).batches(0, 2))
    broken = {row for batch in batches for row in batch.undecodable}
    assert set(found.uids(sorted(broken))) == {shards.uid_of(row["url"], row["caption"]) for row in pairs[:4]}
    assert not broken & set(np.concatenate([batch.rows for batch in batches]).tolist())
    for ours, theirs in zip(loader(found, batch_size=20, workers=4).batches(0, 2), batches, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)


def test_data_without_any_image_is_an_error(make_dataset):
    found = indexed(make_dataset([pair(i) | {"image": b"no image"} for i in range(20)]).url)
    with pytest.raises(CurateError, match="100 images one after the other could not be decoded"):
        list(loader(found).batches(0, 1))


def test_a_selection_drops_and_repeats_pairs(dataset):
    for shard in dataset.shards:
        uids = shard.rows()["uid"]
        weights = [0, 2] + [1] * (len(uids) - 2)
        table = pa.table({"uid": uids, "weight": pa.array(weights, pa.int32())})
        dataset.folder.write_table(f"selections/mine/{shard.name}.parquet", table)
    dataset.after("filter", {}, "", **dataset.with_selection("mine", "filter", None)).save()
    found = indexed(dataset.url)
    assert len(found) == 60
    assert sorted(np.bincount(found.rows)) == [1] * 54 + [2] * 3
    assert len(indexed(dataset.url, selection="mine")) == 60
    with pytest.raises(CurateError, match="has no selection 'other'; it has: mine"):
        indexed(dataset.url, selection="other")


@pytest.mark.parametrize("members", [("txt",), ("json",), ("txt", "json"), ("text.json",)])
def test_any_webdataset_folder_can_be_trained_on(tmp_path, members):
    for name in ("00000", "00001"):
        plain_tar(tmp_path / "wild", name, [pair(i) for i in range(20)], *members)
    for data in (["wild"], ["wild/*.tar"], ["wild/{00000..00001}.tar"], ["wild/00000.tar", "wild/00001.tar"]):
        found = indexed(*(str(tmp_path / part) for part in data))
        assert sorted(found.table["caption"].to_pylist()) == sorted([pair(i)["caption"] for i in range(20)] * 2)
        assert sum(len(batch.rows) for batch in loader(found).batches(0, 2)) == 32


def test_a_plain_img2dataset_folder_is_read_by_its_parquet(tmp_path):
    write_shard(Folder(str(tmp_path / "made")), "00000", [pair(i) for i in range(20)])
    (tmp_path / "made/shards").rename(tmp_path / "theirs")
    found = indexed(str(tmp_path / "theirs"))
    assert set(found.table["uid"].to_pylist()) == {shards.uid_of(pair(i)["url"], pair(i)["caption"]) for i in range(20)}


def test_remote_shards_are_copied_once_and_give_the_same_index(make_dataset, tmp_path):
    local = indexed(make_dataset([pair(i) for i in range(40)]).url)
    remote = make_dataset([pair(i) for i in range(40)], url="memory://train-data")
    for _ in range(2):
        found = indexed(remote.url, cache=str(tmp_path / "cache"))
        assert found.table.drop(["tar"]).equals(local.table.drop(["tar"]))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert found.fingerprint == local.fingerprint


def test_a_damaged_shard_is_named_and_the_others_go_on(dataset):
    name = "shards/00001.tar"
    dataset.folder.write_bytes(name, dataset.folder.read_bytes(name)[:5000])
    found = indexed(dataset.url)
    assert len(found) == 40
    assert list(found.failures) == [f"{dataset.url}/shards/00001"]
    assert "truncated" in found.failures[f"{dataset.url}/shards/00001"]


def test_the_fingerprint_tells_other_data(make_dataset, tmp_path):
    makes = [make_dataset([pair(i) for i in range(n)], url=str(tmp_path / name)) for n, name in
             ((20, "a"), (20, "b"), (21, "c"))]  # fmt: skip
    a, b, c = (indexed(made.url).fingerprint for made in makes)
    assert a == b != c


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is neither a dataset nor a folder, glob or file of .tar shards"),
        (lambda folder: plain_tar(folder, "0", [pair(0)]), "no pair of .* has a caption"),
        (lambda folder: plain_tar(folder, "0", [], "txt"), "nothing to train on in"),
        (lambda folder: Folder(str(folder)).write_bytes("0.tar", b"x" * 3000), "nothing to train on .* no tar header"),
    ],
)
def test_a_place_without_pairs_is_one_line(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(CurateError, match=message):
        indexed(str(tmp_path / "data"))


def test_a_selection_of_plain_tars_is_refused(tmp_path):
    plain_tar(tmp_path, "0", [pair(0)], "txt")
    with pytest.raises(CurateError, match="is no curate dataset"):
        indexed(str(tmp_path), selection="mine")
