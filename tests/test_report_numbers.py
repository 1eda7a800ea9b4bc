"""The numbers behind the report: counts of the slider, what recipes say, hosts, queries, groups, and two selections."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from conftest import pair

from curate import dedup, filter, report
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.filter.recipe import load
from curate.report import duplicates, queries, recipe_text, rows, tallies, thresholds, thumbnails
from curate.report.collect import gather

HERE = "local(workers=0)"


@pytest.fixture
def scored(make_dataset) -> Dataset:
    """90 pairs in 5 shards with a score (some null), a language, hosts and queries; 10 are copies of others."""
    rng = np.random.default_rng(3)
    pairs = [pair(index) for index in range(80)]
    pairs += [{**pair(index), "key": f"9{index:05d}"} for index in range(10)]
    for index, row in enumerate(pairs):
        row["url"] = f"https://{['www.one.test', 'two.test:8080', 'ONE.test'][index % 3]}/{index}.jpg"
        row["score"] = None if index % 11 == 0 else float(np.float32(rng.normal(0.28, 0.06)))
        row["lang"] = ["en", "en", "de"][index % 3]
        row["queries"] = [["red", "circle"], ["circle"], []][index % 3]
    return make_dataset(pairs)


def rows_of(dataset: Dataset) -> list[dict]:
    return [row for shard in dataset.shards for row in dataset.joined(shard).to_pylist()]


def kept_at(told: dict, column: str, position: int, without: set[int] = frozenset()) -> int:
    """What the slider shows where it stands before bin `position`: other steps hold unless they are unticked."""
    found = next(one for one in told["columns"] if one["column"] == column)
    ticked = set(range(len(told["rules"]))) - {found["step"]} - without
    counts = [bins for fails, bins in zip(told["masks"], found["counts"], strict=True) if not ticked & set(fails)]
    return sum(sum(bins[position:-1]) if found["above"] else sum(bins[:position]) for bins in counts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "sign"), [("score > 0.3", ">"), ("score >= 0.3", ">="), ("score < 0.3", "<"), ("score <= 0.3", "<=")]
)
def test_every_threshold_counts_what_a_loop_counts(scored, where, sign):
    filtered = filter.run(scored, where=("lang = 'en'", where), on_null="drop", engine=HERE)
    told = gather(filtered, filtered.selection).numbers["thresholds"]
    column = next(one for one in told["columns"] if one["column"] == "score")
    english = [row["score"] for row in rows_of(filtered) if row["lang"] == "en" and row["score"] is not None]
    every = [row["score"] for row in rows_of(filtered) if row["score"] is not None]
    assert (column["edges"][column["cut"]], column["above"]) == (0.3, sign in (">", ">="))
    for at, edge in enumerate(column["edges"]):
        over = at == column["cut"] and sign in (">", "<=")
        for values, without in ((english, set()), (every, {0})):
            above = sum(value > edge if over else value >= edge for value in values)
            expected = above if column["above"] else len(values) - above
            assert kept_at(told, "score", at + 1, without) == expected
    assert kept_at(told, "score", column["cut"] + 1) == filtered.manifest["selections"][filtered.selection]["kept"]


def test_conditions_joined_by_and_can_be_tried_one_by_one(scored):
    joined = "score >= 0.2 and caption_characters > 22"
    filtered = filter.run(scored, where=(joined,), signals=("caption",), on_null="drop", engine=HERE)
    told = gather(filtered, filtered.selection).numbers["thresholds"]
    assert [rule["rule"] for rule in told["rules"]] == ["score >= 0.2", "caption_characters > 22"]
    column = next(one for one in told["columns"] if one["column"] == "score")
    long = [row for row in rows_of(filtered) if row["caption_characters"] > 22 and row["score"] is not None]
    for at in (column["cut"], column["cut"] + 9):
        expected = sum(row["score"] >= column["edges"][at] for row in long)
        assert kept_at(told, "score", at + 1) == expected


def test_a_selection_that_does_not_say_every_verdict_is_told_as_such(scored):
    filtered = filter.run(scored, where=("lang = 'en'", "score >= 0.3"), on_null="drop", engine=HERE)
    for shard in filtered.shards:
        name = f"selections/{filtered.selection}/{shard.name}.parquet"
        filtered.folder.write_table(name, filtered.folder.read_table(name).drop_columns(["failed"]))
    told = gather(filtered, filtered.selection).numbers["thresholds"]
    assert told["complete"] is False
    column = next(one for one in told["columns"] if one["column"] == "score")
    kept = filtered.manifest["selections"][filtered.selection]["kept"]
    assert kept_at(told, "score", column["cut"] + 1) == kept


@pytest.mark.parametrize("values", [np.linspace(0.113, 0.387, 500), np.arange(3, 900), np.geomspace(5, 5e6, 400)])
def test_thresholds_are_round_numbers_between_the_values(values):
    whole = values.dtype.kind == "i"
    edges = thresholds.nice_edges(values.astype(float), whole)
    assert 20 <= len(edges) <= 200
    assert edges == sorted(set(edges))
    assert values.min() <= edges[0] < edges[-1] <= values.max()
    assert all(len(f"{edge:.10g}".replace("-", "").replace(".", "").strip("0")) <= 4 for edge in edges)


@pytest.mark.slow
def test_the_recipe_on_the_page_is_a_recipe_that_makes_the_same_selection(scored, tmp_path):
    text = """
