"""Harvest: from pools and queries to candidates and shards, the same however the work is cut or interrupted."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from conftest import DOWNLOADERS, needs_img2dataset
from harvest_web import COLOURS, SHAPES, picture, serving
from PIL import Image

from curate import shuffle
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import run
from curate.harvest.choose import matches
from curate.harvest.choose.cap import mix, ranks
from curate.shard import Shard, uid_of

HERE = "local(workers=1)"
QUERIES = [*COLOURS[:4], *SHAPES, "number", "zebra"]


def rows_of(count: int) -> list[tuple[str, str]]:
    """Pairs of which some match nothing, some come twice, some share a url, one has no web url."""
    rows = [(f"http://a.test/{i % 90}.jpg", f"a {COLOURS[i % 6]} {SHAPES[i % 3]} {i % 97}") for i in range(count)]
    return [*rows, ("http://a.test/none.jpg", "nothing here"), ("data:image/png,x", "a red circle")]


def write_pool(path: Path, rows: list[tuple[str, str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"url": [row[0] for row in rows], "caption": [row[1] for row in rows]}), path)
    return str(path)


@pytest.fixture
def ask(tmp_path):
    """ask(pools, name, **options) -> the dataset, candidates only unless told otherwise."""
    (tmp_path / "queries.txt").write_text("\n".join([*QUERIES, "", "circle"]) + "\n")

    def harvested(pools, name="dataset", **options) -> Dataset:
        url = name if "://" in name else str(tmp_path / name)
        options = {"cap": 7, "download": False, "engine": HERE} | options
        return run(Dataset.create(url), pools, str(tmp_path / "queries.txt"), **options)

    return harvested


def candidates_of(dataset: Dataset) -> list[dict]:
    names = dataset.folder.names("candidates/*.parquet")
    return [row for name in names for row in dataset.folder.read_table(name).to_pylist()]


def contents(dataset: Dataset, *patterns: str) -> dict[str, str]:
    """Hash of every file that must not depend on how it was made."""
    names = [name for pattern in patterns for name in dataset.folder.names(pattern)]
    assert names
    return {name: hashlib.sha256(dataset.folder.read_bytes(name)).hexdigest() for name in names}


TABLES = ("candidates/*.parquet", "reports/*.parquet")
ALL = (*TABLES, "shards/*.parquet", "shards/*.tar")


@pytest.mark.parametrize("bucket_rows", [1_000_000, 40])
def test_each_query_draws_its_first_pairs_in_the_order_of_the_seeded_hash(ask, tmp_path, monkeypatch, bucket_rows):
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", bucket_rows)
    rows = rows_of(600)
    dataset = ask([write_pool(tmp_path / "pool.parquet", rows)], seed=3)
    having = {}
    for url, text in set(rows):
        if url.startswith("http") and (found := [query for query in QUERIES if query in text.split()]):
            having[uid_of(url, text)] = (url, text, found)

    def order(uid):
        halves = (np.array([int(uid[at : at + 16], 16)], np.uint64) for at in (0, 16))
        return int(ranks(*halves, 3)[0]), uid

    drawn = {(uid, query) for query in QUERIES
             for uid in sorted((u for u in having if query in having[u][2]), key=order)[:7]}  # fmt: skip
    found = candidates_of(dataset)
    assert [row["uid"] for row in found] == sorted(having)
    assert len(dataset.folder.names("candidates/*.parquet")) == (1 if bucket_rows > 1000 else 16)
    for row in found:
        assert (row["url"], row["text"], row["queries"]) == having[row["uid"]]
        assert set(row["selected_by"]) == {query for query in QUERIES if (row["uid"], query) in drawn}
    counts = dataset.history[-1]["counts"]
    assert Counter(query for _, query in drawn).most_common(1)[0][1] == 7
    assert counts["pool"] == 602
    assert counts["unusable"] == 1
    assert counts["draws"] == len(drawn)
    assert counts["selected"] == len({uid for uid, _ in drawn})
    assert (counts["queries"], counts["queries_blank"], counts["queries_repeated"]) == (9, 1, 1)
    assert counts["queries_matched"] == 7
    assert "602 pairs read" in dataset.history[-1]["summary"]


@pytest.mark.slow
def test_metaclips_balance_tosses_for_each_pair_and_query(ask, tmp_path):
    rows = [(f"http://a.test/{i}.jpg", f"a {COLOURS[i % 6]} {SHAPES[i % 3]} {i}") for i in range(6000)]
    dataset = ask([write_pool(tmp_path / "pool.parquet", rows)], balance="metaclip", cap=200, seed=5)
    found = candidates_of(dataset)
    salt = {query: int(mix(np.array([xxhash.xxh3_64_intdigest(query.encode())], np.uint64))[0]) for query in QUERIES}
    counts = Counter(query for row in found for query in row["queries"])
    for row in found:
        rank = ranks(*(np.array([int(row["uid"][at : at + 16], 16)], np.uint64) for at in (0, 16)), 5)
        assert row["selected_by"] == [
            query for query in row["queries"]
            if int(mix(rank ^ np.uint64(salt[query]))[0]) / 2**64 < 200 / counts[query]
        ]  # fmt: skip
    draws = Counter(query for row in found for query in row["selected_by"])
    assert counts["red"] == 1000
    assert all(abs(draws[query] - 200) < 5 * 200**0.5 for query in counts)
    assert "under cap 200 (balance metaclip)" in dataset.history[-1]["summary"]
    assert dataset.history[-1]["counts"]["draws"] == draws.total()


def test_a_tail_share_finds_the_cap_and_says_so(ask, tmp_path):
    rows = rows_of(600)
    dataset = ask([write_pool(tmp_path / "pool.parquet", rows)], cap=None, tail_share=0.4)
    counts = dataset.history[-1]["counts"]
    pairs = Counter(query for row in candidates_of(dataset) for query in row["queries"])
    within = {cap: sum(count for count in pairs.values() if count <= cap) for cap in range(max(pairs.values()) + 1)}
    assert counts["cap"] == min(cap for cap, held in within.items() if held >= 0.4 * pairs.total())
    assert f"under cap {counts['cap']:,}, where the 0.4 tail ends" in dataset.history[-1]["summary"]
    same = ask([str(tmp_path / "pool.parquet")], "same", cap=counts["cap"])
    assert [row["selected_by"] for row in candidates_of(same)] == [row["selected_by"] for row in candidates_of(dataset)]


def test_the_history_tells_head_and_tail_and_what_never_matched(ask, tmp_path):
    dataset = ask([write_pool(tmp_path / "pool.parquet", rows_of(600))], cap=150)
    counts, found = dataset.history[-1]["counts"], candidates_of(dataset)
    pairs = Counter(query for row in found for query in row["queries"])
    draws = Counter(query for row in found for query in row["selected_by"])
    head = [query for query in pairs if pairs[query] > 150]
    assert 0 < len(head) < len(pairs)
    assert counts["matches"] == pairs.total()
    assert counts["queries_capped"] == len(head)
    assert counts["head_share"] == pytest.approx(sum(pairs[query] for query in head) / pairs.total(), abs=1e-6)
    assert counts["head_share"] + counts["tail_share"] == pytest.approx(1, abs=1e-6)
    assert counts["matched_share"] == pytest.approx(counts["matched"] / 602, abs=1e-6)
    assert counts["largest"][0]["pairs"] == max(pairs.values())
    assert {row["query"]: row["pairs"] for row in counts["largest"]} == pairs
    table = dataset.folder.read_table("reports/queries.parquet").to_pylist()
    assert {row["query"]: (row["pairs"], row["draws"]) for row in table} == {q: (pairs[q], draws[q]) for q in QUERIES}
    assert counts["queries_unmatched"] == sum(row["pairs"] == 0 for row in table) == 2


def test_how_a_pool_is_cut_ordered_or_repeated_changes_no_byte(ask, tmp_path, monkeypatch):
    rows = rows_of(600)
    whole = contents(ask([write_pool(tmp_path / "one.parquet", rows)], "whole"), *TABLES)
    for i, part in enumerate([rows[400:], rows[:150], rows[150:400]]):
        write_pool(tmp_path / f"three/{i}.parquet", part[::-1])
    monkeypatch.setattr(matches, "RUN_ROWS", 50)
    assert contents(ask([str(tmp_path / "three")], "cut"), *TABLES) == whole
    again = [str(tmp_path / "three/1.parquet"), str(tmp_path / "three"), write_pool(tmp_path / "x.parquet", rows[:99])]
    assert contents(ask(again, "again"), "reports/*.parquet") == {k: v for k, v in whole.items() if "reports" in k}


def test_a_smaller_cap_draws_a_part_of_a_larger_one_and_another_seed_something_else(ask, tmp_path):
    pool = [write_pool(tmp_path / "pool.parquet", rows_of(600))]

    def drawn(name, **options):
        return {
            (row["uid"], query) for row in candidates_of(ask(pool, name, **options)) for query in row["selected_by"]
        }

    assert drawn("ten", cap=10) < drawn("twenty", cap=20)
    assert drawn("ten", cap=10) != drawn("other", cap=10, seed=1)


def test_a_second_run_continues_and_other_options_are_refused(ask, tmp_path):
    pool = [write_pool(tmp_path / "pool.parquet", rows_of(100))]
    before = contents(ask(pool), *TABLES)
    assert contents(ask(pool), *TABLES) == before
    other = write_pool(tmp_path / "other.parquet", rows_of(50))
    others = [({"cap": 8}, "cap"), ({"seed": 1}, "seed"), ({"match": "metaclip"}, "match")]
    others += [({"balance": "metaclip"}, "balance"), ({"cap": None, "tail_share": 0.1}, "cap, tail_share")]
    for options, changed in others:
        with pytest.raises(CurateError, match=rf"harvested with other options \({changed}\); choose another --out"):
            ask(pool, **options)
    with pytest.raises(CurateError, match=r"other options \(pools\)"):
        ask([other])
    (tmp_path / "queries.txt").write_text("dog\n")
    with pytest.raises(CurateError, match=r"other options \(queries\)"):
        ask(pool)
    assert contents(Dataset.open(str(tmp_path / "dataset")), *TABLES) == before


def test_the_work_folder_may_be_deleted(ask, tmp_path):
    pool = [write_pool(tmp_path / "pool.parquet", rows_of(100))]
    dataset = ask(pool)
    before = contents(dataset, *TABLES)
    dataset.folder.remove("work")
    assert contents(ask(pool), *TABLES) == before
    with pytest.raises(CurateError, match="other options"):
        ask(pool, cap=9)


def test_a_damaged_file_of_a_pool_is_reported_and_its_good_rows_are_kept(ask, tmp_path):
    rows = rows_of(100)
    good = write_pool(tmp_path / "pool/good.parquet", rows[:50])
    (tmp_path / "pool/bad.parquet").write_bytes(b"PAR1 no parquet")
    (tmp_path / "lines.csv").write_text("url,caption\nhttp://a.test/1,a red dog\nhttp://a.test/2\n")
    dataset = ask([str(tmp_path / "pool"), str(tmp_path / "lines.csv")])
    assert {Path(item).name for item in dataset.failures} == {"bad.parquet", "lines.csv"}
    assert dataset.history[-1]["counts"]["pool"] == 51
    assert any(row["url"] == "http://a.test/1" for row in candidates_of(dataset))
    assert ask([str(tmp_path / "pool"), str(tmp_path / "lines.csv")]).failures == dataset.failures
    assert good


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"url": [], "caption": []}, "the pool is empty"),
        ({"link": ["http://a"], "caption": ["red"]}, "has no column 'url'; its columns: link, caption"),
        ({"url": ["x.jpg"], "caption": ["red"]}, "none of the 1 rows of the pool has an image or an http"),
        ({"url": ["http://a/x.jpg"], "caption": ["Rot"]}, "none of 1 texts holds any of 9 queries"),
    ],
)
def test_a_pool_that_cannot_be_harvested_is_one_clear_line(ask, tmp_path, columns, reason):
    pq.write_table(pa.table({name: pa.array(v, pa.string()) for name, v in columns.items()}), tmp_path / "p.parquet")
    with pytest.raises(CurateError, match=reason):
        ask([str(tmp_path / "p.parquet")])


def test_a_target_that_cannot_be_written_or_is_something_else_is_refused(ask, tmp_path, dataset):
    pool = [write_pool(tmp_path / "pool.parquet", rows_of(20))]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CurateError, match="cannot write"):
        ask(pool, "file/dataset")
    dataset.after("measure", {}, "").save()
    before = contents(dataset, "shards/*")
    with pytest.raises(CurateError, match="was not made by harvest"):
        ask(pool, dataset.url)
    assert contents(dataset, "shards/*") == before


def test_options_that_cannot_work_are_refused_before_anything_is_read(ask):
    for cap in (0, 2**63):
        with pytest.raises(CurateError, match=f"--cap {cap}: at least 1, at most 1,099,511,627,776"):
            ask(["missing.parquet"], cap=cap)
    for share in (0, 1.5):
        with pytest.raises(CurateError, match=f"--tail-share {share}: above 0, at most 1"):
            ask(["missing.parquet"], cap=None, tail_share=share)
    with pytest.raises(CurateError, match="--cap or --tail-share, not both"):
        ask(["missing.parquet"], cap=7, tail_share=0.06)
    with pytest.raises(CurateError, match="--balance fair: choose from cap, metaclip"):
        ask(["missing.parquet"], balance="fair")
    with pytest.raises(CurateError, match="--shard-size 0"):
        ask(["missing.parquet"], shard_size=0)


def test_candidates_can_lie_in_memory(ask, tmp_path):
    pool = [write_pool(tmp_path / "pool.parquet", rows_of(100))]
    assert contents(ask(pool, "memory://harvested"), *TABLES) == contents(ask(pool), *TABLES)


@pytest.mark.slow
def test_workers_change_no_byte(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 100)
    for i in range(4):
        write_pool(tmp_path / f"pool/{i}.parquet", rows_of(600)[i::4])
    one = ask([str(tmp_path / "pool")], "one", cap=20)
    two = ask([str(tmp_path / "pool")], "two", cap=20, engine="local(workers=2)")
    assert contents(one, *TABLES) == contents(two, *TABLES)


# downloading


@pytest.fixture(scope="module")
def web():
    with serving() as web:
        yield web


@pytest.fixture
def pool(web, tmp_path):
    """60 good pairs, one url with three texts, and one of each trouble."""
    pairs = [web.pair(index) for index in range(60)]
    pairs += [(f"{web.url}/7.jpg", "a red circle again"), (f"{web.url}/7.jpg", "red, once more")]
    pairs += [(f"{web.url}/{name}", f"a red {name}") for name in ("missing.jpg", "html.png", "cut.jpg", "optout?noai")]
    web.hits.clear()
    return [write_pool(tmp_path / "web.parquet", pairs)]


def fetched(ask, pool, name="dataset", **options):
    return ask(pool, name, **{"cap": 100, "download": True, "allow_private": True, "shard_size": 25} | options)


@pytest.mark.slow
@pytest.mark.parametrize("downloader", DOWNLOADERS)
def test_shards_hold_every_image_that_came_and_name_what_did_not(ask, pool, web, downloader):
    dataset = fetched(ask, pool, downloader=downloader)
    counts = dataset.history[-1]["counts"]
    assert counts["downloaded"] == 62
    assert counts["failed"] == {"http 404": 1, "not an image": 1, "not decodable": 1, "opted out: noai": 1}
    assert "62 images (4 failed: 1 http 404" in dataset.history[-1]["summary"]
    assert web.hits["/7.jpg"] == 1
    tables = [dataset.folder.read_table(f"{shard}.parquet") for shard in dataset.shards]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == len({row["key"] for row in rows}) == 66
    assert all(row["uid"] == uid_of(row["url"], row["caption"]) for row in rows)
    assert {(row["status"], row["error_message"]) for row in rows if "missing" in row["url"]} == {
        ("failed_to_download", "http 404")
    }
    for shard, table in zip(dataset.shards, tables, strict=True):
        assert table["key"].to_pylist() == sorted(table["key"].to_pylist())
        stats = dataset.folder.read_json(f"{shard}_stats.json")
        assert stats["count"] == len(table)
        assert stats["successes"] == len(shard.rows()) == stats["status_dict"]["success"]
        _check_samples(shard)


def _check_samples(shard: Shard) -> None:
    with shard.images() as found:
        rows = {row["key"]: row for row in shard.rows().to_pylist()}
        assert sorted(found) == sorted(rows)
        for key, encoded in found.items():
            number = int(rows[key]["url"].rsplit("/", 1)[1].removesuffix(".jpg"))
            image = Image.open(io.BytesIO(encoded))
            assert image.size == (80, 80) == (rows[key]["width"], rows[key]["original_height"])
            assert rows[key]["sha256"] == hashlib.sha256(picture(number)).hexdigest()
            assert np.abs(np.asarray(image, int) - np.asarray(Image.open(io.BytesIO(picture(number))))).mean() < 2


@pytest.mark.slow
@needs_img2dataset
def test_a_url_with_many_texts_lies_in_one_shard_and_a_large_image_is_made_small(ask, pool):
    dataset = fetched(ask, pool, shard_size=5, downloader="img2dataset(image_size=40)")
    rows = [row for shard in dataset.shards for row in shard.rows().to_pylist()]
    assert len({row["key"][:5] for row in rows if row["url"].endswith("/7.jpg")}) == 1
    assert {(row["width"], row["height"], row["original_width"]) for row in rows} == {(40, 40, 80)}


@pytest.mark.slow
def test_a_finished_shard_is_not_downloaded_again_and_other_options_are_refused(ask, pool, web):
    dataset = fetched(ask, pool)
    before, hits = contents(dataset, *ALL), sum(web.hits.values())
    again = fetched(ask, pool, downloader="native(threads=4, timeout=3)")
    assert contents(again, *ALL) == before
    assert again.history[-1]["counts"] == dataset.history[-1]["counts"]
    assert sum(web.hits.values()) == hits
    with pytest.raises(CurateError, match=r"made with other options \(image_size\)"):
        fetched(ask, pool, downloader="native(image_size=40)")
    with pytest.raises(CurateError, match="--shard-size"):
        fetched(ask, pool, shard_size=60)
    dataset.folder.remove("shards/00001_stats.json")
    assert contents(fetched(ask, pool), *ALL) == before


@pytest.mark.slow
def test_downloads_are_the_same_for_any_workers_and_in_memory(ask, pool):
    one = fetched(ask, pool, "one")
    assert contents(fetched(ask, pool, "two", engine="local(workers=2)"), *ALL) == contents(one, *ALL)
    assert contents(fetched(ask, pool, "memory://shards-too"), *ALL) == contents(one, *ALL)


@pytest.mark.slow
def test_without_any_image_the_command_fails_and_a_rerun_can_succeed(ask, pool):
    with pytest.raises(CurateError, match=r"none of 66 images could be downloaded, 66 of them: blocked address.*"
                                          r"--allow-private"):  # fmt: skip
        fetched(ask, pool, allow_private=False)
    assert fetched(ask, pool).history[-1]["counts"]["downloaded"] == 62


@pytest.mark.slow
def test_without_a_network_the_command_says_so_and_keeps_the_candidates(ask, tmp_path):
    nowhere = write_pool(tmp_path / "nowhere.parquet", [("http://no-such-host.invalid/1.jpg", "a red dog")])
    with pytest.raises(CurateError, match=r"dns .*is there a network"):
        fetched(ask, [nowhere])
    assert candidates_of(Dataset.open(str(tmp_path / "dataset")))


def command(out: Path, tmp_path: Path, pool: list[str]) -> list[str]:
    return ["harvest", *pool, "--queries", str(tmp_path / "queries.txt"), "--out",
            str(out), "--cap", "100", "--allow-private", "--shard-size", "8", "--engine", "local(workers=2)", "-q",
            "--json"]  # fmt: skip


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_half_and_its_rerun_the_same_bytes(ask, start, pool, tmp_path):
    wanted = contents(fetched(ask, pool, "calm", shard_size=8), *ALL)
    out = tmp_path / "stormy"
    for sign in ("work/harvest/matched/*.json", "work/harvest/plan.json", "shards/*.tar", "shards/*_stats.json"):
        start(*command(out, tmp_path, pool), killed_once=f"{out}/{sign}").killed()
    code, said, errors = start(*command(out, tmp_path, pool)).ended()
    assert code == 0, errors
    assert json.loads(said)["downloaded"] == 62
    dataset = Dataset.open(str(out))
    assert contents(dataset, *ALL) == wanted
    assert not [path for path in out.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_the_command_prints_one_line_and_exits_1_for_bad_input(start, tmp_path):
    (tmp_path / "queries.txt").write_text("red\n")
    code, _, errors = start(*command(tmp_path / "out", tmp_path, [str(tmp_path / "no.parquet")])).ended()
    assert code == 1
    assert errors.splitlines() == [f"curate: no such pool: {tmp_path}/no.parquet"]
