"""The report in a real browser: sections, pictures and charts are there, and the script runs."""

import re
import shutil
import subprocess

import pytest
from conftest import pair
from PIL import Image

from curate import dedup, filter, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]


def browse(tmp_path, *arguments: str) -> str:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, profile, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.fixture
def page(make_dataset, tmp_path) -> str:
    pairs = [pair(index) for index in range(40)]
    pairs[0]["caption"] = "<script>document.title = 'attacked'</script> in a caption"
    pairs += [{**pair(index), "key": f"9{index:05d}", "url": f"http://copy.test/{index}"} for index in range(8)]
    dataset = dedup.run(make_dataset(pairs), ("exact",), engine="local(workers=1)")
    dataset = filter.run(
        dataset, where=("size_aspect > 1 or caption_words > 5",), signals=("size", "caption"), engine="local(workers=1)"
    )
    report.run(dataset, str(tmp_path / "page.html"))
    return (tmp_path / "page.html").as_uri()


def test_the_browser_shows_every_section(page, tmp_path):
    shown = browse(tmp_path, "--dump-dom", page)
    sections = re.findall(r'<section id="(\w+)"', shown)
    assert sections == ["funnel", "signals", "filter", "samples", "reasons", "duplicates", "selections", "steps"]
    assert "<title>attacked" not in shown
    assert re.search(r"<output>≥ [\d.]+: 48 of 48 \(100\.0%\)</output>", shown)


def test_the_page_has_colour_in_light_and_dark(page, tmp_path):
    grounds = []
    for number, scheme in enumerate(((), ("--force-dark-mode", "--blink-settings=preferredColorScheme=0"))):
        browse(tmp_path, *scheme, "--window-size=1400,3000", f"--screenshot={tmp_path / f'{number}.png'}", page)
        image = Image.open(tmp_path / f"{number}.png").convert("RGB")
        assert len(image.getcolors(1 << 24)) > 300
        grounds.append(sum(image.getpixel((2, 2))) / 3)
    assert grounds[0] > 200 > 60 > grounds[1]
