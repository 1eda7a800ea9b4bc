"""Harvest's matching from end to end: capitals, odd texts and queries, the index that the next dataset takes."""

import os
import stat
import tracemalloc
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import index, run
from curate.harvest.index import Matching
from curate.harvest.queries import Queries
from curate.match.matcher import Matcher
from curate.match.trie import Trie


@pytest.fixture
def ask(tmp_path):
    """ask(queries, texts, name, **options) -> the dataset of candidates; texts: strings, bytes, or a pool's path."""

    def harvested(queries: list[str], texts, name="dataset", **options) -> Dataset:
        (tmp_path / "queries.txt").write_text("\n".join(queries) + "\n", encoding="utf-8")
        pool = texts
        if isinstance(texts, list):
            pool, column = str(tmp_path / "pool.parquet"), pa.array(texts, pa.binary())
            unchecked = pa.Array.from_buffers(
                pa.string(), len(column), column.buffers()
            )  # as careless writers leave it
            urls = [f"http://a.test/{number}.jpg" for number in range(len(texts))]
            pq.write_table(pa.table({"url": urls, "caption": unchecked}), pool)
        options = {"download": False, "engine": "local(workers=1)"} | options
        return run(Dataset.create(str(tmp_path / name)), [pool], str(tmp_path / "queries.txt"), **options)

    return harvested


def found(dataset: Dataset) -> dict[int, list[str]]:
    """The queries of each row of the pool that has any."""
    rows = [row for name in dataset.folder.names("candidates/*.parquet")
            for row in dataset.folder.read_table(name).to_pylist()]  # fmt: skip
    return {int(row["url"].rsplit("/", 1)[1][:-4]): row["queries"] for row in sorted(rows, key=lambda row: row["url"])}


def last(dataset: Dataset) -> dict:
    return dataset.history[-1]


def test_a_list_in_small_letters_loses_texts_in_capitals_and_says_so(ask):
    texts = [b"a hot dog", b"Hot Dog Stand", b"HOT DOG", b"cat"]
    cased, folded = ask(["hot dog", "dog"], texts), ask(["hot dog", "dog"], texts, "folded", casefold=True)
    assert found(cased) == {0: ["hot dog", "dog"]}
    assert found(folded) == {number: ["hot dog", "dog"] for number in range(3)}
    assert "--casefold finds both" in last(cased)["summary"]
    assert "--casefold" not in last(folded)["summary"]
    assert last(folded)["options"]["casefold"] is True
    for queries in (["dog", "New York"], ["東京"], ["dog", "Dog", "cat"], ["Dog"]):
        assert not Matching().loses_capitals(Queries(queries, 0, 0))


def test_case_belongs_to_what_a_dataset_was_made_with(ask):
    ask(["dog"], [b"a dog"])
    with pytest.raises(CurateError, match=r"other options \(casefold\)"):
        ask(["dog"], [b"a dog"], casefold=True)
    with pytest.raises(CurateError, match="--casefold goes with --match default"):
        ask(["dog"], [b"a dog"], "new", match="metaclip", casefold=True)


def test_queries_that_can_never_match_are_counted_and_marked(ask):
    dataset = ask(["dog", "...", "U.S.", "日本"], [b"a dog", "日本".encode()])
    assert last(dataset)["counts"]["never_matching"] == 1
    assert "1 queries can never match" in last(dataset)["summary"]
    assert dataset.folder.read_table("reports/queries.parquet")["never_matches"].to_pylist() == [
        False,
        True,
        False,
        False,
    ]
    dataset = ask(["dog", "...", "U.S.", "日本"], [b"a dog"], "metaclip", match="metaclip")
    assert dataset.folder.read_table("reports/queries.parquet")["never_matches"].to_pylist() == [
        False,
        True,
        True,
        False,
    ]


def test_queries_like_stop_words_are_named(ask):
    dataset = ask(
        ["the", "dog", *(f"w{number}" for number in range(1000))],
        [b"the dog"] * 3 + [b"the w%d" % n for n in range(97)],
    )
    assert "in more than 5% of the pairs, like stop words: the" in last(dataset)["summary"]
    assert "dog" not in last(dataset)["summary"]


@pytest.mark.parametrize("match", ["default", "metaclip"])
def test_odd_texts_cost_only_themselves(ask, match):
    texts = [b"a dog \xff\xfe", None, b"", b"\xc3", b"dog\0dog", b"a \0 dog", b"\xed\xa0\x80 dog", b"   ", b"." * 50,
             "e\u0301 dog".encode(), b"x" * 1_000_000 + b" dog", b"dog"]  # fmt: skip
    dataset = ask(["dog", "é"], texts, match=match)
    expected = {number: ["dog"] for number in (0, 4, 5, 6, 9, 10, 11)}
    if match == "default":
        expected[9] = ["dog", "é"]
    else:
        del expected[4]  # MetaCLIP's rule knows no NUL
    assert found(dataset) == expected
    assert last(dataset)["counts"]["pool"] == len(texts)


