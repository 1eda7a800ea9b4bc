"""Which rows filter keeps: the same as a plain reference, whatever the engine; ties, nulls, names, refusals."""

import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import pair

from curate import filter as filtering
from curate import shard as shards
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.measure import measure
from curate.shard import uid_of

HERE = "local(workers=0)"


@pytest.fixture
def scored(make_dataset) -> Dataset:
    """60 pairs in 3 shards with a score of few distinct values (some null, some NaN) and a language (some null)."""
    rng = random.Random(7)
    pairs = [pair(index) for index in range(60)]
    for row in pairs:
        row["score"] = rng.choice([0.1, 0.2, 0.2, 0.3, 0.4, 0.5, None, float("nan")])
        row["lang"] = rng.choice(["en", "en", "de", None])
        row["queries"] = rng.choice([["red"], ["red", "circle"], []])
    return make_dataset(pairs)


@pytest.fixture
def make_table_dataset(tmp_path):
    """A dataset of the given columns in 3 shards, with empty tars: filter reads tables only."""

    def make(columns: dict[str, list]) -> Dataset:
        folder, rows = Folder(str(tmp_path / "tables")), len(next(iter(columns.values())))
        keys = [f"{index:06d}" for index in range(rows)]
        table = pa.table({"uid": [uid_of(key, "") for key in keys], "key": keys, "status": ["success"] * rows,
                          "caption": keys, "url": keys, **columns})  # fmt: skip
        for shard in range(3):
            shards.write(folder, f"{shard:05d}", shards.tar_bytes([]), table.take(list(range(shard, rows, 3))), {})
        return Dataset.open(folder.url)

    return make


def dropping(dataset: Dataset, *arguments, **options) -> Dataset:
    """filter in this process, with every null decided: such rows are dropped."""
    return filtering.run(dataset, *arguments, **{"on_null": "drop", "engine": HERE, **options})


def rows_of(dataset: Dataset) -> list[dict]:
    return [row for shard in dataset.shards for row in shard.rows().to_pylist()]


def selection(dataset: Dataset, name: str | None = None) -> dict[str, dict]:
    name = name or dataset.selection
    tables = [dataset.folder.read_table(f"selections/{name}/{shard.name}.parquet") for shard in dataset.shards]
    for table in tables:
        assert table.schema.names == ["uid", "weight", "reason", "failed"]
        assert table["weight"].type == pa.int32()
        assert table["uid"].to_pylist() == sorted(table["uid"].to_pylist())
    return {row["uid"]: row for table in tables for row in table.to_pylist()}


def kept(dataset: Dataset) -> set[str]:
    return {uid for uid, row in selection(dataset).items() if row["weight"] > 0}


def value(row: dict) -> float | None:
    return None if row["score"] is None or np.isnan(row["score"]) else row["score"]


def best(rows: list[dict], share: float) -> float:
    """The smallest score among the best `share`, by sorting."""
    scores = sorted((value(row) for row in rows if value(row) is not None), reverse=True)
    return scores[max(1, int(len(scores) * share)) - 1]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_conditions_keep_what_a_plain_loop_keeps_and_say_why_the_rest_is_dropped(scored):
    filtered = dropping(scored, where=("lang = 'en'", "score >= 0.3"), engine=HERE)
    expected = {}
    for row in rows_of(scored):
        english, aligned = row["lang"] == "en", value(row) is not None and value(row) >= 0.3
        expected[row["uid"]] = None if english and aligned else "score >= 0.3" if english else "lang = 'en'"
    assert {uid: row["reason"] for uid, row in selection(filtered).items()} == expected
    assert {uid for uid, reason in expected.items() if reason is None} == kept(filtered)


def test_every_row_says_all_the_steps_that_would_drop_it(scored):
    found = selection(dropping(scored, where=("lang = 'en'", "score >= 0.3")))
    for row in rows_of(scored):
        failed = [row["lang"] != "en", value(row) is None or value(row) < 0.3]
        assert found[row["uid"]]["failed"] == sum(2**step for step, fails in enumerate(failed) if fails)
    assert {row["failed"] for row in found.values()} == {0, 1, 2, 3}


def test_more_steps_than_a_row_can_tell_apart_are_refused(scored):
    with pytest.raises(CurateError, match="65 steps are more"):
        dropping(scored, where=tuple(f"score < {number}" for number in range(1, 66)))


