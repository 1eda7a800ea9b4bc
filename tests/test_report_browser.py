"""The report in headless Chromium: the slider counts what a plain count finds, and axe finds nothing amiss."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import pair, write_shard

from curate import dedup, filter, report
from curate.compare import result, verdict
from curate.compare.arms import Arm
from curate.dataset import Dataset
from curate.files import Folder
from curate.report import rows as report_rows

playwright = pytest.importorskip("playwright.sync_api", reason="the extra 'dev' is not installed: no playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]
HERE = "local(workers=0)"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=0)
        yield chromium
        chromium.close()


def curated(folder, **columns) -> Dataset:
    """120 pairs with 20 copies, deduplicated, then filtered by words, a score and a top share."""
    rng = np.random.default_rng(5)
    pairs = [pair(index) for index in range(120)]
    pairs += [{**pair(index), "key": f"9{index:05d}", "url": f"http://copy.test/{index}"} for index in range(20)]
    for index, row in enumerate(pairs):
        row["score"] = None if index % 17 == 0 else round(float(rng.normal(0.28, 0.05)), 4)
        row["lang"] = "en" if index % 4 else "de"
        row["queries"] = ["red"] if index % 2 else ["circle", "square"]
    for row in pairs:
        row.update({name: value(row) for name, value in columns.items()})
    pairs[7]["caption"] = "<script>document.title = 'attacked'</script> in a caption"
    for start in range(0, len(pairs), 50):
        write_shard(Folder(str(folder)), f"{start // 50:05d}", pairs[start : start + 50])
    dataset = dedup.run(Dataset.open(str(folder)), ("exact",), engine=HERE)
    return filter.run(dataset, where=("lang = 'en'", "score >= 0.25"), top="80%", by="caption_characters",
                      signals=("size", "caption"), on_null="drop", engine=HERE)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return curated(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def written(dataset, tmp_path_factory) -> Path:
    """The page of the dataset."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    report.run(dataset, str(path))
    return path


@pytest.fixture
def opened(browser, written):
    """opened(scheme, width) -> the page, loaded; it fails the test where anything is asked of the network."""
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def open_page(scheme: str = "light", width: int = 1300):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(0)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(written.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert errors == []


def told(page) -> tuple[str, int, int]:
    """What the slider says: its threshold, the pairs kept, the pairs that the other steps keep."""
    said = page.text_content("#try-told")
    found = re.match(r"(.+?): ([\d,]+) kept of ([\d,]+)", said)
    assert found, said
    return found[1], int(found[2].replace(",", "")), int(found[3].replace(",", ""))


def survivors(dataset: Dataset, without: str) -> list[dict]:
    """The rows that dedup kept and all steps of the recipe but one keep, by reading the tables again."""
    found = []
    steps = next(step for step in reversed(dataset.history) if step["stage"] == "filter")["counts"]["funnel"]
    top = next(step["threshold"] for step in steps if "threshold" in step)
    parent = dataset.manifest["selections"][dataset.selection]["parent"]
    for shard in dataset.shards:
        kept = set(dataset.kept(shard, parent)["uid"].to_pylist())
        for row in dataset.joined(shard).to_pylist():
            passes = {"lang": row["lang"] == "en", "score": row["score"] is not None and row["score"] >= 0.25,
                      "top": row["caption_characters"] >= top}  # fmt: skip
            if row["uid"] in kept and all(passed for step, passed in passes.items() if step != without):
                found.append(row)
    return found


def test_the_slider_counts_by_key_and_by_mouse_what_a_plain_count_finds(opened, dataset):
    page = opened()
    assert "attacked" not in page.title()
    page.select_option("#try-column", label="score")
    rows = survivors(dataset, "score")
    kept = dataset.manifest["selections"][dataset.selection]["kept"]
    assert told(page) == ("score ≥ 0.25", kept, len(rows))

    page.focus("#try-slider")
    for key, presses in (("ArrowRight", 7), ("ArrowLeft", 12)):
        for _ in range(presses):
            page.keyboard.press(key)
        threshold, shown, _ = told(page)
        number = float(threshold.removeprefix("score ≥ "))
        assert shown == sum(row["score"] is not None and row["score"] >= number for row in rows)
        assert shown != kept
    page.keyboard.press("Home")
    assert told(page) == ("no threshold", len(rows), len(rows))  # the missing ones too

    box = page.locator("#try-slider").bounding_box()
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2)
    threshold, shown, _ = told(page)
    number = float(threshold.removeprefix("score ≥ "))
    assert shown == sum(row["score"] is not None and row["score"] >= number for row in rows)
    page.click("#try-reset")
    assert told(page)[1] == kept


