"""What the trainer reads: every pair once an epoch, the same for any number of threads, from any folder of tars."""

import json
import multiprocessing
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import pair, write_shard
from torchvision.transforms import RandomResizedCrop

from curate import shard as shards
from curate.clip.tokenizer import Tokenizer
from curate.errors import CurateError
from curate.files import Folder
from curate.train import index, reader, sources
from curate.train.crops import CROPS
from curate.train.loader import Loader
from curate.train.order import Mixture, Stream, uniform
from curate.train.ranks import Ranks

TOKENIZER = Tokenizer(16)
ORDER = [63, 31, 36, 61, 62, 47, 22, 50]


@pytest.fixture
def indexed(tmp_path):
    """indexed(*data, selection=None, weights=(), cache=None) -> Index."""

    def build(*data, selection=None, weights=(), cache=None):
        return index.build(sources.of(data, selection, weights), Folder(cache or str(tmp_path / "cache")))

    return build


def loader(pairs, batch_size=16, seed=0, workers=2, **options):
    return Loader(pairs, TOKENIZER, 32, batch_size, seed, workers, **options)


def batches(loader, start, stop):
    """Copies of the batches: the loader uses its buffers again."""
    return [replace(batch, pixels=batch.pixels.clone(), tokens=batch.tokens.clone())
            for batch in loader.batches(start, stop)]  # fmt: skip


def samples(stream, places):
    """Numbers of samples: shard and sample as one."""
    shards, within = stream.samples(np.asarray(places))
    return shards * 1000 + within


def plain_tar(folder, name, pairs, *members):
    """A webdataset tar as others write it: no manifest, no parquet, captions in .txt or .json members."""
    files = []
    for row in pairs:
        parts = {"txt": row["caption"].encode(), "json": json.dumps({"caption": row["caption"], "url": None}).encode(),
                 "text.json": json.dumps({"text": row["caption"]}).encode()}  # fmt: skip
        files.append((f"{row['key']}.jpg", row["image"]))
        files += [(f"{row['key']}.{member.removeprefix('text.')}", parts[member]) for member in members]
    Folder(str(folder)).write_bytes(f"{name}.tar", shards.tar_bytes(files))


@pytest.mark.parametrize("window", [1, 100, 250, 10_000])
def test_each_epoch_holds_every_sample_once_in_its_own_order(window):
    counts = [100, 0, 300, 100, 500]
    every = [shard * 1000 + sample for shard, count in enumerate(counts) for sample in range(count)]
    stream = Stream(counts, 3, window)
    first, second = samples(stream, np.arange(1000)), samples(stream, np.arange(1000, 2000))
    assert sorted(first) == sorted(second) == every
    assert (first != second).mean() > 0.9
    assert (first != samples(Stream(counts, 4, window), np.arange(1000))).mean() > 0.9


def test_the_order_is_a_pure_function_of_seed_and_place():
    places = np.random.default_rng(0).integers(0, 500, 300)
    whole = samples(Stream([30, 40], 1, 32), np.arange(500))
    assert (samples(Stream([30, 40], 1, 32), places) == whole[places]).all()
    assert samples(Stream([70], 1), np.arange(8)).tolist() == ORDER  # on every machine and numpy