def test_the_funnel_counts_each_step_alone_in_order_and_where_only_it_drops(scored):
    filtered = dropping(scored, where=("lang = 'en'", "score >= 0.3"), engine=HERE)
    rows = rows_of(scored)
    english = [row["lang"] == "en" for row in rows]
    aligned = [value(row) is not None and value(row) >= 0.3 for row in rows]
    both = sum(map(lambda a, b: a and b, english, aligned))
    counts = filtered.history[-1]["counts"]
    assert (counts["of"], counts["kept"]) == (60, both)
    assert counts["funnel"] == [
        {"step": "lang = 'en'", "rule": "lang = 'en'", "on_null": "drop", "alone": sum(english), "kept": sum(english),
         "only": sum(aligned) - both, "null": sum(row["lang"] is None for row in rows)},
        {"step": "score >= 0.3", "rule": "score >= 0.3", "on_null": "drop", "alone": sum(aligned), "kept": both,
         "only": sum(english) - both, "null": sum(value(row) is None for row in rows)},
    ]  # fmt: skip
    assert "have no value for score >= 0.3 (drop)" in filtered.history[-1]["summary"]


@pytest.mark.parametrize("of", ["pool", "survivors"])
def test_top_ranks_the_pool_or_the_survivors_exactly_and_keeps_every_tie(scored, of):
    filtered = dropping(scored, where=("lang = 'en'",), top="30%", by="score", of=of, engine=HERE)
    rows = rows_of(scored)
    english = [row for row in rows if row["lang"] == "en"]
    threshold = best(rows if of == "pool" else english, 0.3)
    expected = {row["uid"] for row in english if value(row) is not None and value(row) >= threshold}
    assert kept(filtered) == expected
    assert filtered.history[-1]["counts"]["funnel"][1]["threshold"] == threshold


def test_a_top_step_sees_the_cut_of_the_top_step_before_it(scored, tmp_path):
    recipe = write(tmp_path / "r.yaml", "steps: [{half: {top: 50%, by: score}}, "
                                        "{two: {top: 3, by: length(caption), of: survivors}}]")  # fmt: skip
    filtered = dropping(scored, recipe, engine=HERE)
    rows = rows_of(scored)
    half = [row for row in rows if value(row) is not None and value(row) >= best(rows, 0.5)]
    third = sorted((len(row["caption"]) for row in half), reverse=True)[2]
    assert kept(filtered) == {row["uid"] for row in half if len(row["caption"]) >= third}


@pytest.mark.parametrize(
    ("amount", "values", "smallest"),
    [("30%", range(10), 7), ("1%", range(10), 9), ("100%", range(10), 0), ("33.3%", range(1000), 667),
     ("3", range(10), 7), ("99", range(10), 0), ("2", [1, 5, 5, 5], 5), ("2", [-1.5, -0.0, 0.0, -3], 0),
     ("3", [1 + 2**-52, 1, 1 - 2**-53, 1 + 2**-51], 1)],
)  # fmt: skip
def test_the_cut_is_the_smallest_value_kept(make_table_dataset, amount, values, smallest):
    dataset = make_table_dataset({"x": [float(value) for value in random.Random(0).sample(list(values), len(values))]})
    filtered = dropping(dataset, top=amount, by="x", engine=HERE)
    assert filtered.history[-1]["counts"]["funnel"][0]["threshold"] == smallest
    assert filtered.history[-1]["counts"]["kept"] == sum(value >= smallest for value in values)


@pytest.mark.parametrize(("top", "smallest"), [("50%", 8), ("10%", 9)])
def test_a_floor_holds_however_many_rows_top_asks_for(make_table_dataset, tmp_path, top, smallest):
    recipe = write(tmp_path / "r.yaml", f"steps: [{{best: {{top: {top}, by: x, min: 8}}}}]")
    filtered = dropping(make_table_dataset({"x": [float(x) for x in range(10)]}), recipe, engine=HERE)
    assert filtered.history[-1]["counts"]["funnel"][0]["threshold"] == smallest


def test_nan_is_no_score_and_passes_no_threshold(scored):
    filtered = dropping(scored, where=("score > 0.05",), engine=HERE)
    assert kept(filtered) == {row["uid"] for row in rows_of(scored) if value(row) is not None}


def test_lists_and_several_columns_can_stand_in_one_condition(scored):
    filtered = dropping(scored, where=("len(queries) = 2 or list_contains(queries, 'blue') or lang = 'de'",),
                             engine=HERE)  # fmt: skip
    assert kept(filtered) == {row["uid"] for row in rows_of(scored) if len(row["queries"]) == 2 or row["lang"] == "de"}