def test_steps_can_be_left_out_and_the_other_side_kept(opened, dataset):
    page = opened()
    page.select_option("#try-column", label="score")
    page.get_by_label("lang = 'en'").uncheck()
    rows = survivors(dataset, "score")
    assert told(page)[1] == len(survivors(dataset, "lang"))
    page.get_by_label("lang = 'en'").check()
    page.get_by_label("below").check()
    assert told(page)[:2] == ("score < 0.25", sum(row["score"] is not None and row["score"] < 0.25 for row in rows))


def test_a_column_that_no_step_cuts_starts_at_what_the_recipe_keeps(opened, dataset):
    page = opened()
    page.select_option("#try-column", label="size_bytes")
    kept = dataset.manifest["selections"][dataset.selection]["kept"]
    assert told(page) == ("no threshold", kept, kept)
    page.focus("#try-slider")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    number = float(told(page)[0].removeprefix("size_bytes ≥ ").replace(",", ""))
    values = [row["size_bytes"] for row in survivors(dataset, "") if row["size_bytes"] is not None]
    assert told(page)[1] == sum(value >= number for value in values) < kept


def test_the_pictures_next_to_the_threshold_follow_it(opened):
    page = opened()
    page.select_option("#try-column", label="score")
    seen = []
    for _ in range(3):
        number = float(told(page)[0].removeprefix("score ≥ "))
        for side, inside in (("kept", True), ("dropped", False)):
            values = [float(words) for words in page.locator(f"#try-{side} figcaption b").all_text_contents()]
            assert values
            assert values == sorted(values)
            assert all((value >= number) == inside for value in values)
            assert page.evaluate(f"[...document.querySelectorAll('#try-{side} img')].every(i => i.naturalWidth > 0)")
        seen.append(page.locator("#try-kept figure").evaluate_all("all => all.map(f => f.dataset.uid)"))
        for _ in range(6):
            page.locator("#try-slider").press("ArrowRight")
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 400)])
def test_axe_finds_nothing_and_nothing_overflows(opened, written, scheme, width, tmp_path):
    page = opened(scheme, width)
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:100]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert light > 200 if scheme == "light" else light < 60
    picture = tmp_path / "page.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    assert written.stat().st_size < 5_000_000


def test_every_section_is_reached_by_keyboard_and_the_focus_is_seen(opened):
    page = opened()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.id"))
        assert page.evaluate("""(() => { const e = document.activeElement, s = getComputedStyle(e);
            return e === document.body || e.id === 'try-slider' || s.outlineStyle !== 'none' })()""")
    sections = page.evaluate("[...document.querySelectorAll('main section')].map(s => '#' + s.id)")
    assert {*sections, "#main", "try-slider", "try-column", "try-reset"} <= reached


