"""Count words, pairs of words, titles and page views exactly, in bounded memory: blocks on disk that merge.py adds up.

Sums do not depend on where the parts are cut, nor on who counts them. The blocks take some 2 bytes a word of text.
"""

import io
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.files import Folder
from curate.queries.text import MARKS, WORD
from curate.queries.wikipedia import Part, articles
from curate.queries.wikitext import plain
from curate.storage.streams import Lines
from curate.work import Report

BLOCK = 5_000_000  # words, about, counted in memory at a time
# words, and whatever parts words: a pair has nothing but blanks between
TOKEN = re.compile(rf"{WORD}|[^\w {MARKS}]|_")


@dataclass(frozen=True)
class CountText:
    """Count one part of a dump into words/, pairs/ and titles/; a titles file says that its part is done."""

    scratch: Folder

    def __call__(self, part: Part) -> Report:
        name = part.name
        done = self.scratch.made_by(f"titles/{name}.parquet")
        if done is not None:
            return Report(str(part), done["articles"], skipped=True)
        titles, block, number = [], Block(), 0
        for title, text in articles(part):
            titles.append(title)
            block.add(plain(text))
            if block.size >= BLOCK:
                block.write(self.scratch, f"{name}-{number:03d}")
                block, number = Block(), number + 1
        block.write(self.scratch, f"{name}-{number:03d}")
        table = pa.table({"title": pa.array(titles, pa.string())})
        self.scratch.write_table(f"titles/{name}.parquet", table, {"articles": len(titles)})
        return Report(str(part), len(titles))


class Block:
    """Texts as numbers of words: first of whatever stands between blanks ("York."), each then cut into words once."""

    def __init__(self) -> None:
        self.numbers: defaultdict[str, int] = defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.texts: list[np.ndarray] = []
        self.size = 0

    def add(self, text: str) -> None:
        pieces = text.replace("\n", " \n ").split(" ")
        pieces.append("\n")  # articles do not run into each other
        numbers = self.numbers
        self.texts.append(np.array([numbers[piece] for piece in pieces], np.int32))
        self.size += len(pieces)

    def write(self, scratch: Folder, name: str) -> None:
        """words/NAME (word, count) and pairs/NAME (first, second, count): words with nothing but blanks between."""
        if not self.texts:
            return
        vocabulary, tokens = self._tokens()
        strings = pa.array(vocabulary, pa.string())
        is_word = np.array([word[0].isalnum() for word in vocabulary], bool)
        counts, words = np.bincount(tokens, minlength=len(vocabulary)), np.flatnonzero(is_word)
        table = pa.table({"word": strings.take(pa.array(words)), "count": counts[words]})
        scratch.write_table(f"words/{name}.parquet", table)
        keep = is_word[tokens]
        both = keep[:-1] & keep[1:]
        keys, times = np.unique((tokens[:-1][both].astype(np.int64) << 32) | tokens[1:][both], return_counts=True)
        first, second = strings.take(pa.array(keys >> 32)), strings.take(pa.array(keys & 0xFFFFFFFF))
        scratch.write_table(f"pairs/{name}.parquet", pa.table({"first": first, "second": second, "count": times}))

    def _tokens(self) -> tuple[list[str], np.ndarray]:
        """(tokens that differ, number of each token of the texts in their order)."""
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__
        cut = [[numbers[token] for token in TOKEN.findall(piece)] for piece in self.numbers]
        lengths = np.array([len(tokens) for tokens in cut], np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(cut), np.int32, lengths.sum())
        starts = np.cumsum(lengths) - lengths
        pieces = np.concatenate(self.texts)
        before = np.cumsum(lengths[pieces]) - lengths[pieces]  # tokens before each piece
        within = np.arange(lengths[pieces].sum()) - np.repeat(before, lengths[pieces])
        return list(numbers), flat[np.repeat(starts[pieces], lengths[pieces]) + within]


@dataclass(frozen=True)
class CountViews:
    """Sum one file of page views into views/. Items are (number, path)."""

    scratch: Folder
    language: str

    def __call__(self, item: tuple[int, str]) -> Report:
        number, path = item
        name = f"views/{number:05d}.parquet"
        if self.scratch.exists(name):
            return Report(path, skipped=True)
        views: Counter[str] = Counter()
        for title, count in page_views(path, self.language):
            views[title] += count
        titles = sorted(views)
        table = pa.table({"title": pa.array(titles, pa.string()), "views": [views[title] for title in titles]})
        self.scratch.write_table(name, table)
        return Report(path, len(titles))


def page_views(path: str, language: str) -> Iterator[tuple[str, int]]:
    """(title, views) of one project, desktop and mobile, from an hourly file ("en.m Main_Page 42 0", .gz) or a daily
    one ("en.wikipedia Main_Page 15580374 desktop 42 A3B39", .bz2). Raises CurateError where it is damaged or neither.
    """
    wanted = {f"{end}".encode() for end in (language, f"{language}.m", f"{language}.wikipedia")}
    lines = read = 0
    with Lines(path) as file:
        for line in io.BufferedReader(file, 1 << 20):
            lines += 1
            fields = line.split(b" ")
            views = fields[{4: 2, 6: 4}.get(len(fields), 0)]
            if views.isdigit():
                read += 1
                if fields[0] in wanted:
                    yield unquote(fields[1].decode("utf-8", "replace")).replace("_", " "), int(views)
        if file.damage:
            raise CurateError(f"{path} is damaged after {lines:,} lines: {file.damage}; fetch it again")
    if read * 2 < lines or not read:
        raise CurateError(
            f"{path} holds no page views ('en Main_Page 42 0'): {lines - read:,} of {lines:,} lines are not"
        )
