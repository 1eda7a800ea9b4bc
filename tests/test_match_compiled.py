"""Matching with numba says what matching without it says, for any bytes."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="numba (the extra 'fast') is missing")
from test_match import dirty, lists, matches

from curate.harvest.match import matcher as match
from curate.harvest.match.matcher import Matcher

pytestmark = pytest.mark.slow
bytes_and_texts = st.lists(st.one_of(dirty.map(str.encode), st.binary(max_size=4)), max_size=9).map(b" ".join)


@settings(max_examples=200, deadline=None)
@given(lists, st.lists(bytes_and_texts, max_size=9), st.sampled_from(["metaclip", "default", "folded", "uncomposed"]))
def test_compiled_matching_equals_the_numpy_path_on_any_bytes(queries, texts, way):
    mode, found = "metaclip" if way == "metaclip" else "default", []
    for first in (1 << 60, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(match, "COMPILE_AFTER", first)
            matcher = Matcher(queries, mode, casefold=way == "folded", nfc=way != "uncomposed")
            found.append(matches(matcher, pa.array(texts, pa.binary())))
    assert found[0] == found[1]


@pytest.mark.parametrize("casefold", [False, True])
def test_every_character_counts_as_in_the_numpy_path(casefold, monkeypatch):
    characters = [chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    queries = [*characters[::3], "ab", "a b", "xy"]
    texts = pa.array([f"a{char}b x{char}{char}y {char}" for char in characters])
    found = []
    for first in (1 << 60, -1):
        monkeypatch.setattr(match, "COMPILE_AFTER", first)
        offsets, ids = Matcher(queries, casefold=casefold).match(texts)
        found.append((offsets.tolist(), ids.tolist()))
    assert found[0] == found[1]


def test_numba_is_used_only_once_it_pays(monkeypatch):
    monkeypatch.setattr(match, "COMPILE_AFTER", 3)
    matcher = Matcher(["dog"])
    used = []
    for _ in range(2):
        assert matches(matcher, ["a dog", "no"]) == [[0], []]
        used.append(matcher._compiled is not None)
    assert used == [False, True]
