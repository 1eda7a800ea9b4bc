"""The query list from Wikipedia dumps: small ones, in the real shape."""

import bz2
import gzip
import json
from collections import Counter
from itertools import pairwise

import pytest
from click.testing import CliRunner

from curate.cli import main
from curate.files import Folder
from curate.queries import merge
from curate.queries.count import CountText, page_views
from curate.queries.dumps import Dumps
from curate.queries.wikipedia import articles, parts
from curate.queries.wikitext import plain

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces><namespace key="0" /><namespace key="1" case="first-letter">Talk</namespace></namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"
CATALAN = "'''Catalan''' is [[Romance languages|a language]] of the town of [[New York City|New York]].\n"


def page(title: str, text: str, ns: int = 0, redirect: str = "") -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    moved = f'\n    <redirect title="{redirect}" />' if redirect else ""
    return f"""  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{len(title)}</id>{moved}
    <revision>
      <id>9</id>
      <contributor><username>Someone</username><id>7</id></contributor>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" xml:space="preserve">{text}</text>
      <sha1>abc</sha1>
    </revision>
  </page>
"""


PAGES = [
    page("Mercury (planet)", "The red fox saw New York. A red fox!\n" * 30),
    page(
        "Fox",
        "{{Infobox|name={{lc:FOX}}}}The '''red fox''' lives in [[New York City|New York]].<ref>Smith 2001</ref>\n" * 40,
    ),
    page("Talk:Fox", "talk talk talk " * 50, ns=1),
    page("Foxes", "#REDIRECT [[Fox]]", redirect="Fox"),
    page("Café", "the café of the town and the end of the world\n" * 60),
]


def multistream(pages: list[str], per_stream: int = 1) -> bytes:
    """A dump as Wikimedia writes it: the head, streams of whole pages, the tail, each a bzip2 stream of its own."""
    groups = ["".join(pages[start : start + per_stream]) for start in range(0, len(pages), per_stream)]
    return b"".join(bz2.compress(text.encode()) for text in [HEAD, *groups, TAIL])


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "enwiki-20250101-pages-articles-multistream.xml.bz2"
    path.write_bytes(multistream(PAGES))
    return str(path)


@pytest.fixture
def views(tmp_path):
    path = tmp_path / "pageviews-20250101-000000.gz"
    lines = ["de Fox 900 0", "en Fox 50 0", "en.m Fox 40 0", "en Special:Search 9000 0", "en Mercury_(planet) 30 0",
             "en Mercury_(element) 50 0", "en.m Caf%C3%A9 80 0", "en Foxes 500 0", "en.d fox 700 0"]  # fmt: skip
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return str(path)


