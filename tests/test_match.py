"""Matching says what a plain loop over queries and texts says, for any input and any Arrow layout."""

import importlib.util
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from curate.match import matcher as match
from curate.match.matcher import Matcher

# what has broken matchers: marks in a row, blanks at the edges, characters that look like blanks, scripts, emoji
PIECES = [
    *("a", "b", "dog", "hot", "é", "e\u0301", "ß", "SS", "日", "本", "ก", "🐶", "👍🏽", "™", "%", "+", "\ufffd"),
    *(" ", "  ", "\t", "\n", "\r", "\0", "\u00a0", "\u3000", "\u200b", "\u200d", "\ufe0f", "\u00ad"),
    *(".", ",", "..", "!", "`", "'", "’", "-", "&", '"', "“", "(", ")", "、", "x" * 8, "x" * 9, "x" * 17),
]
dirty = (
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=2)), max_size=8)
    .map("".join)
    .filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
)
lists = st.lists(dirty, max_size=12)


needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba (the extra 'fast') is missing")


@pytest.fixture(autouse=True, params=["numpy", pytest.param("numba", marks=[needs_numba, pytest.mark.slow])])
def path(request, monkeypatch):
    """Every test holds for both ways to match."""
    monkeypatch.setattr(match, "COMPILE_AFTER", -1 if request.param == "numba" else 1 << 60)
    return request.param


def matches(matcher: Matcher, texts) -> list[list[int]]:
    texts = pa.array(texts, pa.string()) if isinstance(texts, list) else texts
    offsets, ids = matcher.match(texts)
    assert offsets.dtype == np.int64
    assert ids.dtype == np.int32
    return [ids[start:stop].tolist() for start, stop in pairwise(offsets)]


def metaclip_loop(queries: list[str], text: str) -> list[int]:
    spaced = re.sub(r"([,.;:?!`])", r" \1 ", re.sub(r"[\t\n\r]", " ", text))
    return [number for number, query in enumerate(queries) if f" {query} " in f" {spaced} "]


