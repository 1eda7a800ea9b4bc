"""Every built-in recipe runs where its signals are measured, and keeps what its paper says."""

import random

import numpy as np
import pyarrow as pa
import pytest

from curate import filter as filtering
from curate import named
from curate import shard as shards
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.filter import answers, predicate
from curate.filter.recipe import BUILT_IN, load
from curate.filter.rules import expression_of
from curate.filter.steps import Where
from curate.shard import uid_of

HERE = "local(workers=0)"
SIGNALS = {"caption": ("caption_words", "caption_characters"), "language": ("language", "language_score"),
           "size": ("size_min", "size_aspect", "size_bytes")}  # fmt: skip


def best(share: float, by: str):
    """The best share of the pool; ties with the last one stay."""

    def keep(rows: list[dict]) -> set[str]:
        scores = sorted((row[by] for row in rows if row[by] is not None), reverse=True)
        least = scores[max(1, int(len(scores) * share)) - 1]
        return {row["uid"] for row in rows if row[by] is not None and row[by] >= least}

    return keep


def each(holds):
    return lambda rows: {row["uid"] for row in rows if holds(row)}


def at_least(row: dict, score: float) -> bool:
    return row["clip"] is not None and row["clip"] >= score


KEPT = {
    "basic": each(lambda row: row["caption_words"] > 1 and row["caption_characters"] > 5 and row["size_min"] >= 32
                  and row["size_aspect"] <= 3),
    "datacomp-basic": each(lambda row: row["language"] == "en" and row["caption_words"] > 2
                           and row["caption_characters"] > 5
                           and min(row["original_width"], row["original_height"]) >= 200
                           and max(row["original_width"], row["original_height"])
                           / min(row["original_width"], row["original_height"]) <= 3),
    "clip-l14-30": best(0.3, "clip"),
    "clip-top30": best(0.3, "clip"),
    "laion400m": each(lambda row: row["caption_characters"] >= 5 and row["size_bytes"] >= 5000 and at_least(row, 0.3)),
    "laion2b-en": each(lambda row: row["language"] == "en" and row["caption_characters"] >= 5
                       and row["size_bytes"] >= 5000 and at_least(row, 0.28)),
    "datacomp-image-based": each(lambda row: row["language"] == "en" and row["caption_words"] > 1
                                 and row["caption_characters"] > 5 and row["imagenet"] > 0.5),
    "t-mars": best(0.5, "masked"),
    "dfn-style": best(0.15, "dfn"),
}  # fmt: skip


def drawn(count: int) -> list[dict]:
    rng, rows = random.Random(0), []
    for number in range(count):
        row = {"uid": uid_of(str(number), ""), "caption_words": rng.randint(1, 4),
               "caption_characters": rng.randint(3, 8), "language": rng.choice(["en", "en", "de", None]),
               "language_score": 0.9, "size_min": rng.choice([31, 32, 200]), "size_aspect": rng.choice([1.0, 3.0, 3.1]),
               "size_bytes": rng.choice([4999, 5000]), "original_width": rng.choice([199, 200, 600, 601]),
               "original_height": rng.choice([200, 300])}  # fmt: skip
        scores = {name: rng.choice([None, 0.27, 0.28, 0.29, 0.3, 0.31, 0.35]) for name in ("clip", "masked", "dfn")}
        rows.append(row | scores | {"imagenet": float(rng.randint(0, 1))})
    return rows


def measured(url: str, recipe: str, rows: list[dict]) -> Dataset:
    folder, needs = Folder(url), dict(load(recipe).needs) or {"clip": "clip"}
    table = pa.Table.from_pylist(rows).sort_by("uid")
    table = table.cast(pa.schema([pa.field(f.name, pa.float32() if pa.types.is_null(f.type) else f.type)
                                  for f in table.schema]))  # fmt: skip
    keys = pa.array([f"{number:05d}" for number in range(len(rows))])
    about = table.select(["uid", "original_width", "original_height"]).append_column("key", keys)
    for shard in range(2):
        name, part = f"{shard:05d}", slice(shard * len(rows) // 2, (shard + 1) * len(rows) // 2)
        shards.write(folder, name, shards.tar_bytes([]), about[part], {})
        for signal, columns in (SIGNALS | {signal: (signal,) for signal in needs}).items():
            made_by = (
                vars(named.plugin("signals", named.parse(signal))()).get("made_by", {}) if signal in SIGNALS else {}
            )
            made_by = {"signal": signal, "options": {}, **made_by}
            folder.write_table(f"signals/{signal}/{name}.parquet", table.select(["uid", *columns])[part], made_by)
    specs = {name: name for name in SIGNALS} | {name: str(named.parse(spec)) for name, spec in needs.items()}
    return Dataset.open(url).after("measure", {}, "", signals=specs).save()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
def test_every_built_in_recipe_keeps_what_it_says(recipe, tmp_path):
    rows = drawn(200)
    dataset = measured(str(tmp_path / "d"), recipe, rows)
    filtered = filtering.run(dataset, recipe, engine=HERE)
    tables = [filtered.kept(shard, filtered.selection) for shard in filtered.shards]
    found = {uid for table in tables for uid in table["uid"].to_pylist()}
    assert found == KEPT[recipe](rows)
    assert 0 < len(found) < len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
def test_every_built_in_condition_says_of_many_rows_what_duckdb_says_of_each(recipe):
    table = pa.Table.from_pylist(drawn(answers.ROWS))
    language = table["language"].combine_chunks().dictionary_encode()
    table = table.set_column(table.column_names.index("language"), "language", language)
    steps = [rule for step in load(recipe).steps if isinstance(step, Where) and (rule := expression_of(step))]
    steps = [rule for rule in steps if all(path[-1].lower() in table.column_names for path in rule.columns)]
    for found, wanted in zip(answers.conditions(table, steps), predicate.conditions(table, steps), strict=True):
        assert np.array_equal(found[0], wanted[0])
        assert np.array_equal(found[1], wanted[1])


def test_a_signal_without_a_single_value_is_one_line_and_nothing_is_written(tmp_path):
    rows = [row | {"clip": None} for row in drawn(20)]
    dataset = measured(str(tmp_path / "d"), "clip-top30", rows)
    for options, message in (({"recipe": "clip-top30"}, "no row has a value of 'clip' to rank by"),
                             ({"where": ("clip > 0.2",)}, "20 pairs have no value for 'clip > 0.2'"),
                             ({"where": ("1 / (clip - clip) > 0",)}, "a division by zero has none"),
                             ({"where": ("clip > 0.2",), "on_null": "drop"}, "would keep none of 20")):  # fmt: skip
        with pytest.raises(CurateError) as caught:
            filtering.run(dataset, **options, engine=HERE)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not dataset.folder.names("selections/*/*")
        assert not dataset.folder.names("work/filter/*")