def build(out, *options: str):
    fixed = ["queries", "build", "--out", str(out), "-q", "--engine", "local(workers=1)"]
    result = CliRunner().invoke(main, [*fixed, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(out) -> dict[str, tuple[str, int]]:
    lines = out.read_text().splitlines()[1:]
    return {query: (origin, int(count)) for query, origin, count, _ in (line.split("\t") for line in lines)}


def test_the_text_of_an_article_is_what_a_reader_sees():
    source = (
        "{{Infobox|a={{b|{{c}}}}}}\n'''Fox''' &amp; [[dog|hound]]s<ref name=x>No</ref><ref name=x/><!-- hidden -->.\n"
        "== Looks ==\n* red [[File:Fox.jpg|thumb|A [[red]] fox]] fur\n{| class=x\n! head\n|-\n| cell || cell\n|}\n"
        "[[Category:Foxes]] See [https://example.test the site] or https://example.test/bare"
    )
    assert plain(source).split() == ["Fox", "&", "hounds", ".", "Looks", "red", "fur", "See", "the", "site", "or"]


def test_articles_are_namespace_0_without_redirects(dump):
    (only,) = parts((dump,))
    assert [title for title, _ in articles(only)] == ["Mercury (planet)", "Fox", "Café"]


@pytest.mark.parametrize("size", [50, 200, 333, 1 << 20])
@pytest.mark.parametrize("per_stream", [1, 2])
def test_wherever_a_multistream_dump_is_cut_each_article_is_read_once(tmp_path, size, per_stream):
    pages = [page(f"Title {number}", f"text {number} " * number) for number in range(40)]
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(multistream(pages, per_stream))
    titles = [title for part in parts((str(path),), size) for title, _ in articles(part)]
    assert titles == [f"Title {number}" for number in range(40)]


def test_a_dump_of_one_stream_is_all_in_its_first_part(tmp_path):
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress((HEAD + "".join(PAGES) + TAIL).encode()))
    first, *others = parts((str(path),), 100)
    assert len(list(articles(first))) == 3
    assert others
    assert [title for part in others for title, _ in articles(part)] == []


def test_words_of_a_dump_are_counted_exactly(dump, tmp_path):
    dumps = Dumps(Folder(str(tmp_path / "work")), "en", (dump,), (), "local(workers=1)")
    words, total = dumps.words(1)
    assert words["red"] == 30 * 2 + 40
    assert words["York"] == 70
    assert words["café"] == 60
    assert "talk" not in words
    assert "Infobox" not in words
    assert total == 30 * 9 + 40 * 7 + 60 * 11
    pairs = {(first, second): count for first, second, count in dumps.pairs(60)}
    assert pairs[("red", "fox")] == 100
    assert pairs[("New", "York")] == 70
    assert ("York", "A") not in pairs  # a full stop stands between


@pytest.mark.parametrize(("size", "block"), [(1 << 20, 5_000_000), (150, 100), (60, 7)])
def test_counts_do_not_depend_on_parts_and_blocks(dump, tmp_path, size, block, monkeypatch):
    monkeypatch.setattr("curate.queries.count.BLOCK", block)
    scratch = Folder(str(tmp_path / "work"))
    for part in parts((dump,), size):
        CountText(scratch)(part)
    texts = ["The red fox saw New York", "A red fox"] * 30 + ["The red fox lives in New York"] * 40
    lines = [text.split() for text in [*texts, *["the café of the town and the end of the world"] * 60]]
    words = Counter(word for line in lines for word in line)
    assert merge.words(scratch, 1) == (dict(words), words.total())
    pairs = Counter(pair for line in lines for pair in pairwise(line))
    assert sorted(merge.pairs(scratch, 1)) == sorted((*pair, count) for pair, count in pairs.items())


def test_clips_recipe_from_a_dump_and_page_views(dump, views, tmp_path):
    out = tmp_path / "list.tsv"
    sources = ("wikipedia_bigrams(least=60, pmi=2)", "wikipedia_titles(least=70)", "wikipedia_words(least=60)")
    named = [part for source in sources for part in ("--source", source)]
    result = build(out, "--wikipedia", dump, "--pageviews", views, "--size", "40", "--stop-share", "0.1", *named)
    assert result.exit_code == 0, result.output
    found = rows(out)
    assert found["New York"] == ("wikipedia_bigrams", 70)
    assert found["Fox"] == ("wikipedia_titles", 90)  # desktop and mobile; "Foxes" leads elsewhere
    assert found["Café"] == ("wikipedia_titles", 80)
    assert found["red"] == ("wikipedia_words", 100)
    assert not {"the", "of", "Foxes", "Special:Search", "of the"} & set(found)
    assert "Mercury" not in found  # 30 views of the article; (element) is in no dump here
    assert not list(tmp_path.glob("*.work*"))


def test_titles_come_from_page_views_alone_too(views, tmp_path):
    out = tmp_path / "list.tsv"
    assert build(out, "--pageviews", views, "--source", "wikipedia_titles(least=30)").exit_code == 0
    assert rows(out)["Mercury"] == ("wikipedia_titles", 80)  # the planet and the element
    assert "Foxes" in rows(out)
    assert "Special:Search" not in rows(out)


def test_case_counts_with_a_dump_and_not_without(dump, tmp_path):
    options = ("--wikipedia", dump, "--source", "wikipedia_words(least=1)", "--stop-share", "0")
    assert build(tmp_path / "cased.tsv", *options).exit_code == 0
    assert build(tmp_path / "folded.tsv", *options, "--casefold").exit_code == 0
    cased, folded = rows(tmp_path / "cased.tsv"), rows(tmp_path / "folded.tsv")
    assert (cased["the"][1], cased["The"][1]) == (240, 70)
    assert folded["the"][1] == 310
    assert "The" not in folded


def test_daily_page_views_are_read_as_well(tmp_path):
    path = tmp_path / "pageviews-20250101-user.bz2"
    path.write_bytes(bz2.compress(b"en.wikipedia Red_fox 123 desktop 42 A42\nen.wikipedia Red_fox 123 mobile-web 8 A8\n"
                                  b"de.wikipedia Fuchs 9 desktop 7 A7\n"))  # fmt: skip
    assert list(page_views(str(path), "en")) == [("Red fox", 42), ("Red fox", 8)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (multistream(PAGES)[:-30], "cut short in the middle of a bzip2 stream"),
        (bz2.compress((HEAD + "".join(PAGES)).encode()), "ends before </mediawiki>"),
        (bz2.compress(b"Once upon a time"), "no XML inside"),
        (bz2.compress(b"<html><body/></html>"), "starts with <html>, not <mediawiki>"),
        (b"<mediawiki></mediawiki>", "is damaged or no .bz2 file"),
        (b"", "cut short"),
    ],
    ids=["truncated", "no end", "no xml", "html", "not compressed", "empty"],
)
def test_a_bad_dump_is_named_and_nothing_is_left_half_written(tmp_path, content, complaint):
    path = tmp_path / "bad.xml.bz2"
    path.write_bytes(content)
    (tmp_path / "out").mkdir()
    result = build(tmp_path / "out" / "list.txt", "--wikipedia", str(path), "--source", "wikipedia_words")
    assert result.exit_code == 1
    assert str(path) in result.output
    assert complaint in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(b"en Fox 1 0\n" * 9999, mtime=0)[:-20], "is damaged after"),
        (gzip.compress(b"<html>\n" * 9, mtime=0), "holds no page views"),
        (gzip.compress(b"", mtime=0), "holds no page views"),
        (b"en Fox 1 0\n", "is damaged after"),
    ],
    ids=["truncated", "html", "empty", "not compressed"],
)
def test_bad_page_views_are_named(tmp_path, content, complaint):
    path = tmp_path / "pageviews.gz"
    path.write_bytes(content)
    result = build(tmp_path / "list.txt", "--pageviews", str(path), "--source", "wikipedia_titles")
    assert result.exit_code == 1
    assert str(path) in result.output
    assert complaint in result.output
    assert not (tmp_path / "list.txt").exists()