steps:
  - english: lang = 'en'
  - "quoted: it's": {where: "score > 0.1 and caption <> 'x'", on_null: drop}
  - best: {top: 90%, by: score, of: survivors, min: 0.15, on_null: drop}
  - each: {top: 80%, by: score, of: pool, per: query, exact_count: true, on_null: keep}
  - few: {cap: 1000, per: lang, by: score, on_null: drop}
  - drawn: {cap: 2000, per: query, seed: 3}
  - often: {sample: 120%, by: score, soft_cap: 0.2, most: 5, seed: 1, on_null: drop}
  - heavy: {weight: score * 10, seed: 2, on_null: drop}
"""
    (tmp_path / "one.yaml").write_text(text)
    filtered = filter.run(scored, str(tmp_path / "one.yaml"), engine=HERE)
    told = gather(filtered, filtered.selection).numbers["recipe"]
    (tmp_path / "two.yaml").write_text(told["text"])
    assert load(str(tmp_path / "two.yaml")).steps == load(str(tmp_path / "one.yaml")).steps
    again = filter.run(filtered, str(tmp_path / "two.yaml"), engine=HERE)
    assert again.selection == filtered.selection


def test_a_list_of_uids_is_mentioned_in_the_recipe():
    assert "# only uids in ids.npy" in recipe_text.recipe_text([{"step": "subset", "rule": "in ids.npy"}])


def test_hosts_are_read_from_addresses():
    urls = [
        "https://www.One.test/a",
        "http://u:p@two.test:81?x",
        "http://[::1]:9/",
        "no address",
        "",
        "ftp://three.test",
    ]
    found = tallies.hosts(pa.chunked_array([urls])).to_pylist()
    assert found == ["one.test", "two.test", "[::1]", tallies.NO_HOST, tallies.NO_HOST, "three.test"]


def test_domains_say_how_few_hosts_hold_half_of_the_pairs():
    tally = tallies.Tally(every=Counter({"a": 5, "b": 2, "c": 2, tallies.NO_HOST: 7}), kept=Counter({"a": 1}))
    found = tallies.domains(tally, shown=2)
    assert (found["hosts"], found["half"], found["without"]) == (3, 1, 7)
    assert found["largest"] == [{"value": "a", "count": 5, "kept": 1}, {"value": "b", "count": 2, "kept": 0}]


def test_queries_that_the_filter_erases_are_named():
    tally = tallies.Tally(considered=Counter({"cat": 9, "dog": 4, "owl": 2}), kept=Counter({"cat": 3, "owl": 2}))
    found = queries.survival(tally)
    assert (found["queries"], found["erased"], found["lost"]) == (3, 1, [{"query": "dog", "before": 4}])
    assert found["thinned"] == [{"query": "cat", "before": 9, "after": 3}]
    assert found["points"] == [[1, 9, 3], [2, 4, 0], [3, 2, 2]]


def test_duplicate_groups_are_counted_in_images():
    keepers = ["a"] + ["b"] * 4 + ["c"] * 2 + ["d"] * 9 + ["test"]
    reasons = ["phash"] * 16 + ["benchmark:x"]
    table = pa.table({"keeper": keepers, "reason": reasons, "signal": reasons})
    found = duplicates.sizes(table)
    assert (found["groups"], found["images"], found["largest"]) == (4, 20, 10)
    assert found["sizes"] == [[2, 2, 1, 2], [3, 3, 1, 3], [4, 7, 1, 5], [8, 15, 1, 10]]


def test_lengths_and_shapes_are_told_where_no_signal_measured_them():
    captions = pa.chunked_array([["a red  circle", "", " one "]])
    sides = {"width": pa.chunked_array([[20, 10, 0]]), "height": pa.chunked_array([[10, 40, 5]])}
    found = tallies.derived(pa.table({"caption": captions}), sides)
    assert found["caption_words"].to_pylist() == [3, 0, 1]
    assert found["caption_characters"].to_pylist() == [13, 0, 5]
    assert found["aspect"].to_pylist() == [2, 4, None]


def test_columns_that_repeat_another_are_told_once(scored):
    measured = filter.run(scored, where=("size_width >= 60",),
                          signals=("size",), engine=HERE)  # fmt: skip
    numbers = gather(measured, measured.selection).numbers
    assert numbers["same"]["size_height"] == numbers["same"]["size_min"] == "size_width"


@pytest.mark.parametrize(
    ("blur", "expected"), [("nsfw", {"b", "c", "d"}), ("all", {"a", "b", "c", "d"}), ("none", set())]
)
def test_pictures_are_blurred_unless_they_are_called_safe(dataset, blur, expected):
    uids = rows.read(dataset, None).table["uid"].to_pylist()[:4]
    table = rows.read(dataset, None).table.slice(0, 4).append_column("nsfw", pa.array([0.1, 0.2, None, 0.9]))
    found = thumbnails.Thumbnails.read(dataset, table, uids, blur)
    names = dict(zip(uids, "abcd", strict=True))
    assert {names[uid] for uid in uids if found.picture(uid, "").veiled} == expected


def test_pictures_over_the_budget_are_left_out_and_counted(dataset, monkeypatch):
    monkeypatch.setattr(thumbnails, "BUDGET", 20_000)
    report.run(dataset)
    page = dataset.folder.read_bytes("reports/report.html").decode()
    assert "pictures are left out to keep the page small" in page
    assert sum(map(len, set(thumbnail_uris(page)))) <= 20_000


def thumbnail_uris(page: str) -> list[str]:
    return [part.split('"')[0] for part in page.split('src="')[1:]]


@pytest.mark.slow
def test_two_selections_of_one_dataset_are_compared(scored):
    first = dedup.run(scored, ("exact",), name="once", engine=HERE)
    english = filter.run(first, where=("lang = 'en'",), name="english", engine=HERE)
    strict = filter.run(english, where=("score >= 0.3",), on_null="drop", name="strict", engine=HERE)
    summary, numbers, failures = report.run(strict, diff="english")
    strict_uids, english_uids = (uids(strict, name) for name in ("strict", "english"))
    assert (numbers["both"], numbers["only_a"], numbers["only_b"]) == (
        len(strict_uids & english_uids), len(strict_uids - english_uids), len(english_uids - strict_uids)
    )  # fmt: skip
    assert numbers["why_not_a"] == {"score >= 0.3": len(english_uids - strict_uids)}
    assert numbers["why_not_b"] == {"lang = 'en'": len(strict_uids - english_uids)}
    languages = next(column for column in numbers["columns"] if column["column"] == "lang")
    kept = [row for row in rows_of(strict) if row["uid"] in strict_uids]
    assert {row["value"]: row["a"] for row in languages["values"]} == Counter(row["lang"] for row in kept)
    red = next(row for row in numbers["queries"]["largest"] if row["value"] == "red")
    assert red["a"] == sum("red" in row["queries"] for row in kept)
    score = next(column for column in numbers["columns"] if column["column"] == "score")
    assert sum(score["a"]) == len(strict_uids)
    assert failures == {}
    assert "only in strict" in summary
    assert json.loads(strict.folder.read_bytes("reports/diff.json"))["only_a"] == numbers["only_a"]
    page = strict.folder.read_bytes("reports/diff.html").decode()
    assert "Only in strict" in page
    assert "Only in english" in page


def uids(dataset: Dataset, selection: str) -> set[str]:
    return {uid for shard in dataset.shards for uid in dataset.kept(shard, selection)["uid"].to_pylist()}


def test_two_datasets_are_compared_by_uid(make_dataset, tmp_path):
    one = make_dataset([pair(index) for index in range(30)], url=str(tmp_path / "a" / "data"))
    two = make_dataset([pair(index) for index in range(10, 50)], url=str(tmp_path / "b" / "data"))
    _, numbers, _ = report.run(one, str(tmp_path / "diff.html"), diff=two.url)
    assert (numbers["both"], numbers["only_a"], numbers["only_b"]) == (20, 10, 20)
    assert numbers["why_not_b"] == {"not in its shards": 10}
    assert (numbers["a"]["name"], numbers["b"]["name"]) == ("data (A)", "data (B)")


def test_everything_can_be_compared_with_a_selection(scored):
    filtered = filter.run(scored, where=("lang = 'en'",), engine=HERE)
    _, numbers, _ = report.run(filtered, diff="all")
    assert (numbers["only_a"], numbers["both"]) == (0, filtered.manifest["selections"][filtered.selection]["kept"])
    assert numbers["only_b"] == numbers["why_not_a"]["lang = 'en'"]


def test_what_cannot_be_compared_is_refused_in_one_line(scored, tmp_path):
    with pytest.raises(CurateError, match=r"'nothing' is no selection of .* and nothing is not a dataset"):
        report.run(scored, diff="nothing")
    with pytest.raises(CurateError, match="--run has no place"):
        report.run(scored, runs=[str(tmp_path)], diff="all")
    with pytest.raises(CurateError, match="no selection 'missing'"):
        report.run(scored, selection="missing")
