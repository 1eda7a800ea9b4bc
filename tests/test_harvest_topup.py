"""Top-up: dead links are made up for, exactly as the plain loop over queries would."""

import io
import json
import math
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DOWNLOADERS
from drawn_downloader import IMAGE, alive
from harvest_web import serving
from PIL import Image

from curate import shuffle, tar, work
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import run
from curate.harvest.choose.cap import ranks
from curate.harvest.download import groups
from curate.harvest.download.depth import ENOUGH, MOST
from curate.harvest.summary import FewImages
from curate.shard import uid_of

WORDS = ["ant", "bee", "cat", "dog", "elk", "fox"]
DOWNLOADER = Path(__file__).parent / "drawn_downloader.py"
TABLES = ("candidates/**", "reports/*.parquet", "shards/*.parquet", "shards/*.tar", "shards/sizes.json",
          "selections/**")  # fmt: skip


def rows_of(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Pairs with one or more words; some words are in nearly all, some in hardly any, some urls have several texts."""
    rows = []
    for number in range(count):
        words = [word for place, word in enumerate(WORDS) if rng.random() < 0.9 / (place + 1) ** 1.5]
        rows.append((f"http://a.test/{rng.randrange(count)}", f"{' '.join(words) or 'nothing'} {number}"))
    return rows


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(rows, name, dead=0.4, **options) -> the dataset; the urls that were asked for are in NAME.log."""
    monkeypatch.setattr(work, "QUIET", True)
    (tmp_path / "queries.txt").write_text("\n".join([*WORDS, "gnu"]) + "\n")

    def harvested(rows, name="dataset", dead=0.4, image_size=256, **options) -> Dataset:
        pool, pools = tmp_path / "pool.parquet", options.pop("pools", [])
        pq.write_table(pa.table({"url": [url for url, _ in rows], "caption": [text for _, text in rows]}), pool)
        log = tmp_path / f"{name.rsplit('/', 1)[-1]}.log"
        options = {"shard_size": 9, "min_success": 0, "engine": "local(workers=1)", "seed": 5,
                   "downloader": f"{DOWNLOADER}(log={log}, dead={dead}, image_size={image_size})",
                   **options}  # fmt: skip
        url = name if "://" in name else str(tmp_path / name)
        return run(Dataset.create(url), [str(pool), *pools], str(tmp_path / "queries.txt"), **options)

    return harvested


class Plain:
    """The same by a loop over the queries: what is offered round by round, and what each query counts."""

    def __init__(self, rows, seed, cap, dead):
        self.cap, self.dead = cap, dead
        matched = {uid_of(url, text): (url, text.split()[:-1]) for url, text in rows if "nothing" not in text}
        self.url = {uid: url for uid, (url, _) in matched.items()}
        uids = sorted(matched, key=lambda uid: self.rank(uid, seed))
        self.order = {word: [uid for uid in uids if word in matched[uid][1]] for word in WORDS}
        self.offered: list[set[str]] = []
        self.depth: dict[str, int] = {}

    @staticmethod
    def rank(uid, seed):
        halves = (np.array([int(uid[at : at + 16], 16)], np.uint64) for at in (0, 16))
        return int(ranks(*halves, seed)[0]), int(uid[16:], 16)

    def came(self, word):
        return [uid for uid in self.order[word][: self.depth[word]] if alive(self.url[uid], self.dead)]

    def draw(self, depth):
        self.depth = depth
        wanted = {uid for word in WORDS for uid in self.order[word][: depth[word]]}
        self.offered.append(wanted - set().union(*self.offered))

    def top_up(self) -> bool:
        draws = {word: min(self.depth[word], len(self.order[word])) for word in WORDS}
        images = {word: len(self.came(word)) for word in WORDS}
        depth = dict(self.depth)
        for word in WORDS:
            missing = min(len(self.order[word]), self.cap) - images[word]
            if missing <= 0:
                continue
            own = draws[word] >= ENOUGH and images[word] > 0
            tries, came = (draws[word], images[word]) if own else (sum(draws.values()), sum(images.values()))
            more = min(-(-missing * tries // came), MOST * missing) if came else MOST * missing
            depth[word] = max(depth[word], min(depth[word] + more, len(self.order[word])))
        if depth == self.depth:
            return False
        self.draw(depth)
        return True

    @property
    def counted(self):
        return {word: self.came(word)[: self.cap] for word in WORDS}


def shards_of(dataset):
    """(uid, success) of every row, by shard."""
    tables = {shard.name: dataset.folder.read_table(shard.parquet) for shard in dataset.shards}
    return {name: list(zip(t["uid"].to_pylist(), (s == "success" for s in t["status"].to_pylist()), strict=True))
            for name, t in tables.items()}  # fmt: skip


def selected_of(dataset):
    name = dataset.selection
    tables = [dataset.folder.read_table(file) for file in dataset.folder.names(f"selections/{name}/*.parquet")]
    return {row["uid"]: row for table in tables for row in table.to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1, 2, *(pytest.param(case, marks=pytest.mark.slow) for case in range(3, 24))])
def test_top_up_offers_and_counts_what_the_plain_loop_does(ask, monkeypatch, case):
    rng = random.Random(case)
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", rng.choice([30, 10_000]))
    monkeypatch.setattr(groups, "SHARDS", rng.choice([2, 32]))
    rows = list(dict.fromkeys(rows_of(rng, rng.randrange(40, 250))))
    cap, dead = rng.choice([1, 3, 8, 25, 60]), rng.choice([0.0, 0.3, 0.6, 0.9])
    oversample, top_up = rng.choice([1.0, 1.5, 2.2]), rng.choice([0, 1, 3, 12])
    if oversample == 1.0 and not top_up:
        top_up = 2
    plain = Plain(rows, 5, cap, dead)
    plain.draw(dict.fromkeys(WORDS, math.ceil(cap * Fraction(str(oversample)))))
    while len(plain.offered) <= top_up and any(map(plain.came, WORDS)) and plain.top_up():
        pass

    if not any(map(plain.came, WORDS)):
        with pytest.raises(FewImages, match="none of"):
            ask(rows, cap=cap, dead=dead, oversample=oversample, top_up=top_up)
        return
    dataset = ask(rows, cap=cap, dead=dead, oversample=oversample, top_up=top_up)
    found = [pair for pairs in shards_of(dataset).values() for pair in pairs]
    assert max(Counter(uid for uid, _ in found).values()) == 1
    assert {uid for uid, _ in found} == set().union(*plain.offered)
    assert max(Counter(Path(f"{dataset.url}.log").read_text().split()).values()) == 1
    counts = dataset.history[-1]["counts"]
    assert [entry["pairs"] for entry in counts["rounds"]] == [len(new) for new in plain.offered[1:]]
    selected = selected_of(dataset)
    assert set(selected) == {uid for uid, success in found if success}
    for uid, row in selected.items():
        by = [word for word in WORDS if uid in plain.counted[word]]
        assert (row["weight"], row["reason"]) == ((1, None) if by else (0, "cap"))
        assert sorted(row["counted_by"]) == by
    full = [word for word in WORDS if len(plain.counted[word]) == min(len(plain.order[word]), cap)]
    done = [word for word in WORDS if word not in full and plain.depth[word] >= len(plain.order[word])]
    matched = [word for word in WORDS if plain.order[word]]
    assert (counts["queries_full"], counts["queries_exhausted"]) == (len({*full} & {*matched}), len(done))
    assert counts["queries_short"] == len(matched) - len({*full} & {*matched}) - len(done)
    assert counts["kept"] == sum(row["weight"] for row in selected.values())


@pytest.mark.slow
def test_with_rounds_enough_every_query_gets_what_is_alive(ask):
    rows = list(dict.fromkeys(rows_of(random.Random(1), 300)))
    dataset = ask(rows, cap=20, dead=0.7, top_up=30)
    plain = Plain(rows, 5, 20, 0.7)
    counted = Counter(word for row in selected_of(dataset).values() for word in row["counted_by"])
    for word in WORDS:
        living = sum(alive(plain.url[uid], 0.7) for uid in plain.order[word])
        assert counted[word] == min(20, living)
    assert dataset.history[-1]["counts"]["queries_short"] == 0
    assert len(dataset.history[-1]["counts"]["rounds"]) < 10  # it stops when nothing is missing or nothing is left
    assert "still short" in dataset.history[-1]["summary"]


def contents(dataset) -> dict[str, bytes]:
    return {name: dataset.folder.read_bytes(name) for pattern in TABLES for name in dataset.folder.names(pattern)}


@pytest.mark.slow
def test_a_rerun_does_nothing_more_rounds_go_on_and_the_work_folder_may_be_deleted(ask, tmp_path):
    rows = rows_of(random.Random(2), 200)
    whole = contents(ask(rows, "whole", cap=15, dead=0.6, top_up=4))
    asked = (tmp_path / "whole.log").read_text()
    for top_up in (0, 4, 2):
        assert contents(ask(rows, "whole", cap=15, dead=0.6, top_up=top_up)) == whole
    assert (tmp_path / "whole.log").read_text() == asked

    for top_up in (0, 1, 2, 4):
        steps = ask(rows, "steps", cap=15, dead=0.6, top_up=top_up)
        steps.folder.remove("work")
    assert {name: data for name, data in contents(steps).items() if name in whole} == whole
    assert len(steps.manifest["selections"]) >= 2  # each round that took place has its own
    assert sorted((tmp_path / "steps.log").read_text().split()) == sorted(asked.split())
    sizes = steps.folder.read_json("shards/sizes.json")
    assert sizes == {f"{shard.name}.tar": len(shard.rows()) for shard in steps.shards}


@pytest.mark.slow
def test_what_dedup_made_of_it_stays_the_current_selection_until_there_is_more(ask):
    rows = rows_of(random.Random(3), 200)
    dataset = ask(rows, cap=15, dead=0.6, top_up=1)
    first = dataset.selection
    dataset.after("dedup", {}, "", **dataset.with_selection("dedup-1", "dedup", first)).save()
    assert ask(rows, cap=15, dead=0.6, top_up=1).selection == "dedup-1"
    more = ask(rows, cap=15, dead=0.6, top_up=2).selection
    assert more not in ("dedup-1", first)


@pytest.mark.slow
def test_rounds_are_the_same_in_memory_and_with_any_workers(ask, monkeypatch):
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 40)
    rows = rows_of(random.Random(4), 150)
    here = contents(ask(rows, "here", cap=12, top_up=2, oversample=1.3))
    assert contents(ask(rows, "memory://rounds", cap=12, top_up=2, oversample=1.3)) == here
    assert contents(ask(rows, "there", cap=12, top_up=2, oversample=1.3, engine="local(workers=2)")) == here


def test_what_failed_for_a_passing_reason_is_offered_again_once(ask, tmp_path):
    rows = [(f"http://{'flaky' if number % 3 else 'a'}.test/{number}", f"ant {number}") for number in range(60)]
    options = {"dead": 0.2, "cap": 100, "shard_size": 30}
    first = ask(rows, **options)
    counts = first.history[-1]["counts"]
    passing = counts["failed"]["timeout"]
    assert passing > 20
    before = contents(first)
    del before["shards/sizes.json"]
    again = ask(rows, retry_failed=True, **options)
    after = again.history[-1]["counts"]
    assert after["failed"] == {"http 404": counts["failed"]["http 404"]}
    assert after["downloaded"] == counts["downloaded"] + passing
    assert after["rounds"] == [{"kind": "retry", "pairs": passing, "images": passing}]
    assert {name: data for name, data in contents(again).items() if name in before} == before
    asked = (tmp_path / "dataset.log").read_text()
    again.folder.remove("work")
    settled = ask(rows, retry_failed=True, **options)  # nothing is left to retry
    assert settled.history[-1]["counts"] == after
    assert (tmp_path / "dataset.log").read_text() == asked


@pytest.mark.slow
def test_images_in_the_pools_are_topped_up_beside_links(ask, tmp_path):
    rng = random.Random(8)
    images = [{"bytes": IMAGE if rng.random() < 0.7 else b"no image"} for _ in range(150)]
    urls, texts = zip(*rows_of(rng, 150), strict=True)
    pq.write_table(pa.table({"url": urls, "caption": texts, "image": images}), tmp_path / "stored.parquet")
    pools = [f"parquet(path={tmp_path}/stored.parquet, image=image)"]
    links = rows_of(rng, 150)
    dataset = ask(links, cap=30, dead=0.5, top_up=5, pools=pools)
    counts = dataset.history[-1]["counts"]
    assert counts["rounds"]
    assert set(counts["failed"]) == {"http 404", "not an image"}
    uids = [uid for pairs in shards_of(dataset).values() for uid, _ in pairs]
    assert len(uids) == len(set(uids))
    assert check_samples(dataset) >= counts["kept"]
    before = contents(dataset)
    dataset.folder.remove("work")
    assert contents(ask(links, cap=30, dead=0.5, top_up=5, pools=pools)) == before


@pytest.mark.slow
def test_new_shards_end_a_selection_that_knows_nothing_of_them(ask):
    rows = [(f"http://{'flaky' if number % 3 else 'a'}.test/{number}", f"ant {number}") for number in range(40)]
    first = ask(rows, dead=0.2, cap=100, shard_size=20)
    first.after("dedup", {}, "", **first.with_selection("dedup-1", "dedup", None)).save()
    assert ask(rows, dead=0.2, cap=100, shard_size=20).selection == "dedup-1"
    assert ask(rows, dead=0.2, cap=100, shard_size=20, retry_failed=True).selection is None


def check_samples(dataset) -> int:
    """Every pair with an image has its members in the tar, under its own key; how many there are."""
    pairs = 0
    for shard in dataset.shards:
        rows = shard.rows().to_pylist()
        assert dataset.folder.read_json(f"{shard}_stats.json")["successes"] == len(rows)
        with shard.folder.local(shard.tar) as path, tar.opened(path) as view:
            samples = {sample.key: sample.members for sample in tar.samples(view)}
            assert sorted(samples) == sorted(row["key"] for row in rows)
            for row in rows:
                members = [samples[row["key"]][kind] for kind in ("json", "txt", "jpg")]
                about, text, image = (bytes(view[m.data : m.data + m.size]) for m in members)
                said = json.loads(about)
                assert (said["key"], said["url"], text.decode()) == (row["key"], row["url"], row["caption"])
                assert Image.open(io.BytesIO(image)).size == (row["width"], row["height"])
        pairs += len(rows)
    return pairs


@pytest.mark.slow
def test_a_url_of_an_earlier_round_is_not_asked_for_again_its_image_is_copied(ask):
    rows = [(f"http://a.test/{number % 40}", f"ant {number}") for number in range(200)]
    dataset = ask(rows, dead=0.5, cap=60, top_up=9)
    assert dataset.history[-1]["counts"]["rounds"]
    asked = Path(f"{dataset.url}.log").read_text().split()
    assert len(asked) == len(set(asked)) <= 40
    assert check_samples(dataset) > 40


@pytest.mark.slow
@pytest.mark.parametrize("downloader", DOWNLOADERS)
def test_rounds_of_real_downloaders_ask_for_each_url_once(ask, downloader):
    with serving() as web:
        rows = [(f"{web.url}/{f'{number % 30}.jpg' if number % 5 else f'missing-{number % 9}.jpg'}", f"ant {number}")
                for number in range(150)]  # fmt: skip
        dataset = ask(rows, cap=70, top_up=9, downloader=downloader, allow_private=True)
        assert dataset.history[-1]["counts"]["rounds"]
        assert max(web.hits.values()) == 1
    assert check_samples(dataset) >= dataset.history[-1]["counts"]["kept"] == 70


@pytest.mark.slow
def test_retry_and_top_up_go_together(ask):
    rows = [(f"http://{'flaky' if number % 2 else 'a'}.test/{number}", f"ant {number}") for number in range(90)]
    ask(rows, dead=0.3, cap=40, top_up=1)
    both = ask(rows, dead=0.3, cap=40, top_up=9, retry_failed=True)
    kinds = [found["kind"] for found in both.history[-1]["counts"]["rounds"]]
    assert kinds[:2] == ["top-up", "retry"]
    assert both.history[-1]["counts"]["kept"] == 40
    uids = [uid for pairs in shards_of(both).values() for uid, success in pairs if success]
    assert len(uids) == len(set(uids))


def test_too_few_images_is_an_error_that_keeps_what_came_and_draws_no_further(ask):
    rows = rows_of(random.Random(5), 120)
    with pytest.raises(
        FewImages, match=r"only \d+ of 1\d\d pairs gave an image, fewer than --min-success 50%: \d+ http 404"
    ):
        ask(rows, cap=100, dead=0.9, top_up=3, min_success=0.5)
    dataset = Dataset.open(ask(rows, cap=100, dead=0.9, top_up=0, min_success=0.01).url)
    assert dataset.history[-2]["counts"]["rounds"] == []
    assert dataset.history[-2]["counts"]["downloaded"] == dataset.history[-1]["counts"]["downloaded"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"oversample": 0.5}, "--oversample 0.5: between 1 and 100"), ({"top_up": -1}, "--top-up -1"),
     ({"min_success": 2}, "--min-success 2: a share"), ({"balance": "metaclip", "top_up": 1}, "--balance metaclip")],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(ask, options, message):
    with pytest.raises(CurateError, match=message):
        ask(rows_of(random.Random(6), 20), **options)


@pytest.mark.slow
def test_other_options_into_the_same_rounds_are_refused(ask):
    rows = rows_of(random.Random(7), 150)
    before = contents(ask(rows, cap=12, top_up=2))
    with pytest.raises(CurateError, match=r"other options \(oversample\)"):
        ask(rows, cap=12, top_up=2, oversample=1.5)
    with pytest.raises(CurateError, match="another --shard-size"):
        ask(rows, cap=12, top_up=2, shard_size=30)
    with pytest.raises(CurateError, match=r"other options \(image_size\)"):
        ask(rows, cap=12, top_up=2, image_size=64)
    without_rounds = ask(rows, "plain", cap=12)
    with pytest.raises(CurateError, match=r"other options \(the pairs in it, shard-size\)"):
        ask(rows, "plain", cap=12, shard_size=4)
    assert without_rounds.selection is None
    assert contents(Dataset.open(ask(rows, cap=12, top_up=2).url)) == before
