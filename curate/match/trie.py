"""All queries as one trie of token hashes in a hash table: a whole block of texts descends it at once.

A node's key is a polynomial in the hashes of the tokens on its path and in how they touch; 64 bits, compared whole. So
what is no query is taken for one with probability nodes / 2^64 a look-up: for 500,000 queries (600,000 nodes) and 14
look-ups a caption, one wrong match expected in 2 x 10^12 captions. No match is missed.

The table is a cuckoo table (Pagh and Rodler, 2004): a key is at one of two places, and at the second only if the first
is taken. It has 2^b words of 64 bits. The first place is the b highest bits of the key, so a word holds only the others
and has b bits free for the node itself: one gather answers for most tokens, two for the rest. One bit for each first
place, small enough for the core's own cache, says beforehand that most windows of several tokens are no nodes.
"""

from dataclasses import dataclass, fields

import numpy as np

from curate.match.hashing import PARENT, TOUCH
from curate.match.tokens import Tokens

LONGER, NO_TWINS = np.uint64(1), np.zeros(0, np.int32)


@dataclass
class Paths:
    """The keys on the way to each of the queries `live` (ascending numbers), which have one token or more."""

    live: np.ndarray  # int64 [m]
    ends: np.ndarray  # uint64 [m], where each query ends
    nodes: np.ndarray  # uint64, every node, ascending
    parents: np.ndarray  # uint64, nodes that longer queries go on from, ascending
    windows: np.ndarray  # uint64, nodes of two tokens or more, ascending
    plain: bool  # whether in every query all tokens touch in the usual way
    queries: int  # how many there are, with those that are not live

    @classmethod
    def of(cls, tokens: Tokens, live: np.ndarray) -> "Paths":
        """Follow all queries together, token by token."""
        follows, after = _continuations(tokens, plain=False)
        plain = tokens.before is None or not np.any(follows[:-1] & (tokens.before != 1))
        first, count = tokens.bounds[live], np.diff(tokens.bounds)[live]
        ends = tokens.hashes[first]
        nodes, parents = [_distinct(ends)], [ends[:0]]
        going = np.flatnonzero(count > 1)
        depth = 1
        while len(going):
            parents.append(_distinct(ends[going]))
            ends[going] = ends[going] * PARENT + after[first[going] + depth]
            nodes.append(_distinct(ends[going]))
            depth += 1
            going = going[count[going] > depth]
        return cls(
            live,
            ends,
            _distinct(np.concatenate(nodes)),
            _distinct(np.concatenate(parents)),
            _distinct(np.concatenate(nodes[1:] or parents)),
            plain,
            len(tokens.bounds) - 1,
        )