def test_unsafe_pictures_are_blurred_until_asked_for(browser, tmp_path):
    dataset = curated(tmp_path / "dataset", nsfw=lambda row: 0.9 if "circle" in row["queries"] else 0.05)
    report.run(dataset, str(tmp_path / "page.html"))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    unsafe = {uid for uid, nsfw in zip(*columns(dataset, "uid", "nsfw")) if nsfw >= 0.2}
    found = page.evaluate("""[...document.querySelectorAll('main figure')].filter(f => f.querySelector('img')).map(f =>
        [f.dataset.uid, getComputedStyle(f.querySelector('img')).filter.includes('blur')])""")
    assert {uid for uid, blurred in found if blurred} == unsafe & {uid for uid, _ in found} != set()
    assert all(blurred == (uid in unsafe) for uid, blurred in found)
    page.locator(".veil").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".veil").first.get_attribute("aria-pressed") == "true"
    page.click("#unveil")
    assert page.locator(".veil[aria-pressed=false]").count() == 0
    assert axe.Axe().run(page).response["violations"] == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 400)])
def test_axe_finds_nothing_on_the_page_of_eval_data(browser, scheme, width, tmp_path):
    arms = [Arm("best <b>half</b>", "d", {}, 2361), Arm("random, as many", "d", {}, 2361, "best <b>half</b>"),
            Arm("all", "d", {}, 4722)]  # fmt: skip
    tasks = [f"task {number}: zero-shot top-1" for number in range(3)]
    reached = {arm.name: [dict.fromkeys(tasks, 0.3 + 0.1 * place + 0.02 * seed) for seed in range(3)]
               for place, arm in enumerate(arms)}  # fmt: skip
    options = {"model": "ViT-Ti-64", "steps": 118, "batch_size": 128, "seeds": [0, 1, 2]}
    told = [{"name": arm.name, "pairs": arm.pairs, "seen": 6.4, "reached": reached[arm.name]} for arm in arms]
    result.report(Folder(str(tmp_path)), {"options": options, "arms": told, "verdict": verdict.judge(reached, arms)})
    page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
    page.goto((tmp_path / result.PAGE).as_uri())
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:100]) for one in found] == []
    assert page.locator("tr", has_text="best <b>half</b> less random").count() == len(tasks)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def columns(dataset: Dataset, *names: str) -> list[list]:
    table = report_rows.read(dataset, dataset.selection).table
    return [table[name].to_pylist() for name in names]


def test_the_page_of_two_selections_is_accessible_and_shows_both(browser, dataset, tmp_path):
    report.run(dataset, str(tmp_path / "diff.html"), diff="all")
    page = browser.new_context(color_scheme="dark", viewport={"width": 1300, "height": 900}).new_page()
    page.goto((tmp_path / "diff.html").as_uri())
    assert [one["id"] for one in axe.Axe().run(page).response["violations"]] == []
    only = (
        sum(len(shard.rows()) for shard in dataset.shards) - dataset.manifest["selections"][dataset.selection]["kept"]
    )
    assert page.locator(".bars li", has_text="only all").locator(".count").text_content() == f"{only:,}"
    assert page.evaluate("[...document.querySelectorAll('#samples img')].every(i => i.naturalWidth > 0)")


def test_without_its_script_the_page_still_tells(browser, written):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(written.as_uri())
    assert page.locator("noscript p, #threshold p").first.is_visible()
    assert not page.locator("#explorer").is_visible()
    assert page.locator("#signals svg").count() >= 3


def test_on_paper_the_page_is_light_whole_and_without_its_slider(opened, tmp_path):
    page = opened("dark")
    folded = page.locator("details:not([open])").count()
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins
    styles = page.evaluate("""[...document.querySelectorAll('main section')].map(each => {
        const style = getComputedStyle(each); return [each.id, style.display, style.breakBefore] })""")
    assert {name for name, display, _ in styles if display == "none"} == {"threshold"}
    assert {where for name, _, where in styles[1:]} == {"page"}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert max(map(int, re.findall(r"\d+", ink)[:3])) < 60
    assert page.locator("nav").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    cut_off = """[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && e.clientHeight
        && getComputedStyle(e).overflowY !== 'visible' && !e.matches('.bar')
        && (e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1)
        ).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(cut_off) == []
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert (page.locator("details:not([open])").count(), folded > 0) == (0, True)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
    page.pdf(path=tmp_path / "page.pdf", format="A4", print_background=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert pages >= len(styles) - 1