def test_an_empty_call_measures_and_applies_the_recipe_basic(scored):
    filtered = dropping(scored, engine=HERE)
    assert set(filtered.signals) == {"caption", "size"}
    assert "by recipe basic (words 60, size 60, aspect 60)" in filtered.history[-1]["summary"]


def test_filter_starts_from_what_the_stage_before_kept_and_carries_its_weights(scored):
    rows = rows_of(scored)
    weights = {row["uid"]: index % 3 for index, row in enumerate(rows)}  # 0 = dropped by dedup
    for shard in scored.shards:
        uids = shard.rows()["uid"].to_pylist()
        table = {"uid": uids, "weight": pa.array([weights[uid] for uid in uids], pa.int32()),
                 "reason": pa.array([None if weights[uid] else "exact" for uid in uids], pa.string())}  # fmt: skip
        scored.folder.write_table(f"selections/d/{shard.name}.parquet", pa.table(table))
    deduped = scored.after("dedup", {}, "", **scored.with_selection("d", "dedup", None)).save()
    filtered = dropping(deduped, where=("lang = 'en'",), engine=HERE)
    found = selection(filtered)
    assert set(found) == {uid for uid, weight in weights.items() if weight}
    for row in rows:
        if row["uid"] in found:
            assert found[row["uid"]]["weight"] == (weights[row["uid"]] if row["lang"] == "en" else 0)
    assert filtered.manifest["selections"][filtered.selection]["parent"] == "d"
    again = dropping(filtered, where=("lang = 'de'",), engine=HERE)  # replaces the first, does not narrow it
    assert set(selection(again)) == set(found)


def tables(dataset: Dataset) -> dict[str, bytes]:
    return {name: dataset.folder.read_bytes(name) for name in dataset.folder.names("selections/*/*.parquet")}


@pytest.mark.slow
def test_one_and_two_workers_write_the_same_bytes(scored, tmp_path):
    copy = str(tmp_path / "copy")
    shutil.copytree(scored.url, copy)
    options = {"where": ("lang = 'en'",), "top": "40%", "by": "score"}
    one = dropping(scored, **options, engine=HERE)
    two = dropping(Dataset.open(copy), **options, engine="local(workers=2)")
    assert one.selection == two.selection
    assert tables(one) == tables(two)


def test_the_same_filter_again_skips_its_shards_and_tells_the_same_numbers(scored):
    first = dropping(scored, where=("lang = 'en'",), engine=HERE)
    second = dropping(first, where=("lang = 'en'",), engine=HERE)
    assert second.history[-1]["counts"]["skipped"] == 3
    assert second.history[-1]["summary"] == first.history[-1]["summary"]
    assert second.selection == first.selection


def test_a_name_is_never_given_to_two_selections(scored):
    named = dropping(scored, where=("lang = 'en'",), name="mine", engine=HERE)
    before = tables(named)
    with pytest.raises(CurateError, match=r"has a selection 'mine' already.*another --name"):
        dropping(named, where=("lang = 'de'",), name="mine", engine=HERE)
    assert tables(named) == before
    with pytest.raises(CurateError, match="cannot name a selection"):
        dropping(named, where=("lang = 'de'",), name="../mine", engine=HERE)


def test_files_left_by_other_rules_under_the_same_name_are_refused(scored):
    dropping(scored, where=("lang = 'en'",), name="mine", engine=HERE)  # as if killed before the manifest
    with pytest.raises(CurateError, match="selections/mine was made by other rules"):
        dropping(scored, where=("lang = 'de'",), name="mine", engine=HERE)


def test_keeping_nothing_is_an_error_that_leaves_no_file(scored):
    with pytest.raises(CurateError, match=r"none of 60 pairs \(score > 5 0\); nothing was written"):
        dropping(scored, where=("score > 5",), engine=HERE)
    assert not scored.folder.names("selections/*/*")
    assert not scored.folder.exists("manifest.json")


def test_ranking_by_a_column_without_values_is_an_error(make_dataset):
    dataset = make_dataset([pair(index) | {"score": None} for index in range(20)], per_shard=10)
    with pytest.raises(CurateError, match=r"not a number to rank by|no row has a value"):
        dropping(dataset, top="10%", by="score", engine=HERE)
    with pytest.raises(CurateError, match="no row has a value"):
        dropping(dataset, top="10%", by="score::double", engine=HERE)


