"""All queries as one trie of token hashes in a hash table: a whole block of texts descends it at once.

A node's key is a polynomial in the hashes of the tokens on its path and in how they touch; 64 bits, compared whole. So
what is no query is taken for one with probability nodes / 2^64 a look-up: for 500,000 queries (600,000 nodes) and 14
look-ups a caption, one wrong match expected in 2 x 10^12 captions. No match is missed.

The table is a cuckoo table (Pagh and Rodler, 2004): a key is at one of two places, and at the second only if the first
is taken, so that a look-up is one gather for most tokens and two for the rest.
"""

from dataclasses import dataclass, fields

import numpy as np

from curate.harvest.match_tokens import Tokens

PARENT, TOUCH = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
LONGER, NO_TWINS = np.uint32(1), np.zeros(0, np.int32)


@dataclass
class Paths:
    """The keys on the way to each of the queries `live` (ascending numbers), which have one token or more."""

    live: np.ndarray  # int64 [m]
    ends: np.ndarray  # uint64 [m], where each query ends
    nodes: np.ndarray  # uint64, every node, ascending
    parents: np.ndarray  # uint64, nodes that longer queries go on from, ascending
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
            plain,
            len(tokens.bounds) - 1,
        )


@dataclass
class Trie:
    """Read-only arrays, so that processes can share one memory-mapped copy."""

    keys: np.ndarray  # uint64 [2^b], 0 = free
    nodes: np.ndarray  # uint32 [2^b], 2 * (query + 1, or 0 where no query ends) + (1 where longer queries go on)
    twins: np.ndarray  # int32 [queries], the next query of the same tokens, -1 = none; empty where no query has one
    plain: np.ndarray  # bool [1], whether in every query all tokens touch in the usual way

    @classmethod
    def build(cls, paths: Paths) -> "Trie":
        """The table of the nodes on these paths."""
        keys = _cuckoo(paths.nodes)
        trie = cls(keys, np.zeros(len(keys), np.uint32), NO_TWINS, np.array([paths.plain]))
        trie.nodes[trie._places(paths.parents)[1]] = LONGER
        trie.twins = trie._end(trie._places(paths.ends)[1], paths.live, paths.queries)
        return trie

    def find(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every window of tokens that is a query: its first token, its last token, the lowest such query."""
        follows, after = _continuations(tokens, bool(self.plain[0]))
        token, place = self._places(tokens.hashes)
        path, depth, found = tokens.hashes[token], 0, []
        while True:
            node = np.take(self.nodes, place)
            ends = np.flatnonzero(node > LONGER)
            last = token[ends]
            found.append((last - depth, last, (node[ends] >> np.uint32(1)).astype(np.int64) - 1))
            token = token + 1
            going = np.flatnonzero((node & LONGER).astype(bool) & np.take(follows, token))
            if not len(going):
                first, last, query = (np.concatenate(parts) for parts in zip(*found))
                return first, last, query
            token = token[going]
            path = path[going] * PARENT + np.take(after, token)
            hits, place = self._places(path)
            token, path, depth = token[hits], path[hits], depth + 1

    def arrays(self) -> dict[str, np.ndarray]:
        """The parts by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the keys are there, ascending, and their places."""
        place = _first_places(keys, len(self.keys))
        held = np.take(self.keys, place)
        hit = held == keys
        second = np.flatnonzero(hit < (held != 0))
        rest = keys[second]
        other = _second_places(rest, len(self.keys))
        there = np.flatnonzero(np.take(self.keys, other) == rest)
        hit[second[there]] = True
        place[second[there]] = other[there]
        hits = np.flatnonzero(hit)
        return hits, place[hits]

    def _end(self, place: np.ndarray, live: np.ndarray, queries: int) -> np.ndarray:
        """Write each query at its node, the lowest where several share it; returns the chain of the others."""
        order = np.argsort(place, kind="stable")
        place, live = place[order], live[order]
        again = np.zeros(len(place), bool)
        again[1:] = place[1:] == place[:-1]
        self.nodes[place[~again]] |= ((live[~again] + 1) << 1).astype(np.uint32)
        if not again.any():
            return NO_TWINS
        twins = np.full(queries, -1, np.int32)
        twins[live[:-1][again[1:]]] = live[1:][again[1:]]
        return twins


def _continuations(tokens: Tokens, plain: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whether a window may go on with each token (and none behind the last), and what it then adds to the key."""
    follows = np.ones(len(tokens.hashes) + 1, bool)
    follows[tokens.bounds] = False
    if tokens.before is None:
        return follows, tokens.hashes
    if plain:
        follows[:-1] &= tokens.before == 1
        return follows, tokens.hashes
    return follows, tokens.hashes + (tokens.before - 1).astype(np.uint64) * TOUCH


def _distinct(keys: np.ndarray) -> np.ndarray:
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def _first_places(keys: np.ndarray, size: int) -> np.ndarray:
    return (keys >> np.uint64(65 - size.bit_length())).view(np.int64)


def _second_places(keys: np.ndarray, size: int) -> np.ndarray:
    return (keys >> np.uint64(22) & np.uint64(size - 1)).view(np.int64)


def _cuckoo(keys: np.ndarray) -> np.ndarray:
    """A table of the distinct keys, less than half full, twice as large where they do not fit."""
    size = 1 << max(4, (len(keys) * 9 // 4).bit_length())
    while True:
        table, homeless, place = np.zeros(size, np.uint64), keys, _first_places(keys, size)
        for _ in range(100):
            driven_out = table[place]
            table[place] = homeless
            settled = table[place] == homeless  # of several keys for one place the last one
            gone = settled & (driven_out != 0)
            homeless = np.concatenate((homeless[~settled], driven_out[gone]))
            if not len(homeless):
                return table
            left = np.concatenate((place[~settled], place[gone]))
            first, second = _first_places(homeless, size), _second_places(homeless, size)
            place = np.where(left == first, second, first)
        size *= 2