def test_a_window_holds_whole_shards_and_nothing_else_is_read_meanwhile():
    stream = Stream([10] * 100, 0, 200)
    shards, _ = stream.samples(np.arange(1000))
    for window in range(5):
        assert stream.span(0, window) == (200 * window, 200 * (window + 1))
        assert set(shards[200 * window : 200 * (window + 1)]) == set(stream.shards(0, window))
    assert len({shard for window in range(5) for shard in stream.shards(0, window).tolist()}) == 100
    assert (np.bincount(shards[:200] // 1, minlength=100) <= 10).all()


def test_a_mixture_gives_each_stream_its_share_in_every_block():
    """2,000 samples once, 4,000 samples a fifth of a time and 100 twice an epoch, as Flamingo's weights."""
    streams = [Stream([1000, 1000], 0), Stream([4000], 0), Stream([100], 0)]
    mixture = Mixture(streams, [1.0, 0.2, 2.0], 0)
    assert mixture.size == 2000 + 800 + 200
    shards, within = mixture.samples(np.arange(4 * 3000))
    first, second, third = shards < 2, shards == 2, shards == 3
    assert (first.sum(), second.sum(), third.sum()) == (8000, 3200, 800)
    assert len(set(within[second])) == 3200
    assert (np.bincount(within[third]) == 8).all()
    for epoch in range(4):
        here = slice(3000 * epoch, 3000 * (epoch + 1))
        assert first[here].sum() == 2000
        assert 0.6 < first[here][:500].mean() < 0.73
    places = np.random.default_rng(0).integers(0, 12_000, 200)
    assert (mixture.samples(places)[1] == within[places]).all()


def test_random_numbers_are_uniform_and_do_not_repeat_between_purposes():
    draws = np.stack([uniform(7, purpose, np.arange(20_000)) for purpose in (1, 3, 5)])
    assert (np.abs(draws.mean(axis=1) - 0.5) < 0.01).all()
    assert (np.abs(np.corrcoef(draws)[np.triu_indices(3, 1)]) < 0.03).all()


@pytest.mark.parametrize("workers", [1, 5])
def test_batches_do_not_depend_on_threads(dataset, indexed, workers):
    """More workers than shards and than samples of a batch: nothing is dropped, nothing is waited for."""
    pairs = indexed(dataset.url)
    expected = batches(loader(pairs, workers=2), 0, 6)
    ours = batches(loader(pairs, workers=workers), 0, 6)
    assert all(same(one, other) for one, other in zip(ours, expected, strict=True))


def same(one, other):
    return (torch.equal(one.pixels, other.pixels) and torch.equal(one.tokens, other.tokens)
            and (one.rows == other.rows).all())  # fmt: skip


def test_starting_in_the_middle_gives_the_same_batches(dataset, indexed):
    pairs = indexed(dataset.url)
    whole = batches(loader(pairs), 0, 7)
    assert all(same(one, other) for one, other in zip(batches(loader(pairs), 4, 7), whole[4:], strict=True))


def test_ranks_share_each_batch_in_contiguous_slices(dataset, indexed):
    """Four processes, more than there are shards."""
    pairs = indexed(dataset.url)
    (whole,) = batches(loader(pairs), 1, 2)
    parts = [batches(loader(pairs, ranks=Ranks(rank, 4)), 1, 2)[0] for rank in range(4)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert (np.concatenate([part.rows for part in parts]) == whole.rows).all()


def test_threads_are_shared_by_the_processes_of_one_machine(dataset, indexed, monkeypatch):
    """Eight processes on two machines of 16 cores."""
    pairs = indexed(dataset.url)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader(pairs, workers=None, ranks=Ranks(0, 8)).workers == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader(pairs, workers=None, ranks=Ranks(0, 8)).workers == 4
    assert loader(pairs, workers=None).workers == 16


def test_every_pair_comes_once_an_epoch(dataset, indexed):
    pairs = indexed(dataset.url)
    found = batches(loader(pairs, batch_size=7), 0, 18)  # 126 places: two epochs of 60, and 6 more
    uids = pairs.uids(np.concatenate([batch.rows for batch in found]))
    assert len(set(uids[:60])) == len(set(uids[60:120])) == 60


def test_buffers_are_used_again(dataset, indexed):
    places = {batch.pixels.data_ptr() for batch in loader(indexed(dataset.url)).batches(0, 12)}
    assert len(places) == 4


def test_weights_of_datasets_are_passes_an_epoch(make_dataset, indexed, tmp_path):
    for name, first in (("a", 0), ("b", 100)):
        make_dataset([pair(first + i) for i in range(40)], url=str(tmp_path / name))
    pairs = indexed(str(tmp_path / "b"), str(tmp_path / "a"), weights=(0.25, 1.0))
    assert len(pairs) == 50
    numbers = [int(text.rsplit(" ", 1)[1]) for batch in batches(loader(pairs, batch_size=50), 0, 4)
               for text in pairs.texts("caption", batch.rows)]  # fmt: skip
    counts = np.bincount(numbers, minlength=140)
    assert (counts[:40] == 4).all()
    assert (counts[100:] == 1).all()
    both = indexed(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len(both) == 80
    assert both.fingerprint != pairs.fingerprint
    with pytest.raises(CurateError, match=r"the weight -1 of .* is not a positive number"):
        indexed(str(tmp_path / "a"), weights=(-1,))


def test_pixels_and_tokens_belong_to_the_same_pair(make_dataset, indexed):
    pairs = indexed(make_dataset([pair(i) for i in range(36)]).url)
    for batch in loader(pairs, batch_size=36).batches(0, 1):
        captions = pairs.texts("caption", batch.rows)
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


def test_two_views_of_an_image_are_two_crops_that_follow_from_the_place(dataset, indexed):
    pairs = indexed(dataset.url)
    (both,) = loader(pairs, views=2).batches(0, 1)
    (one,) = loader(pairs).batches(0, 1)
    assert both.pixels.shape == (16, 2, 3, 32, 32)
    assert torch.equal(both.pixels[:, 0], one.pixels)
    assert not torch.equal(both.pixels[:, 1], one.pixels)


def test_undecodable_images_are_replaced_and_counted(make_dataset, indexed):
    pairs = [pair(i) for i in range(40)]
    for row in pairs[:4]:
        row["image"] = row["image"][:200]
    found = indexed(make_dataset(pairs).url)
    seen = batches(loader(found, batch_size=20), 0, 2)
    broken = {row for batch in seen for row in batch.undecodable}
    assert set(found.uids(sorted(broken))) == {shards.uid_of(row["url"], row["caption"]) for row in pairs[:4]}
    assert not broken & set(np.concatenate([batch.rows for batch in seen]).tolist())
    again = batches(loader(found, batch_size=20, workers=4), 0, 2)
    assert all(same(one, other) for one, other in zip(again, seen, strict=True))


def test_data_without_any_image_is_an_error(make_dataset, indexed):
    found = indexed(make_dataset([pair(i) | {"image": b"no image"} for i in range(20)]).url)
    with pytest.raises(CurateError, match="100 images one after the other could not be decoded"):
        list(loader(found).batches(0, 1))


def test_a_selection_drops_and_repeats_pairs(dataset, indexed):
    for shard in dataset.shards:
        uids = shard.rows()["uid"]
        weights = [0, 2] + [1] * (len(uids) - 2)
        table = pa.table({"uid": uids, "weight": pa.array(weights, pa.int32())})
        dataset.folder.write_table(f"selections/mine/{shard.name}.parquet", table)
    dataset.after("filter", {}, "", **dataset.with_selection("mine", "filter", None)).save()
    found = indexed(dataset.url)
    assert len(found) == 60
    (batch,) = batches(loader(found, batch_size=60), 0, 1)
    assert sorted(np.unique(batch.rows, return_counts=True)[1]) == [1] * 54 + [2] * 3
    assert len(indexed(dataset.url, selection="mine")) == 60
    with pytest.raises(CurateError, match="has no selection 'other'; it has: mine"):
        indexed(dataset.url, selection="other")


@pytest.mark.slow
@pytest.mark.parametrize("members", [("txt",), ("json",), ("txt", "json"), ("text.json",)])
def test_any_webdataset_folder_can_be_trained_on(tmp_path, members, indexed):
    for name in ("00000", "00001"):
        plain_tar(tmp_path / "wild", name, [pair(i) for i in range(20)], *members)
    for data in (["wild"], ["wild/*.tar"], ["wild/{00000..00001}.tar"], ["wild/00000.tar", "wild/00001.tar"]):
        found = indexed(*(str(tmp_path / part) for part in data))
        assert sorted(captions(found)) == sorted([pair(i)["caption"] for i in range(20)] * 2)
        assert sum(len(batch.rows) for batch in loader(found).batches(0, 2)) == 32


def test_a_plain_img2dataset_folder_is_read_by_its_parquet(tmp_path, indexed):
    write_shard(Folder(str(tmp_path / "made")), "00000", [pair(i) for i in range(20)])
    (tmp_path / "made/shards").rename(tmp_path / "theirs")
    found = indexed(str(tmp_path / "theirs"))
    assert set(found.uids(pair_numbers(found))) == {
        shards.uid_of(pair(i)["url"], pair(i)["caption"]) for i in range(20)
    }


def pair_numbers(found):
    """Every sample of an epoch."""
    return found.pairs(*found.order(0).samples(np.arange(len(found))))


def captions(found):
    return found.texts("caption", pair_numbers(found))


@pytest.mark.slow
def test_remote_shards_give_the_same_batches_and_never_lie_here_all_at_once(make_dataset, indexed, tmp_path):
    local = indexed(make_dataset([pair(i) for i in range(100)], 5).url)
    remote = make_dataset([pair(i) for i in range(100)], 5, url="memory://train-data")
    found = indexed(remote.url, cache=str(tmp_path / "far"))
    assert not list((tmp_path / "far").glob("*.tar")), "only the parquet files are read before the first batch"
    assert found.fingerprint == local.fingerprint
    sizes = [part.size for part in found.parts]
    most, seen = 0, []
    for batch in loader(found, 4, window=20, space=14 * max(sizes)).batches(0, 30):
        seen.append(replace(batch, pixels=batch.pixels.clone(), tokens=batch.tokens.clone()))
        most = max(most, len(list((tmp_path / "far").glob("*.tar"))))
    assert 8 <= most <= 14
    expected = batches(loader(local, 4, window=20), 0, 30)
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(seen, expected, strict=True))
    with pytest.raises(
        CurateError, match=r"tars shuffled together hold 0.0 GB, --cache-size is .*; raise it, or lower"
    ):
        batches(loader(found, 4, window=40, space=min(sizes)), 0, 1)


def test_a_second_start_walks_no_tar(dataset, indexed, tmp_path, monkeypatch):
    found = indexed(dataset.url)
    monkeypatch.setattr("curate.tar.samples", None)
    monkeypatch.setattr("curate.shard.Shard.rows", None)
    again = indexed(dataset.url)
    assert again.fingerprint == found.fingerprint
    assert same(*(batches(loader(pairs), 0, 1)[0] for pairs in (found, again)))


def test_a_changed_shard_is_indexed_again(make_dataset, indexed):
    data = make_dataset([pair(i) for i in range(40)])
    before = indexed(data.url)
    write_shard(data.folder, "00001", [pair(i) for i in range(20, 41)])
    after = indexed(data.url)
    assert (len(before), len(after)) == (40, 41)
    assert before.fingerprint != after.fingerprint


def test_an_index_holds_a_few_bytes_a_shard_however_many_pairs():
    """400 million pairs in 40,000 shards: what is held between batches and what a batch adds."""
    tracemalloc.start()
    mixture = Mixture([Stream(np.full(40_000, 10_000), 0)], [1.0], 0)
    assert mixture.size == 400_000_000
    shards, _ = mixture.samples(np.arange(123_456_789, 123_456_789 + 4096))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(set(shards.tolist())) <= 200
    assert held < 40e6  # a window of a million: 16 MB, and the next


def test_a_shard_that_disappears_is_named_with_the_way_out(dataset, indexed):
    found = indexed(dataset.url)
    stream = loader(found, window=20).batches(0, 30)
    next(stream)
    dataset.folder.remove("shards/00001.tar")
    reader._opened.cache_clear()
    with pytest.raises(
        CurateError, match=r"00001.tar cannot be read any more .No such file.*: put it back, then the same"
    ):
        list(stream)


@pytest.mark.slow
def test_batches_do_not_depend_on_processes_and_a_killed_one_is_one_line(dataset, indexed):
    pairs = indexed(dataset.url)
    stream = loader(pairs, workers=8).batches(0, 200)
    for expected in batches(loader(pairs), 0, 6):
        assert same(next(stream), expected)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(CurateError, match="a decoding process was killed"):
        list(stream)


def test_a_damaged_shard_is_named_and_the_others_go_on(dataset, indexed):
    name = "shards/00001.tar"
    dataset.folder.write_bytes(name, dataset.folder.read_bytes(name)[:5000])
    found = indexed(dataset.url)
    assert len(found) == 40
    assert list(found.failures) == [f"{dataset.url}/shards/00001"]
    assert "truncated" in found.failures[f"{dataset.url}/shards/00001"]


def test_the_fingerprint_tells_other_data(make_dataset, tmp_path, indexed):
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
def test_a_place_without_pairs_is_one_line(tmp_path, make, message, indexed):
    make(tmp_path / "data")
    with pytest.raises(CurateError, match=message):
        indexed(str(tmp_path / "data"))


def test_a_selection_of_other_pairs_fails_its_shards_by_name(dataset, indexed):
    for shard in dataset.shards:
        uids = shard.rows()["uid"].to_pylist() if shard.name == "00000" else [shards.uid_of(shard.name, "")]
        table = pa.table({"uid": uids, "weight": pa.array([1] * len(uids), pa.int32())})
        dataset.folder.write_table(f"selections/mine/{shard.name}.parquet", table)
    dataset.after("filter", {}, "", **dataset.with_selection("mine", "filter", None)).save()
    found = indexed(dataset.url)
    assert len(found) == 20
    assert list(found.failures) == [f"{dataset.url}/shards/{name}" for name in ("00001", "00002")]
    assert "selection 'mine' keeps 1 pair that this shard does not hold" in next(iter(found.failures.values()))


def test_a_dataset_that_lacks_a_tar_is_refused(dataset):
    dataset.save().folder.remove("shards/00001.tar")
    with pytest.raises(CurateError, match=r"shards/00001.tar is missing"):
        sources.of([dataset.url], None)


def test_a_selection_of_plain_tars_is_refused(tmp_path, indexed):
    plain_tar(tmp_path, "0", [pair(0)], "txt")
    with pytest.raises(CurateError, match="is no curate dataset"):
        indexed(str(tmp_path), selection="mine")