def test_a_column_mistyped_is_told_from_one_that_is_not_measured(dataset):
    measured = measure(dataset, ["caption"], HERE)
    with pytest.raises(CurateError, match=r"did you mean 'caption_words'\? or run: curate measure .* caption$"):
        dropping(measured, where=("caption_wrods > 1",), engine=HERE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": ("scor > 1",)}, "step 'scor > 1': no column 'scor'; did you mean 'score'?"),
        ({"where": ("language = 'en'",)}, "no column 'language' yet; run: curate measure .* language$"),
        (
            {"where": ("clip > 0.3",)},
            r"run: curate measure .* clip \('clip' needs pretrained: clip\(pretrained=...\)\)$",
        ),
        ({"where": ("language_score > 0.5",)}, "run: curate measure .* language$"),
        ({"where": ("size_min > 5",)}, "run: curate measure .* size$"),
        ({"top": "10%", "by": "clip"}, "run: curate measure .* clip "),
        ({"where": ("score >",)}, "cannot read 'score >': syntax error"),
        ({"where": ("score",)}, "'score' is DOUBLE, not a condition"),
        ({"where": ("caption + 1 = 2 and lang",)}, "step 'caption"),
        ({"where": ("lang::int > 3",)}, "Could not convert string"),
        ({"where": ("",)}, "it is empty"),
        ({"where": ("lang = 'en'", "lang = 'en'")}, "two steps are called"),
        ({"top": "10%", "by": "lang"}, "'lang' is VARCHAR, not a number"),
        ({"top": "10%"}, "--top and --by go together"),
        ({"by": "score"}, "--top and --by go together"),
        ({"top": "0.3", "by": "score"}, "top is a share such as 30% or a whole number"),
        ({"top": "130%", "by": "score"}, "more than everything"),
        ({"top": "0%", "by": "score"}, "top is a share"),
        ({"recipe": "basics"}, "no recipe 'basics'.*basic, clip-l14-30, clip-top30, datacomp-basic, .*t-mars"),
        ({"signals": ("nothing",)}, "no signals called 'nothing'"),
    ],
)
def test_a_step_that_does_not_fit_is_one_line_that_names_the_way_out(scored, options, message):
    with pytest.raises(CurateError, match=message) as caught:
        dropping(scored, **options, engine=HERE)
    assert "\n" not in str(caught.value)
    assert not scored.folder.exists("selections")


def test_a_shard_whose_signal_is_missing_fails_alone(scored):
    measured = dropping(scored, signals=("caption(as=words)",), where=("words_words > 1",), engine=HERE)
    measured.folder.remove("signals/words/00001.parquet")
    filtered = dropping(measured, where=("words_words > 2",), engine=HERE)
    assert list(filtered.failures) == ["shards/00001"]
    way_out = f"signals/words/00001.parquet is missing; run: curate measure {scored.url} 'caption(as=words)'"
    assert way_out in filtered.failures["shards/00001"]
    assert filtered.history[-1]["counts"]["of"] == 40


def test_a_signal_whose_files_are_gone_is_as_one_that_was_not_measured(scored):
    measured = measure(scored, ["caption", "size"], HERE)
    measured.folder.remove("signals/caption")
    assert not dropping(measured, where=("size_width > 3",), engine=HERE).failures
    with pytest.raises(CurateError, match=r"no column 'caption_words' yet; .*run: curate measure .* caption"):
        dropping(measured, where=("caption_words > 1",), engine=HERE)


def test_a_selection_of_other_data_is_refused(scored, make_dataset, tmp_path):
    other = make_dataset([pair(index) for index in range(100, 160)], url=str(tmp_path / "other"))
    strange = dropping(other, where=("key >= '000150'",), name="d", engine=HERE)
    shutil.copytree(f"{strange.url}/selections", f"{scored.url}/selections")
    borrowed = scored.after("dedup", {}, "", **scored.with_selection("d", "dedup", None)).save()
    with pytest.raises(CurateError, match="keeps 10 pairs that this shard does not hold"):
        dropping(borrowed, where=("lang = 'en'",), engine=HERE)


def test_the_same_filter_works_in_memory(scored):
    url = "memory://filter-select/dataset"
    for name in scored.folder.names("shards/*"):
        Dataset.create(url).folder.write_bytes(name, scored.folder.read_bytes(name))
    options = {"where": ("lang = 'en'",), "top": "40%", "by": "score"}
    assert tables(dropping(Dataset.open(url), **options)) == tables(dropping(scored, **options))
