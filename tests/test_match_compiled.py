"""Matching with numba says what matching without it says, for any bytes."""

import os
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="numba (the extra 'fast') is missing")
from test_match import dirty, lists, matches

from curate.compiled import machine
from curate.match import matcher as match
from curate.match.layout import LOOPS
from curate.match.matcher import Matcher

pytestmark = pytest.mark.slow
bytes_and_texts = st.lists(st.one_of(dirty.map(str.encode), st.binary(max_size=4)), max_size=9).map(b" ".join)


@settings(max_examples=200)
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


def test_the_machine_code_is_kept_and_made_again_where_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path))
    kept = tmp_path / f"loops-{machine.made_by(LOOPS)}"
    kept.write_bytes(b"damaged" * 9)
    made = machine.object_code(LOOPS)
    file = kept.stat().st_ino
    assert kept.read_bytes().endswith(made)
    assert machine.object_code(LOOPS) == made
    assert kept.stat().st_ino == file


def test_where_nothing_can_be_compiled_numpy_matches(tmp_path):
    script = "import pyarrow as pa; from curate.match import matcher; matcher.COMPILE_AFTER = -1; "
    script += "m = matcher.Matcher(['dog']); print(m.match(pa.array(['a dog']))[1].tolist(), m._compiled)"
    environment = {**os.environ, "CURATE_CACHE": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.stdout == "[0] None\n"
    assert not list(tmp_path.iterdir())
