"""What is counted of captions, addresses and queries while a shard is open: hosts, queries, lengths, shapes."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HOST = r"^[A-Za-z][A-Za-z0-9+.\-]*://(?:[^/@?#]*@)?(?P<host>\[[^\]]*\]|[^/:?#]+)"
NO_HOST = "(no address)"


@dataclass
class Tally:
    """How often each word stands in all rows, in those that the filter considered, and in those that are kept."""

    every: Counter[str] = field(default_factory=Counter)
    considered: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def add(self, words: pa.ChunkedArray, considered: np.ndarray, kept: np.ndarray) -> None:
        """`words`: one of each row, or a list of them."""
        for counter, rows in ((self.every, None), (self.considered, considered), (self.kept, kept)):
            chosen = words if rows is None else words.filter(pa.array(rows))
            if pa.types.is_list(words.type) or pa.types.is_large_list(words.type):
                chosen = pc.list_flatten(chosen)
            for row in pc.value_counts(chosen).to_pylist():
                counter[row["values"]] += row["counts"]


def hosts(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """The host of each address, without "www."; NO_HOST where it has none."""
    found = pc.struct_field(pc.extract_regex(urls, HOST), "host")
    found = pc.replace_substring_regex(pc.utf8_lower(found), r"^www\.", "")
    return pc.fill_null(found, NO_HOST)


def domains(tally: Tally, shown: int = 20) -> dict[str, Any] | None:
    """The hosts with the most pairs, and how many hosts hold half of all pairs; None where there are no addresses."""
    named = Counter({host: count for host, count in tally.every.items() if host != NO_HOST})
    if not named:
        return None
    ranked = sorted(named.items(), key=lambda item: (-item[1], item[0]))
    running = np.cumsum([count for _, count in ranked])
    return {
        "hosts": len(ranked),
        "half": int(np.searchsorted(running, running[-1] / 2)) + 1,
        "without": tally.every[NO_HOST],
        "largest": [{"value": host, "count": count, "kept": tally.kept[host]} for host, count in ranked[:shown]],
    }


def derived(table: pa.Table, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """Lengths of captions and shapes of images, where no signal measured them."""
    found = {}
    if "caption_words" not in columns:
        caption = table["caption"]
        found["caption_characters"] = pc.utf8_length(caption)
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(caption))
        empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(caption)), 0)
        found["caption_words"] = pc.if_else(empty, pa.scalar(0, pa.int32()), pc.list_value_length(words))
    if "size_aspect" not in columns and {"width", "height"} <= set(columns):
        wide, high = (columns[name].cast(pa.float32()) for name in _sides(columns))
        longer, shorter = pc.max_element_wise(wide, high), pc.min_element_wise(wide, high)
        found["aspect"] = pc.divide(longer, pc.if_else(pc.greater(shorter, 0), shorter, None))
    return found


def _sides(columns: dict[str, pa.ChunkedArray]) -> tuple[str, str]:
    before = ("original_width", "original_height")
    return before if set(before) <= set(columns) else ("width", "height")
