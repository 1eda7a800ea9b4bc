"""A pool that is computed, never stored: row i of it is a function of i alone, so any cut of it holds the same rows.

    curate harvest "./benchmarks/generated_pool.py(words=WORDS.parquet, rows=100000000, parts=500)" ...

WORDS.parquet has the columns word and share, as `harvest_scale.py` writes it. Half of the texts are one to three of
262,144 phrases of three words, each word as frequent as it is used (Zipf's law); the others are codes that no query
stands in. A tenth of the rows repeat an earlier one, and some urls have several texts.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 65_536  # rows in a batch
PHRASES = 1 << 18
SENTENCES, REPEATED = 0.5, 0.1  # shares of the rows
ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # multipliers: three numbers out of one
HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


class Pool:
    """`words`: parquet of word, share; `rows` in all, cut into `parts`."""

    def __init__(self, words: str, rows: int, parts: int):
        self.words, self.rows, self.count = words, rows, parts

    def parts(self) -> list[str]:
        return [f"generated/{number:06d}-of-{self.count:06d}" for number in range(self.count)]

    def read(self, part: str) -> Iterator[pa.Table]:
        number = int(Path(part).name.split("-")[0])
        start, stop = (at * self.rows // self.count for at in (number, number + 1))
        for first in range(start, stop, ROWS):
            yield rows(self.words, np.arange(first, min(first + ROWS, stop), dtype=np.uint64))


def rows(words: str, numbers: np.ndarray) -> pa.Table:
    """The rows of these numbers, uint64."""
    dice = mix(numbers)
    repeats = dice < np.uint64(REPEATED * 2**64)
    numbers[repeats] = mix(dice[repeats]) % np.maximum(numbers[repeats], np.uint64(1))
    dice = mix(numbers + np.uint64(1 << 40))
    image = mix(numbers >> (dice & dice >> np.uint64(8) & np.uint64(1)))  # neighbours share an image now and then
    hosts = hexadecimal(image >> np.uint64(48), 4)
    urls = pc.binary_join_element_wise(
        "https://www.shop-", hosts, ".example/media/", hexadecimal(image, 16), ".jpg", ""
    )
    return pa.table({"url": urls, "caption": captions(words, dice)})


def captions(words: str, dice: np.ndarray) -> pa.Array:
    """A few phrases, or a code."""
    sentence = dice < np.uint64(SENTENCES * 2**64)
    said = dice[sentence]
    first, second, third = (
        phrases(words).take(pa.array((said * np.uint64(odd) >> np.uint64(46)).view(np.int64))) for odd in ODD
    )
    length = said % np.uint64(3)
    second = pc.if_else(pa.array(length > 0), second, "")
    third = pc.if_else(pa.array(length > 1), third, "")
    texts = pa.concat_arrays([pc.binary_join_element_wise(first, second, third, " "), hexadecimal(dice[~sentence], 14)])
    order = np.empty(len(dice), np.int64)
    order[np.concatenate((np.flatnonzero(sentence), np.flatnonzero(~sentence)))] = np.arange(len(dice))
    return texts.take(pa.array(order))


@lru_cache(maxsize=1)
def phrases(path: str) -> pa.Array:
    """PHRASES phrases of three words each."""
    table = pq.read_table(path, use_threads=False)
    ends = np.cumsum(table["share"].to_numpy())
    dice = mix(np.arange(3 * PHRASES, dtype=np.uint64)) / 2**64
    words = table["word"].combine_chunks().take(pa.array(np.searchsorted(ends, dice * ends[-1])))
    return pc.binary_join(pa.FixedSizeListArray.from_arrays(words, 3).cast(pa.list_(pa.string())), " ")


def hexadecimal(values: np.ndarray, digits: int) -> pa.Array:
    """The last hex digits of each number."""
    told = HEX[values.astype(">u8").view(np.uint8)].view(np.uint8).reshape(-1, 16)[:, 16 - digits :]
    offsets = np.arange(0, digits * len(values) + 1, digits, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(told.tobytes())])


def mix(values: np.ndarray) -> np.ndarray:
    """splitmix64, a random number for each number."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
