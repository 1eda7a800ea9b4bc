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
from curate.measure import measure
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
    run.write_json("run.json", {"summary": "train-clip: ViT-Test on 60 pairs", "options": {}})
    run.write_bytes("log.jsonl", b"".join(b'{"step": %d, "loss": %d}\n' % (s, 9 - s) for s in range(1, 6)))
    _, numbers, _ = report.run(dataset, str(tmp_path / "page.html"), [run.url])
    assert numbers["runs"][0]["curve"] == [[1, 8], [2, 7], [3, 6], [4, 5], [5, 4]]
    page = Page((tmp_path / "page.html").read_text())
    assert "train-clip: ViT-Test on 60 pairs" in page.text
    assert any("from 8 to 4" in chart.get("aria-label", "") for chart in page.all("svg"))


def share(value: float) -> dict:
    return {"value": value, "interval95": [value - 0.02, value + 0.03]}


def test_every_task_of_an_evaluation_is_shown_and_other_files_are_named(dataset, tmp_path):
    """Whatever `curate eval` was asked for, alone: a benchmark without labels, and robustness, have no zero-shot."""
    run = Folder(str(tmp_path / "run-1"))
    run.write_json("run.json", {"summary": "train-clip", "options": {}})
    shot = {"classes": 4, "chance": 0.25, "images": 9, "top1": share(0.5)}
    recalls = {"recall@1": share(0.125), "recall@10": share(0.6), "chance": {"recall@10": 0.4, "recall@1": 0.01}}
    tasks = {
        "zero_shot": shot,
        "multilabel": {"chance": 0.125, "mean_average_precision": share(0.375)},
        "retrieval": {"image_to_text": recalls, "text_to_image": recalls},
        "linear_probe": shot | {"top1": share(0.75)},
        "few_shot": {"classes": 4, "shots": {"1": {"value": 0.3}, "16": share(0.55)}},
        "typographic": {"before": share(0.8), "after": share(0.2), "follow_the_word": share(0.7)},
        "robustness": {"base_set": "imagenet", "base": share(0.9), "shift": share(0.85), "gap": share(0.05),
                       "effective_robustness": share(-0.015)},
    }  # fmt: skip
    for name, found in tasks.items():
        run.write_json(f"eval/{name}.json", {"weights": "x", name: found})
    run.write_json("eval/notes.json", ["mine"])
    _, numbers, _ = report.run(dataset, str(tmp_path / "page.html"), [run.url])
    assert set(numbers["runs"][0]["evaluations"]) == set(tasks)
    told = Page((tmp_path / "page.html").read_text()).text
    for words in ("zero-shot, 4 classes 50.0% 48.0 to 53.0% chance 25.0%", "several labels 37.5%", "linear probe, 4",
                  "image to text, recall@1 12.5% 10.5 to 15.5% chance 1.0% image to text, recall@10 60.0%",
                  "1-shot, 4 classes 30.0% chance 25.0%", "16-shot", "taken for that word 70.0%",
                  "imagenet, shared classes 90.0%", "gap to the base set +5.0 points +3.0 to +8.0",
                  "effective robustness -1.5 points", "No task of curate eval in eval/notes.json"):  # fmt: skip
        assert words in told


def compared(folder: Folder, *differences: float) -> str:
    """What eval-data writes of two selections and a control; every interval reaches 5 points to both sides."""
    pairs = [("clean", "random, as many as clean"), ("clean", "all")]
    judged = [{"first": a, "second": b, "difference": each, "interval": [each - 0.05, each + 0.05],
               "better": a if each > 0.05 else None} for (a, b), each in zip(pairs, differences)]  # fmt: skip
    winner = "clean" if all(each["better"] for each in judged) else None
    verdict = {"measure": "pets: zero-shot top-1", "comparisons": judged, "winner": winner, "corrected_for": 2}
    arms = [{"name": name, "url": "pool", "pairs": 40, "seen": 2.5, "control_of": of, "selections": {},
             "reached": [{"pets: zero-shot top-1": mean + step} for step in (-0.01, 0, 0.01)]}
            for name, of, mean in (("clean", None, 0.5), (pairs[0][1], "clean", 0.3), ("all", None, 0.4))]  # fmt: skip
    options = {"model": "ViT-Ti-64", "steps": 20, "batch_size": 16, "seeds": [0, 1, 2]}
    folder.write_json(
        "eval-data.json", {"options": options, "benchmarks": ["pets"], "arms": arms, "verdict": [verdict]}
    )
    return folder.url