def test_a_lone_surrogate_in_json_costs_only_itself(ask, tmp_path):
    lines = [
        r'{"url": "http://a.test/0.jpg", "caption": "a \ud83d dog"}',
        r'{"url": "http://a.test/1.jpg", "caption": "dog"}',
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(lines) + "\n")
    dataset = ask(["dog"], str(tmp_path / "pool.jsonl"))
    assert found(dataset)[1] == ["dog"]
    assert set(found(dataset)) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("match", ["default", "metaclip"])
def test_a_query_of_ten_thousand_characters_matches_the_text_that_holds_it(ask, match):
    long, longer = " ".join(["word"] * 2000), "x" * 10_000
    dataset = ask(
        [long, longer, "dog"], [f"a {long} b".encode(), longer.encode(), (longer + "x").encode(), b"dog"], match=match
    )
    assert found(dataset) == {0: [long], 1: [longer], 3: ["dog"]}


def test_the_work_for_a_text_grows_with_its_length_alone(monkeypatch):
    """A text twice as long, up to a megabyte, costs twice the look-ups and twice the memory."""
    words = [f"w{number}" for number in range(40_000)]
    matcher = Matcher([*words, *(f"{a} {b}" for a, b in pairwise(words))])
    look_up, looked_up = Trie.values, []

    def counted(self, keys):
        looked_up.append(len(keys))
        return look_up(self, keys)

    monkeypatch.setattr(Trie, "values", counted)
    tracemalloc.start()
    costs = []
    for length in (250_000, 500_000, 1_000_000):
        looked_up.clear()
        tracemalloc.reset_peak()
        offsets, _ = matcher.match(pa.array([" ".join(words * 5)[:length]]))
        costs.append((sum(looked_up), tracemalloc.get_traced_memory()[1]))
    tracemalloc.stop()
    assert offsets[1] == 2 * 40_000 - 1
    for (least, small), (most, large) in pairwise(costs):
        assert 1.9 * least < most < 2.1 * least
        assert large < 2.1 * small


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "WORTH", 1)
    return tmp_path / "cache"


@pytest.fixture
def builds(monkeypatch):
    """How often an index was built."""
    counted = []

    class Counted(Matcher):
        def __init__(self, *args):
            counted.append(args)
            super().__init__(*args)

    monkeypatch.setattr(index, "Matcher", Counted)
    return counted


@pytest.mark.slow
def test_the_next_dataset_takes_over_the_index(ask, cache, builds):
    texts = [b"a Dog", b"dog", b"..."]
    first, second = ask(["dog", "..."], texts), ask(["dog", "..."], texts, "second")
    assert len(builds) == 1
    assert found(first) == found(second)
    assert last(first)["counts"] == last(second)["counts"]
    for name, options in (("other", {"casefold": True}), ("mode", {"match": "metaclip"})):
        ask(["dog", "..."], texts, name, **options)
    ask(["dog", "cat"], texts, "list")
    assert len(builds) == 4
    assert len(list(cache.iterdir())) == 4


def test_an_index_of_another_unicode_version_is_made_again(ask, cache, builds, monkeypatch, tmp_path):
    ask(["dog"], [b"dog"])
    monkeypatch.setattr("unicodedata.unidata_version", "99.0")
    ask(["dog"], [b"dog"], "second")
    assert len(builds) == 2
    monkeypatch.setattr("unicodedata.unidata_version", "98.0")
    with pytest.raises(CurateError, match="version of curate or Unicode"):
        Matcher.load(str(tmp_path / "second" / "work/harvest/index"))


@pytest.mark.parametrize("damage", [lambda data: data[:-64], lambda data: b"", lambda data: b"x" + data])
def test_a_damaged_index_in_the_cache_is_made_again(ask, cache, builds, damage):
    ask(["dog"], [b"dog"])
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert found(ask(["dog"], [b"dog"], "second")) == {0: ["dog"]}
    assert len(builds) == 2
    assert file.read_bytes() == whole


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_a_cache_that_cannot_be_written_is_done_without(ask, cache, builds, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "cache", "", tmp_path / "shut" / "cache"):
        (tmp_path / "shut").mkdir(exist_ok=True)
        (tmp_path / "shut").chmod(stat.S_IRUSR)
        monkeypatch.setenv("CURATE_CACHE", str(place))
        assert found(ask(["dog"], [b"dog"], f"dataset-{len(builds)}")) == {0: ["dog"]}
    assert len(builds) == 3


def test_the_cache_keeps_the_indexes_used_last(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "KEPT", 2)
    for number in range(4):
        listed = Queries([f"dog {number}"], 0, 0)
        index.write(str(tmp_path / "index"), listed, Matching())
        for age, file in enumerate(sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)):
            os.utime(file, (10**9 - age, 10**9 - age))
    kept = {f"index-{Matching().made_by(Queries([f'dog {number}'], 0, 0))}" for number in (2, 3)}
    assert {file.name for file in cache.iterdir()} == kept


def test_short_lists_are_not_kept(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "cache"))
    ask(["dog"], [b"dog"])
    assert not (tmp_path / "cache").exists()