def kind(char: str) -> str:
    """The default rule, written again: blank, word, mark, symbol, joiner or nothing."""
    name, code = unicodedata.name(char, ""), ord(char)
    scripts = ("CJK UNIFIED", "CJK COMPAT", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    if char in "'-&@#*":
        return "joiner"
    if char == "\u00ad" or 0xFE00 <= code <= 0xFE0F or char == "\ufeff":
        return "nothing"
    if name.startswith(scripts) or 0x1F3FB <= code <= 0x1F3FF:
        return "symbol"
    if char in "%+":
        return "word"
    category = unicodedata.category(char)
    if category[0] == "Z" or category == "Cc" or char == "\u200b":
        return "blank"
    return "symbol" if category == "So" else "mark" if category[0] == "P" or category in ("Sm", "Sk") else "word"


def default_tokens(text: str, casefold: bool = False, nfc: bool = True) -> list[tuple[str, bool]]:
    """Tokens, and whether each directly follows a symbol as a symbol."""
    compose = (lambda text: unicodedata.normalize("NFC", text)) if nfc else str
    text = compose(compose(text).casefold()) if casefold else compose(text)
    text = "".join(char for char in text if kind(char) != "nothing").translate(str.maketrans("‘’ʼ‐‑“”„", "'''--\"\"\""))
    kinds = [kind(char) for char in text]
    for i in range(1, len(text) - 1):
        if kinds[i] == "joiner" and kind(text[i - 1]) == kind(text[i + 1]) == "word":
            kinds[i] = "inner"
    tokens: list[tuple[str, bool]] = []
    for i, char in enumerate(text):
        previous = kinds[i - 1] if i else "blank"
        if kinds[i] in ("word", "inner") and previous in ("word", "inner"):
            tokens[-1] = (tokens[-1][0] + char, False)
        elif kinds[i] != "blank":
            tokens.append((char, kinds[i] == previous == "symbol"))
    return tokens


def default_loop(queries: list[str], text: str, **options) -> list[int]:
    found, tokens = [], default_tokens(text, **options)
    for number, query in enumerate(queries):
        wanted = default_tokens(query, **options)
        speaks = any(kind(token[0]) in ("word", "symbol") for token, _ in wanted)
        windows = [tokens[i : i + len(wanted)] for i in range(len(tokens) - len(wanted) + 1)]
        if speaks and any(window[0][0] == wanted[0][0] and window[1:] == wanted[1:] for window in windows):
            found.append(number)
    return found


@pytest.mark.slow
@settings(max_examples=60)
@given(lists, lists)
def test_metaclip_mode_equals_its_plain_substring_loop(queries, texts):
    matcher = Matcher(queries, "metaclip")
    expected = [metaclip_loop(queries, text) for text in texts]
    assert matches(matcher, texts) == expected
    assert not set(matcher.never_matching) & {number for row in expected for number in row}


@pytest.mark.slow
@settings(max_examples=60)
@given(lists, lists, st.booleans(), st.booleans())
def test_default_mode_equals_a_plain_loop_over_token_windows(queries, texts, casefold, nfc):
    matcher = Matcher(queries, casefold=casefold, nfc=nfc)
    expected = [default_loop(queries, text, casefold=casefold, nfc=nfc) for text in texts]
    assert matches(matcher, texts) == expected
    assert not set(matcher.never_matching) & {number for row in expected for number in row}


@settings(max_examples=40)
@given(st.text("日本東京人ก็า", min_size=1, max_size=3), st.text("日本東京人ก็า dog,", max_size=12))
def test_scripts_without_blanks_match_as_substrings(query, text):
    assert matches(Matcher([query]), [text]) == [[0] if query in text else []]


@pytest.mark.parametrize(
    ("query", "text", "metaclip", "default"),
    [
        ("dog", "A dog.", True, True),
        (".", "A dog.", True, False),
        ("t", "don't", False, False),
        ("ray", "an x-ray", False, False),
        ("C++", "in C++ now", True, True),
        ("film", "(film)", False, True),
        ("dog", '"dog"', False, True),
        ("dog", "dog/cat", False, True),
        ("dog", "dog…", False, True),
        ("dog", "dog\u00a0house", False, True),
        ("dog", "the dog\tsleeps", True, True),
        ("dog", "dogs", False, False),
        ("Dog", "a dog", False, False),
        ("St. Louis", "in St. Louis, MO", False, True),
        ("U.S.", "the U.S. team", False, True),
        ("hot  dog", "a hot dog", False, True),
        ("hot dog", "a hot  dog", False, True),
        ("hot dog", "a hot, dog", False, False),
        ("don't", "I don’t know", False, True),
        ("café", "un cafe\u0301 noir", False, True),
        ("日本", "東京日本", False, True),
        ("日本", "毎日 本屋", False, False),
        ("Tシャツ", "白いTシャツです", False, True),
        ("👍", "great 👍🏽!", False, True),
        ("New York New York", "New York New York", True, True),
    ],
)
def test_what_the_two_modes_find(query, text, metaclip, default):
    assert matches(Matcher([query], "metaclip"), [text]) == [[0] if metaclip else []]
    assert matches(Matcher([query]), [text]) == [[0] if default else []]


def test_every_overlap_is_found_and_each_query_once():
    queries = ["New York", "York New", "York", "hot dog", "dog", "dog"]
    assert matches(Matcher(queries, "metaclip"), ["New York New York", "hot dog dog"]) == [[0, 1, 2], [3, 4, 5]]


def test_casefold_changes_both_sides_beyond_ascii():
    queries = ["Gas", "STRASSE", "İzmir"]
    texts = ["GAS", "Straße", "İZMIR", "gas", "straße é"]
    assert matches(Matcher(queries, casefold=True), texts) == [[0], [1], [2], [0], [1]]
    assert matches(Matcher(queries), ["GAS", "Straße", "gas"]) == [[], [], []]


@pytest.mark.parametrize("mode", match.MODES)
def test_every_arrow_layout_gives_the_same_matches(mode):
    texts = ["a dog", None, "", "hot dog é", "日本 dog", "nothing"]
    matcher = Matcher(["dog", "hot dog", "日本", ""], mode)
    expected = matches(matcher, texts)
    assert expected[1] == []
    assert expected[3] == [0, 1]
    plain = pa.array(texts, pa.string())
    padded = pa.array(["dog dog", *texts, "dog"])
    layouts = [plain.cast(pa.large_string()), plain.cast(pa.binary()), plain.dictionary_encode(), padded.slice(1, 6),
               pa.chunked_array([plain.slice(0, 2), plain.slice(2, 0), plain.slice(2)])]  # fmt: skip
    assert [matches(matcher, layout) for layout in layouts] == [expected] * len(layouts)
    assert matches(matcher, pa.array([], pa.string())) == []
    assert matches(matcher, pa.chunked_array([], pa.string())) == []
    assert matches(matcher, pa.nulls(2)) == [[], []]


@pytest.mark.parametrize("mode", match.MODES)
def test_a_null_over_leftover_bytes_matches_nothing(mode):
    data = pa.array(["dog", "dog"]).buffers()
    texts = pa.Array.from_buffers(pa.string(), 2, [pa.py_buffer(b"\x02"), data[1], data[2]])
    assert matches(Matcher(["dog", ""], mode), texts) == [[], [0]]


@pytest.mark.parametrize("mode", match.MODES)
def test_bytes_that_are_not_text_neither_crash_nor_spread(mode):
    broken = pa.array([b"a dog \xff\xfe", b"\xc3", b"\xa9 dog", b"\xed\xa0\x80 dog", b"dog"], pa.binary())
    assert matches(Matcher(["dog", "é", "\ud800x"], mode), broken) == [[0], [], [0], [0], [0]]
    texts = pa.Array.from_buffers(pa.string(), 5, broken.buffers())
    assert matches(Matcher(["dog"], mode), texts) == [[0], [], [0], [0], [0]]


def test_queries_that_can_never_match_are_listed():
    queries = ["dog", "St. Louis", "U.S.", "a\tb", ", ,", "", "...", "日本", "a ."]
    assert Matcher(queries, "metaclip").never_matching == [1, 2, 3, 4, 6]
    assert Matcher(queries).never_matching == [4, 5, 6]
    assert matches(Matcher([]), ["dog"]) == [[]]


def test_a_saved_matcher_finds_the_same(tmp_path):
    path = str(tmp_path / "index")
    for mode, casefold in (("metaclip", False), ("default", True)):
        matcher = Matcher(["dog", "Hot dog", " dog", "dog", "  ", "é"], mode, casefold=casefold)
        matcher.save(path)
        texts = ["hot dog  x", "dog", "É  ", "Hot  dog"]
        assert matches(Matcher.load(path), texts) == matches(matcher, texts)
        assert Matcher.load(path).never_matching == matcher.never_matching
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_a_file_that_is_no_index_is_refused(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(b"something else")
    with pytest.raises(CurateError, match="delete it"):
        Matcher.load(str(path))
    with pytest.raises(CurateError, match="choose from: default, metaclip"):
        Matcher(["dog"], "exact")


@pytest.mark.parametrize("mode", match.MODES)
# work that grew with the square of a text would take hours
@pytest.mark.slow
def test_a_very_long_text_ends_and_leaves_its_neighbours_alone(mode):
    words = [f"w{number}" for number in range(20_000)]
    matcher = Matcher([*words, *(f"{a} {b}" for a, b in pairwise(words)), "x" * 5000], mode)
    texts = ["w1 w2", " ".join(words * 8), "x" * 1_000_000, "w3"]
    assert len(texts[1]) > 1_000_000
    found = matches(matcher, texts)
    assert found[0] == [1, 2, 20_001]
    assert found[1] == list(range(39_999))
    assert found[2:] == [[], [3]]


def test_blocks_of_any_size_give_the_same(monkeypatch):
    texts = [f"w{number % 7} w{number % 5}" if number % 3 else "é w1" for number in range(300)]
    matcher = Matcher([f"w{a} w{b}" for a in range(7) for b in range(5)] + ["w1"])
    expected = matches(matcher, texts)
    monkeypatch.setattr(match, "BLOCK_BYTES", 50)
    assert matches(matcher, texts) == expected
    monkeypatch.setattr(match, "BLOCK_TEXTS", 1)
    assert matches(matcher, texts) == expected


@pytest.mark.parametrize("mode", match.MODES)
def test_texts_that_repeat_are_matched_once_and_found_each_time(mode, monkeypatch):
    texts = ["a dog", None, "é dog", "", "a dog", "nothing", None, "hot dog", "", "é dog", "nothing"] * 20
    matcher = Matcher(["dog", "hot dog", "é", ""], mode)
    monkeypatch.setattr(match, "DISTINCT", 0)
    expected = matches(matcher, texts)
    assert not matcher._repeating
    monkeypatch.setattr(match, "DISTINCT", 0.8)
    monkeypatch.setattr(match, "PROBED", 1)
    assert matches(matcher, texts) == expected
    assert matcher._repeating
    matches(matcher, ["one", "two", "three"])
    assert not matcher._repeating


@pytest.fixture(scope="module")
def million():
    """1.05 million queries, each with those of its words, and texts with what stands in them."""
    queries = [f"{number}" for number in range(525_000)] + [f"{number} {number % 1000:x}" for number in range(525_000)]
    queries += ["x" * number for number in range(1, 600)]
    texts = [f"{number} {number % 1000:x}" for number in range(0, 525_000, 25)] + ["x" * at for at in range(1, 700)]
    known = {query: number for number, query in enumerate(queries)}
    expected = [sorted({known[part] for part in (text, *text.split(" ")) if part in known}) for text in texts]
    return {mode: Matcher(queries, mode) for mode in match.MODES}, texts, expected


@pytest.mark.slow
@pytest.mark.parametrize("mode", match.MODES)
def test_more_than_a_million_queries(million, mode):
    built, texts, expected = million
    assert matches(built[mode], texts) == expected