def test_a_comparison_of_data_is_shown_with_its_spread_and_its_verdict(dataset, tmp_path):
    at = [compared(Folder(str(tmp_path / "one")), 0.2, 0.1), compared(Folder(str(tmp_path / "two")), 0.2, 0.01)]
    _, numbers, _ = report.run(dataset, str(tmp_path / "page.html"), eval_data=at)
    written = json.loads((tmp_path / "page.json").read_text())["comparisons"]
    assert written == json.loads(json.dumps(numbers["comparisons"]))
    reached = written[0]["arms"][0]["measures"]["pets: zero-shot top-1"]
    assert (reached["mean"], reached["sd"]) == (pytest.approx(0.5), pytest.approx(0.01))
    assert reached["seeds"] == [0.49, 0.5, 0.51]
    told = Page((tmp_path / "page.html").read_text()).text
    for words in ("ViT-Ti-64, 20 steps of 16 pairs for every selection, 3 seeds", "clean 40 2.5 50.0 ± 1.0",
                  "clean wins: clean is better than random, as many as clean; clean is better than all.",
                  "clean less all +10.0 points +5.0 to +15.0 clean is better"):  # fmt: skip
        assert words in told


def test_nobody_wins_inside_the_spread(dataset, tmp_path):
    _, numbers, _ = report.run(dataset, str(tmp_path / "page.html"),
                               eval_data=[compared(Folder(str(tmp_path / "even")), 0.2, 0.01)])  # fmt: skip
    told = Page((tmp_path / "page.html").read_text()).text
    assert numbers["comparisons"][0]["verdict"][0]["sentence"] == (
        "Nobody wins over all others: clean is better than random, as many as clean; "
        "between clean and all nobody is better: the difference lies within the spread."
    )
    assert "clean less all +1.0 points -4.0 to +6.0 within the spread" in told
    assert "clean wins" not in told


def test_a_folder_without_a_comparison_is_named(dataset, tmp_path):
    with pytest.raises(CurateError, match=r"holds no eval-data\.json; --eval-data wants"):
        report.run(dataset, eval_data=[str(tmp_path)])
    (tmp_path / "eval-data.json").write_text('{"arms": 3}')
    with pytest.raises(CurateError, match="is not what eval-data writes"):
        report.run(dataset, eval_data=[str(tmp_path)])
    with pytest.raises(CurateError, match="--eval-data has no place in a --diff"):
        report.run(dataset, eval_data=[str(tmp_path)], diff="all")


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


def test_a_tar_that_is_gone_is_named_and_the_page_shows_the_others(dataset):
    dataset.save().folder.remove("shards/00001.tar")
    _, numbers, failures = report.run(Dataset.open(dataset.url))
    assert numbers["rows"] == 40
    assert failures == {"shards/00001": f"{dataset.url}/shards/00001.tar is missing; put it back"}


def test_a_run_whose_last_line_was_cut_is_shown_up_to_there(dataset, tmp_path):
    (tmp_path / "run.json").write_text('{"options": {}}')
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    _, numbers, _ = report.run(dataset, runs=[str(tmp_path)])
    assert numbers["runs"][0]["curve"] == [[1, 2.5]]
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(CurateError, match=r"run\.json is not what train-clip writes"):
        report.run(dataset, runs=[str(tmp_path)])


def test_a_measured_file_that_is_gone_is_named_with_the_command_that_brings_it_back(dataset):
    measured = measure(dataset, ["size"], ONE)
    measured.folder.remove("signals/size/00001.parquet")
    _, numbers, failures = report.run(measured)
    assert numbers["rows"] == 40
    assert failures["shards/00001"].endswith(f"is missing; run: curate measure {dataset.url} 'size'")
