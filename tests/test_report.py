"""The report: the numbers it tells, the pictures it shows, and that words from the web stay words."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources

import pyarrow as pa
import pytest
from conftest import COLOURS, SHAPES, draw, encoded, pair, write_shard
from PIL import Image

from curate import dedup, filter, report
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.report import charts, distributions

ATTACK = "<script>alert(1)</script> \"x\" onerror='y' & red car"  # more words than the others: it is sampled
ONE = "local(workers=1)"


class Page(HTMLParser):
    """What a browser would find: tags with attributes, and the text between them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def copy_of(index: int) -> dict:
    """The picture of a pair again, larger, at another address."""
    image = draw(COLOURS[index % 6], SHAPES[index // 6 % 3], index).resize((80, 80))
    return {**pair(index), "key": f"9{index:05d}", "url": f"http://copy.test/{index}.jpg", "image": encoded(image)}


@pytest.fixture(scope="module")
def curated(tmp_path_factory) -> Dataset:
    """40 pairs and 6 copies, deduplicated and filtered by two rules; one caption is an attack."""
    pairs = [pair(index) for index in range(40)] + [copy_of(index) for index in range(10, 16)]
    pairs[3]["caption"] = ATTACK
    pairs[4]["caption"] = "short"
    folder = Folder(str(tmp_path_factory.mktemp("dataset")))
    for start in range(0, len(pairs), 20):
        write_shard(folder, f"{start // 20:05d}", pairs[start : start + 20])
    dataset = dedup.run(Dataset.open(folder.url), ("exact", "phash"), engine=ONE)
    return filter.run(dataset, where=("caption_words > 2", "size_bytes > 900"), signals=("caption", "size"), engine=ONE)


@pytest.fixture(scope="module")
def written(curated) -> tuple[Page, dict]:
    report.run(curated)
    folder = curated.folder.within("reports")
    return Page(folder.read_bytes("report.html").decode()), folder.read_json("report.json")


def test_the_page_needs_nothing_from_outside(written):
    page, _ = written
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_words_from_the_web_stay_words(written):
    page, _ = written
    assert [script.get("type", "script") for script in page.all("script")] == ["application/json", "script"]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert ATTACK in page.text


def test_the_funnel_tells_what_each_selection_kept(curated, written):
    _, numbers = written
    counts = [step["count"] for step in numbers["funnel"]]
    kept = [step["counts"]["kept"] for step in curated.history if "kept" in step["counts"]]
    assert counts == [46, *kept]
    assert counts[0] > counts[1] > counts[2]


def test_histograms_count_every_row_once(written):
    _, numbers = written
    column = next(column for column in numbers["columns"] if column["column"] == "size_bytes")
    assert sum(column["kept"]) + sum(column["dropped"]) == 46
    assert sum(column["kept"]) == numbers["kept"]
    assert column["cuts"] == [{"sign": ">", "value": 900.0, "step": column["cuts"][0]["step"]}]


def test_duplicate_groups_show_the_keeper_first(written):
    page, numbers = written
    assert numbers["selections"][0]["reasons"] == {"phash": 6}
    assert len([attributes for attributes in page.all("div") if attributes.get("class") == "group"]) == 6


def test_thumbnails_are_small_pictures(written):
    page, _ = written
    assert len(page.all("img")) > 40
    assert all(image["alt"] for image in page.all("img"))
    _, _, data = page.all("img")[0]["src"].partition("base64,")
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 128


def test_the_same_dataset_gives_the_same_page(curated, written):
    first = curated.folder.read_bytes("reports/report.html")
    report.run(Dataset.open(curated.url))
    assert curated.folder.read_bytes("reports/report.html") == first


def test_headings_name_the_sections_in_order(written):
    page, _ = written
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [link["href"][1:] for link in page.all("a")]
    assert set(links) <= ids
    assert len(page.all("h1")) == 1


def test_a_damaged_shard_is_reported_and_the_others_are_shown(curated, tmp_path):
    damaged = Dataset.open(shutil.copytree(curated.url, tmp_path / "damaged").as_posix())
    damaged.folder.remove("signals/size/00001.parquet")
    _, numbers, failures = report.run(damaged)
    assert list(failures) == ["shards/00001"]
    assert numbers["rows"] == 26


def test_a_dataset_without_any_stage_has_a_page_too(dataset, tmp_path):
    summary, numbers, failures = report.run(dataset, str(tmp_path / "page.html"))
    assert "page.html" in summary
    assert numbers["funnel"] == [{"stage": "dataset", "label": "pairs with an image", "count": 60}]
    assert json.loads((tmp_path / "page.json").read_text())["rows"] == 60
    assert failures == {}


def test_a_run_shows_its_loss(dataset, tmp_path):
    run = Folder(str(tmp_path / "run-1"))
    run.write_json("run.json", {"summary": "train-clip: ViT-Test on 60 pairs"})
    run.write_bytes("log.jsonl", b"".join(b'{"step": %d, "loss": %d}\n' % (s, 9 - s) for s in range(1, 6)))
    _, numbers, _ = report.run(dataset, str(tmp_path / "page.html"), [run.url])
    assert numbers["runs"][0]["curve"] == [[1, 8], [2, 7], [3, 6], [4, 5], [5, 4]]
    page = Page((tmp_path / "page.html").read_text())
    assert "train-clip: ViT-Test on 60 pairs" in page.text
    assert any("from 8 to 4" in chart.get("aria-label", "") for chart in page.all("svg"))


def test_a_folder_that_is_no_run_is_named(dataset, tmp_path):
    with pytest.raises(CurateError, match=r"no run\.json"):
        report.run(dataset, runs=[str(tmp_path)])


def test_the_long_tail_shows_head_and_tail_and_what_never_matched(dataset):
    found = {"query": ["circle", "red", "unicorn"], "pairs": [3, 4, 0], "draws": [3, 3, 0]}
    dataset.folder.write_table("reports/queries.parquet", pa.table(found))
    counts = {"pool": 9, "matched": 4, "selected": 3, "downloaded": 3, "failed": {"HTTP Error 404": 2}}
    _, numbers, _ = report.run(dataset.after("harvest", {"cap": 3}, "harvest: 3 pairs", counts).save())
    tail = numbers["harvest"]["long_tail"]
    assert (tail["queries"], tail["unmatched"], tail["over_cap"], tail["matches"], tail["drawn"]) == (2, 1, 1, 7, 6)
    assert tail["largest"] == [
        {"query": "red", "matched": 4, "drawn": 3}, {"query": "circle", "matched": 3, "drawn": 3}
    ]  # fmt: skip
    assert tail["points"] == [[1, 4, 3], [2, 3, 3]]
    page = Page(dataset.folder.read_bytes("reports/report.html").decode())
    assert "1 queries over the cap, holds 57.1% of the matches; the tail, 1 queries, 42.9%; 1 have no pair" in page.text
    assert [step["count"] for step in numbers["funnel"]] == [9, 4, 3, 3]
    assert "HTTP Error 404" in Page(dataset.folder.read_bytes("reports/report.html").decode()).text


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "expected"),
    [(0, 10, False, [0, 2, 4, 6, 8, 10]), (0, 0.31, False, [0, 0.1, 0.2, 0.3]), (1, 2000, True, [1, 10, 100, 1000])],
)
def test_axes_have_round_numbers(low, high, logarithmic, expected):
    assert charts.ticks(low, high, logarithmic) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.28, "0.28"), (1500, "1500"), (20_000, "20k"), (1_250_000, "1.25M"), (0.0004, "4e-4")],
)
def test_numbers_on_axes_are_short(value, expected):
    assert charts.number(value) == expected


def test_cuts_are_read_from_rules():
    rules = [
        {"step": "score", "rule": "clip > 0.28 and size_min >= 64"},
        {"step": "best", "rule": "top 30% by clip of pool", "threshold": 0.31},
        {"step": "other", "rule": "language = 'en'"},
    ]
    cuts = distributions.cuts(rules)
    assert [cut["value"] for cut in cuts["clip"]] == [0.28, 0.31]
    assert cuts["size_min"] == [{"sign": ">=", "value": 64.0, "step": "score"}]
    assert set(cuts) == {"clip", "size_min"}


def test_the_page_reads_well_in_dark_and_light():
    style = resources.files("curate.report").joinpath("page.css").read_text()
    themes = re.findall(r"--card: (#\w+); --ink: (#\w+); --soft: (#\w+)", style)
    assert len(themes) == 2
    for card, ink, soft in themes:
        assert contrast(card, ink) >= 7
        assert contrast(card, soft) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
