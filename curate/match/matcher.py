"""Which queries stand in which texts: exact, case-sensitive, every overlap counted once."""

import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from curate.compiled.loops import with_loops
from curate.errors import CurateError
from curate.match.rules import Default, Metaclip, encoded
from curate.match.tokens import Tokens, buffers, joined
from curate.match.trie import Paths, Trie

MODES = ("default", "metaclip")
BLOCK_TEXTS, BLOCK_BYTES = 1 << 14, 1 << 21  # what is worked on at once stays near the core's cache
FEW_PARTS = 4  # of a block, sorted one at a time
COMPILED_BLOCK = 8  # times as much: the compiled loop cuts it up itself, and what it leaves is done together
FORMAT = "curate match 2"
OPTIONS = ("mode", "casefold", "nfc", "_longest")
NONE = np.zeros(0, np.int32)
PROBED, DISTINCT = 16, 0.8  # one block in 16 is looked at; with fewer distinct texts each is matched once
COMPILE_AFTER = (
    2_000_000  # texts: before, loading the compiled loops (and compiling, the first time) takes longer than it saves
)


class Matcher:
    """An index of queries: built in a second or two for 500,000, loaded in milliseconds.

    `queries` are numbered by their place; equal queries all match. `never_matching` lists those that no text can match:
    metaclip: a tab, a newline, or one of its eight marks beside anything but blanks ("U.S.", "St. Louis");
    default: nothing but punctuation and blanks. Raises CurateError for an unknown mode.
    """

    def __init__(self, queries: Sequence[str], mode: str = "default", casefold: bool = False, nfc: bool = True):
        if mode not in MODES:
            raise CurateError(f"no match mode called '{mode}'; choose from: {', '.join(MODES)}")
        self.mode, self.casefold, self.nfc = mode, casefold, nfc
        self._trie = Trie.build(self._paths(queries))

    _seen = 0  # texts
    _looked_at = 0  # blocks
    _repeating = False  # whether the texts repeat so much that each is matched once in a block
    _compiled: Any = None

    def match(self, texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """The queries in text i are ids[offsets[i]:offsets[i + 1]], ascending; none in a null.

        Returns offsets, int64 [n + 1], and ids, int32. Any string, binary or dictionary type; need not be UTF-8.
        """
        counts, ids = [np.zeros(1, np.int64)], [NONE]
        for block in _blocks(texts, COMPILED_BLOCK if self._compiled else 1):
            found = self._each_once(block) if self._repeats(block) else self._counted(block)
            counts.append(found[0])
            ids.append(found[1])
        return np.cumsum(np.concatenate(counts)), np.concatenate(ids)

    def save(self, path: str) -> None:
        """Write the index to a local file, whole or not at all."""
        arrays = {**self._trie.arrays(), **self._blanks, "never": np.array(self.never_matching, np.int32)}
        head = {
            "format": FORMAT,
            "mode": self.mode,
            "casefold": self.casefold,
            "nfc": self.nfc,
            "_longest": self._longest,
            "unicode": unicodedata.unidata_version,
        }
        head["arrays"] = [[name, array.dtype.str, len(array)] for name, array in arrays.items()]
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(_padded(json.dumps(head).encode() + b"\n"))
            for array in arrays.values():
                file.write(_padded(array.tobytes()))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str) -> "Matcher":
        """The matcher that `save` wrote; processes share its memory. Raises CurateError for another file."""
        head, at = _head(path)
        arrays, content = {}, np.memmap(path, np.uint8, "r").view(np.ndarray)
        for name, dtype, length in head["arrays"]:
            size = length * np.dtype(dtype).itemsize
            arrays[name] = content[at : at + size].view(dtype)
            at += size + -size % 64
        self = cls.__new__(cls)
        for name in OPTIONS:
            setattr(self, name, head[name])
        self.never_matching = arrays.pop("never").tolist()
        self._trie = Trie(*(arrays.pop(field.name) for field in fields(Trie)))
        self._blanks = arrays
        return self

    def _paths(self, queries: Sequence[str]) -> Paths:
        """What the trie needs of the queries, read in blocks to take little memory; notes the rest."""
        blocks = range(0, max(len(queries), 1), BLOCK_TEXTS)
        parts = [self._rule().queries(encoded(queries[start : start + BLOCK_TEXTS])) for start in blocks]
        tokens, dead = joined([part for part, _ in parts]), np.concatenate([never for _, never in parts])
        del parts
        self.never_matching: list[int] = np.flatnonzero(dead).tolist()
        self._longest = tokens.longest
        self._blanks = self._needed_blanks(tokens, ~dead) if self.mode == "metaclip" else {}
        return Paths.of(tokens, np.flatnonzero(~dead & (np.diff(tokens.bounds) > 0)))

    def _rule(self) -> Metaclip | Default:
        return Metaclip() if self.mode == "metaclip" else Default(self.casefold, self.nfc)

    def _repeats(self, block: pa.Array) -> bool:
        """Whether texts repeat, as one block in many says: finding out takes a twentieth of the time of matching."""
        if self._looked_at % PROBED == 0:
            distinct = block.dictionary_encode().dictionary
            self._repeating = len(distinct) < DISTINCT * len(block)
        self._looked_at += 1
        return self._repeating

    def _each_once(self, block: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """_counted, for texts that repeat."""
        encoded = block.dictionary_encode()
        counts, queries = self._counted(encoded.dictionary)
        text = encoded.indices.fill_null(0).to_numpy()
        starts, found = (np.cumsum(counts) - counts)[text], counts[text]
        found[block.is_null().to_numpy(zero_copy_only=False)] = 0
        ends = np.cumsum(found)
        return found, np.take(queries, np.repeat(starts - (ends - found), found) + np.arange(found.sum()))

    def _counted(self, block: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The number of matches in each text, and their queries."""
        self._seen += len(block)
        if not self._use_numba():
            return self._by_numpy(block)
        counts, queries, left = self._compiled.match(block.fill_null(b"") if block.null_count else block)
        if len(left):
            more, found = zip(*map(self._by_numpy, _blocks(block.take(pa.array(left)), 1)))
            counts_left = np.concatenate(more)
            behind = np.repeat(np.cumsum(counts)[left], counts_left)
            queries, counts[left] = np.insert(queries, behind, np.concatenate(found)), counts_left
        return counts, queries

    def _by_numpy(self, block: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        valid = block.is_valid().to_numpy(zero_copy_only=False) if block.null_count else None
        row, query = self._found(self._rule().texts(block.fill_null(b"") if block.null_count else block, self._longest))
        if valid is not None:
            row, query = row[valid[row]], query[valid[row]]
        return _in_order(row, query, len(block), self._trie.query_bits)

    def _use_numba(self) -> bool:
        """Whether numba is there and pays by now; metaclip queries that want several blanks are left to numpy."""
        wanted = self._compiled is None and self._seen > COMPILE_AFTER and not self._blanks
        if wanted and (module := with_loops("curate.match.compiled")):
            self._compiled = module.Compiled(self._trie, self.mode, self.casefold, self.nfc, self._longest)
        return self._compiled is not None

    def _found(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        first, last, query = self._trie.find(tokens)
        first, last, query = self._with_twins(first, last, query)
        rows = np.arange(len(tokens.bounds) - 1) if tokens.rows is None else tokens.rows
        row = np.take(np.repeat(rows, np.diff(tokens.bounds)), first)
        return self._with_blanks(tokens, row, first, last, query) if self._blanks else (row, query)

    def _with_twins(self, first: np.ndarray, last: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, ...]:
        """Add the other queries that have the same tokens."""
        found, twins = [(first, last, query)], self._trie.twins
        while len(twins) and len(query):
            query = twins[query].astype(np.int64)
            more = query >= 0
            first, last, query = first[more], last[more], query[more]
            found.append((first, last, query))
        return tuple(np.concatenate(parts) for parts in zip(*found)) if len(found) > 1 else found[0]

    def _needed_blanks(self, tokens: Tokens, live: np.ndarray) -> dict[str, np.ndarray]:
        """Blanks that MetaCLIP's rule wants before and after each query, where any wants more than one."""
        assert tokens.before is not None
        assert tokens.after is not None
        filled = np.diff(tokens.bounds) > 0
        lead, trail, only = np.zeros((3, len(filled)), np.int32)
        lead[filled] = tokens.before[tokens.bounds[:-1][filled]]
        trail[filled] = tokens.after[filled]
        only[~filled] = tokens.after[~filled]
        if not np.any(live & ((lead > 1) | (trail > 1) | (only > 0))):
            return {}
        return {"lead": lead, "trail": trail, "blank": np.flatnonzero(only).astype(np.int32), "run": only[only > 0]}

    def _with_blanks(self, tokens: Tokens, text: np.ndarray, first: np.ndarray, last: np.ndarray, query: np.ndarray):
        """Drop queries whose outer blanks are missing; add queries of nothing but blanks."""
        assert tokens.before is not None
        assert tokens.after is not None
        final = last + 1 == tokens.bounds[text + 1]
        behind = np.where(final, tokens.after[text], np.append(tokens.before, 0)[last + 1])
        fits = (tokens.before[first] >= self._blanks["lead"][query]) & (behind >= self._blanks["trail"][query])
        widest = tokens.after.copy()
        np.maximum.at(widest, np.repeat(np.arange(len(widest)), np.diff(tokens.bounds)), tokens.before)
        rows, which = np.nonzero(widest[:, None] >= self._blanks["run"])
        return np.concatenate((text[fits], rows)), np.concatenate((query[fits], self._blanks["blank"][which]))


def _in_order(row: np.ndarray, query: np.ndarray, rows: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of queries, of `bits` bits, in each of the rows, and these: ascending, each once.

    As keys of 32 bits, which are sorted in half the time of 64, a part of the rows at a time if the parts are few.
    """
    counts, queries, keys = [], [], row << bits | query
    step, dtype = (1 << 32 - bits, np.uint32) if rows << bits <= FEW_PARTS << 32 else (rows, np.uint64)
    for first in range(0, rows, step):
        part = keys if step >= rows else keys[keys >> 32 == first >> 32 - bits]
        part = np.sort(part.astype(dtype))
        kept = np.ones(len(part), bool)
        np.not_equal(part[1:], part[:-1], out=kept[1:])
        part = part[kept]
        counts.append(np.bincount(part >> bits, minlength=min(step, rows - first)))
        queries.append((part & (1 << bits) - 1).astype(np.int32))
    return np.concatenate(counts), np.concatenate(queries)


def _blocks(texts: pa.Array | pa.ChunkedArray, times: int) -> Iterator[pa.Array]:
    """Runs of rows, as large binary: a few thousand texts, or `times` as many, or one very long one."""
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        if not pa.types.is_binary(chunk.type) and not pa.types.is_large_binary(chunk.type):
            chunk = chunk.cast(pa.large_string())
        chunk = chunk.cast(pa.large_binary())
        _, offsets = buffers(chunk)
        start = 0
        while start < len(chunk):
            full = int(np.searchsorted(offsets, offsets[start] + times * BLOCK_BYTES, "right")) - 1
            stop = min(max(full, start + 1), start + times * BLOCK_TEXTS)
            yield chunk.slice(start, stop - start)
            start = stop


def _head(path: str) -> tuple[dict[str, Any], int]:
    """What an index says of itself, and where its first array begins."""
    with open(path, "rb") as file:
        line = file.readline(4096)
    head = json.loads(line) if line.startswith(b'{"format": "curate match ') and line.endswith(b"\n") else {}
    if [head.get("format"), head.get("unicode")] != [FORMAT, unicodedata.unidata_version]:
        raise CurateError(f"{path} is no match index of this version of curate or Unicode: delete it, it is remade")
    sizes = [length * np.dtype(dtype).itemsize for _, dtype, length in head["arrays"]]
    if len(_padded(line)) + sum(size + -size % 64 for size in sizes) != os.path.getsize(path):
        raise CurateError(f"{path} is cut short: delete it, it is made again")
    return head, len(_padded(line))


def _padded(data: bytes) -> bytes:
    """So that each array starts at a multiple of 64 bytes."""
    return data + bytes(-len(data) % 64)