@pytest.mark.parametrize("option", ["--wikipedia", "--pageviews"])
def test_a_missing_dump_is_named(tmp_path, option):
    for path in (str(tmp_path / "none.bz2"), str(tmp_path / "none-*.gz")):
        result = build(tmp_path / "list.txt", option, path)
        assert result.exit_code == 1
        assert path in result.output


def test_a_source_says_which_dump_it_needs(tmp_path):
    result = build(tmp_path / "list.txt", "--source", "wikipedia_words")
    assert result.exit_code == 1
    assert "wikipedia_words needs --wikipedia" in result.output


def test_counting_goes_on_where_it_was_stopped(dump, tmp_path):
    dumps = Dumps(Folder(str(tmp_path / "work")), "en", (dump,), (), "local(workers=1)")
    before = dumps.words(1)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*.parquet")}
    assert len(written) == 3
    assert dumps.words(1) == before
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.slow
def test_worker_processes_give_the_same_list(tmp_path):
    pages = [page(f"Title {number}", "the red fox saw the brown dog " * (number + 1)) for number in range(40)]
    dumps = []
    for number in range(3):
        path = tmp_path / f"dump{number}.xml.bz2"
        path.write_bytes(multistream(pages[number::3]))
        dumps += ["--wikipedia", str(path)]
    sources = ("--source", "wikipedia_bigrams(least=2, pmi=0)", "--source", "wikipedia_words(least=1)")
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        options = ("-q", "--stop-share", "0", "--engine", f"local(workers={workers})", *dumps, *sources)
        result = CliRunner().invoke(
            main, ["queries", "build", "--out", str(tmp_path / str(workers) / "l.tsv"), *options]
        )
        assert result.exit_code == 0, result.output
    for name in ("l.tsv", "l.json", "l.dropped.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert json.loads((tmp_path / "1" / "l.json").read_text())["queries"] > 5
