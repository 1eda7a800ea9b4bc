"""All queries as one trie of token hashes in an open-addressing table: a whole block of texts descends it at once.

The key of a node is the hash of its token mixed with the number of its parent and with how the two tokens touch. Keys
are 64 bits and compared whole, so what is no query is taken for one with probability nodes / 2^64 a look-up: for 500,000
queries (600,000 nodes) and 14 look-ups a caption one wrong match expected in 2 x 10^12 captions. None is ever missed.
"""

from dataclasses import dataclass, fields

import numpy as np

from curate.harvest.match_tokens import Tokens, mixed

PARENT, TOUCH = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)


@dataclass
class Trie:
    """Read-only arrays, so that processes can share one memory-mapped copy."""

    keys: np.ndarray  # uint64 [2^b], 0 = free
    nodes: np.ndarray  # uint32 [2^b], 2 * (query + 1, or 0 where no query ends) + (1 where longer queries go on)
    twins: np.ndarray  # int32 [queries], the next query of the same tokens, -1 = none; empty where no query has one

    @classmethod
    def build(cls, tokens: Tokens, live: np.ndarray) -> "Trie":
        """The trie of the queries in `live` (ascending ids); each has at least one token."""
        first, count = tokens.bounds[live], np.diff(tokens.bounds)[live]
        size = 1 << max(4, int(2 * count.sum()).bit_length())
        trie = cls(np.zeros(size, np.uint64), np.zeros(size, np.uint32), np.zeros(0, np.int32))
        at = np.zeros(len(live), np.int64)  # where each query's last token so far is
        for depth in range(int(count.max(initial=0))):
            (going,) = np.nonzero(count > depth)
            if depth:
                trie.nodes[at[going]] |= np.uint32(1)
            at[going] = trie._insert(_keys(tokens, first[going] + depth, at[going] if depth else None))
        trie.twins = trie._end(at, live, len(tokens.bounds) - 1)
        return trie

    def find(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every window of tokens that is a query: its first token, its last token, the lowest such query."""
        follows = np.ones(len(tokens.hashes) + 1, bool)
        follows[tokens.bounds] = False
        token, node = self._look_up(_keys(tokens, np.arange(len(tokens.hashes)), None))
        start, found = token, []
        while len(token):
            value = self.nodes[node]
            (ends,) = np.nonzero(value > 1)
            found.append((start[ends], token[ends], (value[ends] >> np.uint32(1)).astype(np.int64) - 1))
            (going,) = np.nonzero((value & np.uint32(1)).astype(bool) & follows[token + 1])
            start, token, node = start[going], token[going] + 1, node[going]
            hits, node = self._look_up(_keys(tokens, token, node))
            start, token = start[hits], token[hits]
        if not found:
            return (np.zeros(0, np.int64),) * 3
        return tuple(np.concatenate(parts) for parts in zip(*found))  # type: ignore[return-value]

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _look_up(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which keys are there, and their places."""
        place = self._home(keys)
        held = self.keys[place]
        hit = held == keys
        (pending,) = np.nonzero((held != 0) & ~hit)
        while len(pending):
            place[pending] = (place[pending] + 1) & (len(self.keys) - 1)
            held = self.keys[place[pending]]
            hit[pending] = same = held == keys[pending]
            pending = pending[(held != 0) & ~same]
        (hits,) = np.nonzero(hit)
        return hits, place[hits]

    def _insert(self, keys: np.ndarray) -> np.ndarray:
        """The place of each key, new keys put into the next free place."""
        unique, inverse = np.unique(keys, return_inverse=True)
        place = self._home(unique)
        pending = np.arange(len(unique))
        while len(pending):
            here = place[pending]
            free = self.keys[here] == 0
            self.keys[here[free]] = unique[pending[free]]
            pending = pending[self.keys[here] != unique[pending]]
            place[pending] = (place[pending] + 1) & (len(self.keys) - 1)
        return place[inverse]

    def _home(self, keys: np.ndarray) -> np.ndarray:
        return (keys >> np.uint64(65 - len(self.keys).bit_length())).astype(np.int64)

    def _end(self, at: np.ndarray, live: np.ndarray, queries: int) -> np.ndarray:
        """Write each query at its node, the lowest where several share it; returns the chain of the others."""
        order = np.argsort(at, kind="stable")
        at, live = at[order], live[order]
        again = np.zeros(len(at), bool)
        again[1:] = at[1:] == at[:-1]
        self.nodes[at[~again]] |= ((live[~again] + 1) << 1).astype(np.uint32)
        if not again.any():
            return np.zeros(0, np.int32)
        twins = np.full(queries, -1, np.int32)
        twins[live[:-1][again[1:]]] = live[1:][again[1:]]
        return twins


def _keys(tokens: Tokens, which: np.ndarray, parent: np.ndarray | None) -> np.ndarray:
    """Keys of the nodes that tokens `which` lead to from the nodes `parent` (None: the root)."""
    keys = tokens.hashes[which]
    if parent is not None:
        keys = keys + parent.astype(np.uint64) * PARENT
        if tokens.before is not None:
            keys += tokens.before[which].astype(np.uint64) * TOUCH
        else:
            keys += TOUCH
        keys = mixed(keys)
    return np.maximum(keys, np.uint64(1))
