"""Pairs of words that stand together more often than chance has it."""

import math
from collections.abc import Iterable, Iterator, Mapping

STOP_SHARE = 0.002  # a word that makes up this much of running text says nothing: "the", "of"; not "new" (0.0016)


def collocations(
    pairs: Iterable[tuple[str, str, int]], words: Mapping[str, int], total: float, pmi: float,
    stop_share: float = STOP_SHARE,
) -> Iterator[tuple[str, int]]:  # fmt: skip
    """("first second", count) of the pairs whose pointwise mutual information is at least `pmi` bits.

    PMI (Church and Hanks, 1990) = log2(count * total / (count of first * count of second)), `total` in words of the
    text that both were counted in. A pair with a stop word, or with a word that was not counted, is left out.
    """
    stop = {word for word, count in words.items() if stop_share and count >= stop_share * total}
    for first, second, count in pairs:
        if first in stop or second in stop or first not in words or second not in words:
            continue
        if math.log2(count * total / (words[first] * words[second])) >= pmi:
            yield f"{first} {second}", count