@dataclass
class Trie:
    """Read-only arrays, so that processes can share one memory-mapped copy."""

    words: np.ndarray  # uint64 [2^b]: key << b | at its second place << (b - 1) | value; 0 = free
    windows: np.ndarray  # uint8 [2^b / 8], a bit for each first place: whether a node of two tokens or more has it
    twins: np.ndarray  # int32 [queries], the next query of the same tokens, -1 = none; empty where no query has one
    plain: np.ndarray  # bool [1], whether in every query all tokens touch in the usual way

    @classmethod
    def build(cls, paths: Paths) -> "Trie":
        """The table of the nodes on these paths."""
        values, twins = _values(paths)
        nodes, windows, queries, plain = paths.nodes, paths.windows, paths.queries, paths.plain
        del paths  # the largest part, to make room for the table
        words = _cuckoo(nodes, queries)  # of keys so far
        bits = len(words).bit_length() - 1
        for block in np.array_split(np.flatnonzero(words), 64):
            key = words[block]
            second = (_first_places(key, bits) != block).astype(np.uint64) << np.uint64(bits - 1)
            words[block] = key << np.uint64(bits) | second | values[np.searchsorted(nodes, key)]
        likely = np.zeros(len(words), bool)
        likely[_first_places(windows, bits)] = True
        return cls(words, np.packbits(likely, bitorder="little"), twins, np.array([plain]))

    def find(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every window of tokens that is a query: its first token, its last token, the lowest such query."""
        follows, after = _continuations(tokens, bool(self.plain[0]))
        path, value = tokens.hashes, self.values(tokens.hashes)
        (ends,) = np.nonzero(value > LONGER)
        found = [(ends, ends, _query(value[ends]))]
        (token,) = np.nonzero((value & LONGER).astype(bool) & follows[1:])
        path, depth = path[token], 1
        while len(token):
            token = token + 1
            path = path * PARENT + np.take(after, token)
            (likely,) = np.nonzero(self._likely(path))
            path, token = path[likely], token[likely]
            value = self.values(path)
            (ends,) = np.nonzero(value > LONGER)
            last = token[ends]
            found.append((last - depth, last, _query(value[ends])))
            (going,) = np.nonzero((value & LONGER).astype(bool) & np.take(follows, token + 1))
            token, path, depth = token[going], path[going], depth + 1
        first, last, query = (np.concatenate(parts) for parts in zip(*found))
        return first, last, query

    @property
    def query_bits(self) -> int:
        """Every query is less than 2 to the power of this; it is less than 31."""
        return len(self.words).bit_length() - 3

    def values(self, keys: np.ndarray) -> np.ndarray:
        """Of each key's node 2 * (query + 1, or 0: none ends) + (1: longer queries go on); 0 where there is no node."""
        bits = len(self.words).bit_length() - 1
        half, shift = np.uint64(1 << bits - 1), np.uint64(bits)
        held = np.take(self.words, (keys >> np.uint64(64 - bits)).view(np.int64))
        value = keys << shift
        value ^= held  # of the node itself only its value is left
        hit = value < half
        (second,) = np.nonzero((held != 0) > hit)
        value *= hit  # many times quicker than an assignment where it missed
        keys = keys[second]
        rest = np.take(self.words, _first_places(keys, bits) ^ _other_places(keys, bits)) ^ (keys << shift ^ half)
        value[second] = rest * (rest < half)
        return value

    def _likely(self, keys: np.ndarray) -> np.ndarray:
        """False for most keys that are no node of two tokens or more."""
        place = _first_places(keys, len(self.words).bit_length() - 1)
        return np.take(self.windows, place >> 3) >> (place.astype(np.uint8) & np.uint8(7)) & np.uint8(1) != 0

    def arrays(self) -> dict[str, np.ndarray]:
        """The parts by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _continuations(tokens: Tokens, plain: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whether a window may go on with each token (and none behind the last), and what it then adds to the key."""
    follows = np.ones(len(tokens.hashes) + 1, bool)
    follows[tokens.bounds] = False
    if tokens.before is None:
        return follows, tokens.hashes
    if plain:
        follows[:-1] &= tokens.before == 1
        return follows, tokens.hashes
    (unusual,) = np.nonzero(tokens.before != 1)
    after = tokens.hashes.copy()
    after[unusual] += (tokens.before[unusual].astype(np.uint64) - np.uint64(1)) * TOUCH
    return follows, after


def _distinct(keys: np.ndarray) -> np.ndarray:
    keys = np.sort(keys)
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def _query(values: np.ndarray) -> np.ndarray:
    return (values >> np.uint64(1)).view(np.int64) - 1


def _values(paths: Paths) -> tuple[np.ndarray, np.ndarray]:
    """The value of each node, with the lowest query that ends there, and the chain of the others."""
    values = np.zeros(len(paths.nodes), np.uint64)
    values[np.searchsorted(paths.nodes, paths.parents)] = LONGER
    node = np.searchsorted(paths.nodes, paths.ends)
    order = np.argsort(node, kind="stable")
    node, live = node[order], paths.live[order]
    again = np.zeros(len(node), bool)
    again[1:] = node[1:] == node[:-1]
    values[node[~again]] |= (live[~again].astype(np.uint64) + np.uint64(1)) << np.uint64(1)
    if not again.any():
        return values, NO_TWINS
    twins = np.full(paths.queries, -1, np.int32)
    twins[live[:-1][again[1:]]] = live[1:][again[1:]]
    return values, twins


def _first_places(keys: np.ndarray, bits: int) -> np.ndarray:
    return (keys >> np.uint64(64 - bits)).view(np.int64)


def _other_places(keys: np.ndarray, bits: int) -> np.ndarray:
    """What leads from either place of a key to its other place; from bits that the words of both hold."""
    return (keys >> np.uint64(64 - 2 * bits) & np.uint64((1 << bits) - 1)).view(np.int64)


def _cuckoo(keys: np.ndarray, queries: int) -> np.ndarray:
    """A table of the distinct keys, less than half full, twice as large where they do not fit."""
    bits = max(4, (len(keys) * 9 // 4).bit_length(), (queries + 1).bit_length() + 2)  # a word has room for a query
    while True:
        table, homeless, place = np.zeros(1 << bits, np.uint64), keys, _first_places(keys, bits)
        for _ in range(100):
            driven_out = table[place]
            table[place] = homeless
            settled = table[place] == homeless  # of several keys for one place the last one
            gone = settled & (driven_out != 0)
            homeless = np.concatenate((homeless[~settled], driven_out[gone]))
            if not len(homeless):
                return table
            place = np.concatenate((place[~settled], place[gone])) ^ _other_places(homeless, bits)
        bits += 1
