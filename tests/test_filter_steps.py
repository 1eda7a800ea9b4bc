"""What each kind of step keeps: the same as a plain loop over all rows; lists of uids in and out; bad input."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from conftest import pair, write_shard

from curate import filter as filtering
from curate import shard as shards
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.filter import keys, limits
from curate.measure import measure
from curate.shard import uid_of

HERE = "local(workers=0)"
QUERIES = ("red", "green", "blue", "one")


def build(url: str, rows: int = 300, shards_of: int = 4, seed: int = 0) -> Dataset:
    """Rows with a score of few values, a language, queries and a small number, in tables beside empty tars."""
    rng, folder = random.Random(seed), Folder(url)
    names = [f"{seed}-{index}" for index in range(rows)]
    table = pa.table({
        "uid": [uid_of(name, "") for name in names], "key": names, "url": names, "caption": names,
        "status": ["success"] * rows,
        "score": [rng.randrange(20) / 20 for _ in names],
        "lang": pa.array([rng.choice(["en", "de", "fr"]) for _ in names]),
        "queries": [rng.sample(QUERIES[:3], rng.randrange(3)) + (["one"] if index == 7 else [])
                    for index in range(rows)],
        "times": pa.array([rng.choice([0.0, 0.5, 1.0, 2.25]) for _ in names]),
        "hole": pa.array([rng.choice([None, 1.0, 0.0]) for _ in names], pa.float64()),
    })  # fmt: skip
    for number in range(shards_of):
        part = table.take(list(range(number, rows, shards_of)))
        shards.write(folder, f"{number:05d}", shards.tar_bytes([]), part, {})
    return Dataset.open(url)


@pytest.fixture
def pool(tmp_path) -> Dataset:
    return build(str(tmp_path / "pool"))


def rows_of(dataset: Dataset) -> list[dict]:
    return [row for shard in dataset.shards for row in shard.rows().to_pylist()]


def weights(dataset: Dataset) -> dict[str, int]:
    found = {}
    for shard in dataset.shards:
        table = dataset.folder.read_table(f"selections/{dataset.selection}/{shard.name}.parquet").to_pylist()
        found |= {row["uid"]: row["weight"] for row in table if row["weight"]}
    return found


@pytest.fixture
def by(tmp_path):
    """by(dataset, "a: SQL or {mapping}", ...) -> the filtered dataset."""

    def run(dataset: Dataset, *steps: str, head: str = "", **options) -> Dataset:
        path = tmp_path / "recipe.yaml"
        path.write_text(head + "steps:\n" + "".join(f"  - {step}\n" for step in steps))
        return filtering.run(dataset, str(path), **{"engine": HERE, **options})

    return run


def best(rows: list[dict], count: int) -> set[str]:
    return {row["uid"] for row in sorted(rows, key=lambda row: (-row["score"], row["uid"]))[:count]}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 100, 299, 300, 500])
def test_an_exact_count_takes_the_smallest_uids_of_those_that_tie(pool, by, count):
    filtered = by(pool, f"t: {{top: {count}, by: score, exact_count: true}}")
    assert set(weights(filtered)) == best(rows_of(pool), count)


@pytest.mark.parametrize("exact", ["true", "false"])
def test_top_per_language_ranks_each_language_alone(pool, by, exact):
    filtered = by(pool, f"t: {{top: 30%, by: score, per: lang, exact_count: {exact}, min: 0.75}}")
    expected = set()
    for language in ("en", "de", "fr"):
        rows = [row for row in rows_of(pool) if row["lang"] == language]
        chosen = best(rows, int(len(rows) * 0.3))
        least = min(row["score"] for row in rows if row["uid"] in chosen)
        expected |= {row["uid"] for row in rows if row["score"] >= 0.75
                     and (row["uid"] in chosen or (exact == "false" and row["score"] >= least))}  # fmt: skip
    assert set(weights(filtered)) == expected


def test_a_cap_keeps_the_best_of_each_query_and_whatever_matches_none(pool, by, monkeypatch):
    monkeypatch.setattr(limits, "PER_BUCKET", 10_000)  # several buckets
    filtered = by(pool, "few: score < 0.9", "c: {cap: 12, per: query, by: score}")
    rows = [row for row in rows_of(pool) if row["score"] < 0.9]
    expected = {row["uid"] for row in rows if not row["queries"]}
    for query in QUERIES:
        expected |= best([row for row in rows if query in row["queries"]], 12)
    assert set(weights(filtered)) == expected
    assert not pool.folder.names("work/**/*")


def test_a_drawn_cap_depends_on_its_seed_and_on_nothing_else(pool, by, tmp_path):
    drawn = {seed: set(weights(by(pool, f"c: {{cap: 20, per: lang, seed: {seed}}}"))) for seed in (0, 1)}
    other = build(str(tmp_path / "other"), shards_of=7)
    assert drawn[0] != drawn[1]
    assert set(weights(by(other, "c: {cap: 20, per: lang}"))) == drawn[0]
    languages = {row["uid"]: row["lang"] for row in rows_of(pool)}
    assert Counter(languages[uid] for uid in drawn[0]) == dict.fromkeys(("en", "de", "fr"), 20)


def test_weights_multiply_and_their_fractions_come_out_right_on_average(tmp_path, by):
    pool = build(str(tmp_path / "large"), rows=2000)
    filtered = by(pool, "w: {weight: times}", "v: {weight: 2}")
    found, sums = weights(filtered), defaultdict(list)
    for row in rows_of(pool):
        sums[row["times"]].append(found.get(row["uid"], 0))
    assert {value: set(seen) for value, seen in sums.items()} == {0: {0}, 0.5: {0, 2}, 1: {2}, 2.25: {4, 6}}
    for value, seen in sums.items():
        assert np.mean(seen) == pytest.approx(2 * value, abs=0.2)
    assert filtered.history[-1]["counts"]["weight"] == sum(found.values())


def test_soft_cap_sampling_draws_as_often_as_asked_and_flattens_with_its_penalty(pool, by):
    counts = {
        cap: weights(by(pool, f"s: {{sample: 200%, by: score * 4, soft_cap: {cap}, most: 64}}")) for cap in (0.01, 3)
    }
    assert [sum(found.values()) for found in counts.values()] == [600, 600]
    assert max(counts[0.01].values()) > max(counts[3].values())
    scores = {row["uid"]: row["score"] for row in rows_of(pool)}
    mean = sum(scores[uid] * count for uid, count in counts[0.01].items()) / 600
    assert mean > np.mean(list(scores.values())) + 0.1


def test_without_a_penalty_each_draw_has_the_chance_of_a_softmax(tmp_path, by):
    pool = build(str(tmp_path / "large"), rows=3000)
    found = weights(by(pool, "s: {sample: 6000, by: score * 3, soft_cap: 0, most: 64}"))
    rows = rows_of(pool)
    total = sum(math.exp(3 * row["score"]) for row in rows)
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        group = [row for row in rows if low <= row["score"] < high]
        expected = 6000 * sum(math.exp(3 * row["score"]) for row in group) / total
        assert sum(found.get(row["uid"], 0) for row in group) == pytest.approx(expected, abs=4 * expected**0.5)


@pytest.mark.parametrize(("on_null", "passing"), [("drop", {1.0}), ("keep", {None, 1.0})])
def test_what_becomes_of_nulls_is_decided_by_step_by_recipe_or_by_option(pool, by, on_null, passing):
    expected = {row["uid"] for row in rows_of(pool) if row["hole"] in passing}
    assert set(weights(by(pool, f"n: {{where: hole > 0.5, on_null: {on_null}}}"))) == expected
    assert set(weights(by(pool, "n: hole > 0.5", head=f"on_null: {on_null}\n"))) == expected
    assert set(weights(by(pool, "n: hole > 0.5", on_null=on_null))) == expected
    top = by(pool, f"n: {{top: 1%, by: hole, on_null: {on_null}}}")
    assert set(weights(top)) == expected


def test_undecided_nulls_are_an_error_unless_an_earlier_step_drops_them(pool, by):
    with pytest.raises(CurateError, match=r"step 'n': \d+ pairs have no value for 'hole > 0.5'; .*--on-null drop$"):
        by(pool, "n: hole > 0.5")
    with pytest.raises(CurateError, match="a division by zero has none"):
        by(pool, "n: 1 / score > 3")
    assert not pool.folder.names("selections/**/*")
    assert not pool.folder.exists("manifest.json")
    assert weights(by(pool, "there: hole is not null", "n: hole > 0.5"))
    assert weights(by(pool, "there: score > 0", "n: 1 / score > 3"))


def test_sample_ids_go_out_as_datacomp_has_them_and_come_in_again(pool, by, tmp_path):
    path = str(tmp_path / "sample_ids.npy")
    first = by(pool, "w: {weight: times}", sample_ids=path)
    ids = np.load(path)
    assert ids.dtype == np.dtype("u8,u8")
    halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid, count in weights(first).items() for _ in range(count)]
    assert [tuple(map(int, pair)) for pair in ids] == sorted(halves)
    again = filtering.run(pool, subset_file=path, engine=HERE)
    assert weights(again) == weights(first)
    narrowed = filtering.run(pool, where=("lang = 'en'",), subset_file=path, engine=HERE)
    languages = {row["uid"]: row["lang"] for row in rows_of(pool)}
    assert weights(narrowed) == {uid: count for uid, count in weights(first).items() if languages[uid] == "en"}
    assert narrowed.history[-1]["counts"]["subset"] == {"listed": len(weights(first)), "found": len(weights(first))}


@pytest.mark.slow
def test_sample_ids_of_more_shards_than_files_can_be_open(make_dataset, tmp_path, few_open_files):
    dataset = make_dataset([pair(index) for index in range(50)], per_shard=1)
    with few_open_files(40):
        filtering.run(dataset, signals=("caption",), sample_ids=str(tmp_path / "ids.npy"), engine=HERE)
    assert len(np.load(tmp_path / "ids.npy")) == 50


def test_a_subset_may_list_pairs_that_are_not_there_but_not_only_such(pool, tmp_path):
    uids = pa.array([rows_of(pool)[0]["uid"], "f" * 32])
    np.save(tmp_path / "some.npy", np.array(list(zip(*map(list, keys.of_uids(uids)), strict=True)), "u8,u8"))
    found = filtering.run(pool, subset_file=str(tmp_path / "some.npy"), engine=HERE)
    assert "of 2 uids listed 1 are there" in found.history[-1]["summary"]
    np.save(tmp_path / "none.npy", np.array([(1, 2)], "u8,u8"))
    with pytest.raises(CurateError, match=r"none of 300 pairs \(subset 0\)"):
        filtering.run(pool, subset_file=str(tmp_path / "none.npy"), engine=HERE)


@pytest.mark.parametrize(
    ("content", "message"),
    [(np.arange(3), "not the pairs 'u8,u8'"), (np.zeros(0, "u8,u8"), "lists no uid"), (None, "no file"),
     (b"hello", "is no .npy of uids as DataComp writes it"), (b"PK\x05\x06" + bytes(18), "is no .npy of uids")],
)  # fmt: skip
def test_a_file_that_lists_no_uids_is_refused(pool, tmp_path, content, message):
    path = tmp_path / "ids.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(CurateError, match=message):
        filtering.run(pool, subset_file=str(path), engine=HERE)
    assert not pool.folder.names("selections/**/*")


def test_signals_of_two_models_are_not_ranked_together(dataset):
    measured = measure(dataset, ["caption"], HERE)
    name = "signals/caption/00001.parquet"
    before = measured.folder.made_by(name)
    measured.folder.write_table(name, measured.folder.read_table(name), {**before, "model": "another"})
    with pytest.raises(CurateError, match=r"00001.parquet was measured with another model than the first shard"):
        filtering.run(measured, where=("caption_words > 1",), engine=HERE)
    assert not measured.folder.names("selections/**/*")


def test_a_signal_of_another_model_than_the_recipe_needs_is_refused(dataset):
    measured = measure(dataset, ["caption"], HERE)
    borrowed = measured.after("measure", {}, "", signals={**measured.signals, "clip": "clip(model=ViT-B-32)"})
    with pytest.raises(CurateError, match=r"clip-l14-30 needs 'clip' measured as clip\(model=ViT-L-14-quickgelu"):
        filtering.run(borrowed, "clip-l14-30", engine=HERE)


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        ("clip-l14-30", r'"clip\(model=ViT-L-14-quickgelu, pretrained=openai\)"$'),
        ("dfn-style", r'"clip\(pretrained=RUN, as=dfn\)"$'),
        ("t-mars", r'"masked_clip.py\(as=masked\)"$'),
    ],
)
def test_a_recipe_names_the_command_that_measures_what_it_needs(dataset, recipe, command):
    with pytest.raises(CurateError, match=f"run: curate measure .* {command}"):
        filtering.run(dataset, recipe, engine=HERE)
    about = filtering.text_of(recipe)
    assert "curate measure DATASET" in about


def test_a_tar_that_is_gone_is_named_and_nothing_is_written(dataset):
    saved = measure(dataset, ["caption"], HERE)
    saved.folder.remove("shards/00001.tar")
    left = Dataset.open(saved.url)
    for use in (
        lambda: filtering.run(left, where=("caption_words > 1",), engine=HERE),
        lambda: filtering.export.run([left], Dataset.create(f"{saved.url}-out"), engine=HERE),
        lambda: measure(left, ["size"], HERE),
    ):
        with pytest.raises(CurateError, match=r"shards/00001.tar is missing"):
            use()
    assert not saved.folder.exists("selections")
    assert Dataset.open(saved.url).manifest["shards"] == ["00000", "00001", "00002"]


def test_a_signal_measured_on_other_pairs_fails_its_shard(dataset):
    saved = measure(dataset, ["caption", "size"], HERE)
    saved.folder.write_bytes("signals/size/00000.parquet", saved.folder.read_bytes("signals/size/00001.parquet"))
    filtered = filtering.run(saved, where=("caption_words > 1 and size_min > 1",), engine=HERE)
    assert "was measured on another 00000.tar; delete this file" in filtered.failures["shards/00000"]
    assert filtered.history[-1]["counts"]["kept"] == 40


def test_other_images_in_a_tar_of_equal_size_fail_its_shard_in_filter_and_in_export(make_dataset, tmp_path):
    rng = np.random.default_rng(0)
    pairs = [pair(index) | {"image": rng.bytes(3000)} for index in range(40)]
    saved = measure(make_dataset(pairs), ["caption"], HERE)
    selected = filtering.run(saved, where=("caption_words > 1",), engine=HERE)
    assert not filtering.export.run([selected], Dataset.create(str(tmp_path / "before")), engine=HERE).failures
    size = saved.folder.size("shards/00000.tar")
    write_shard(saved.folder, "00000", [row | {"image": rng.bytes(3000)} for row in pairs[:20]])
    assert saved.folder.size("shards/00000.tar") == size
    told = "signals/caption/00000.parquet was measured on another 00000.tar; delete this file and measure again"
    for again in (
        filtering.run(selected, where=("caption_words > 2",), engine=HERE),
        filtering.export.run([selected], Dataset.create(str(tmp_path / "after")), engine=HERE),
    ):
        assert list(again.failures.values()) == [f"{saved.url}/{told}"]


@pytest.mark.slow
def test_every_ranking_step_keeps_the_same_however_the_rows_are_spread_over_shards(pool, by, tmp_path):
    steps = ("t: {top: 80%, by: score, exact_count: true}", "g: {top: 60%, by: score, per: lang, of: survivors}",
             "c: {cap: 30, per: queries}", "s: {sample: 100, by: score}")  # fmt: skip
    one = weights(by(pool, *steps))
    again = build(str(tmp_path / "again"), shards_of=9)
    assert weights(by(again, *steps)) == one
    assert sum(one.values()) == 100
