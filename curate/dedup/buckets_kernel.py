"""The compiled loops of buckets_compiled.py: numba's, which only the process that compiles them imports.

A code is packed into 64 bits: what is left of its bucket's number within its part, as much of the code (or of the
signature, where a code has several words) as there is room for, its row. Numbers that are shifted are unsigned: numba
makes floats of mixed ones.
"""

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from curate.dedup.buckets_layout import COARSE, FLUSHED, LOOPS, PRIME

U = np.uint64
compiled: Any = numba.njit(no_cpython_wrapper=True)  # type: ignore[call-overload]


@intrinsic
def _count(_typing_context: Any, _number: Any) -> Any:
    """How many bits of a uint64 are set, int64."""
    return types.int64(types.uint64), lambda _context, builder, _signature, arguments: builder.ctpop(arguments[0])


_ones: Any = _count  # called without its context


@compiled
def _signature(words, mask, row, width):
    """See buckets.signatures."""
    at = row * width
    mixed, first = U(0), True
    for word in range(width):
        if mask[word] != U(0):
            if not first:
                mixed ^= mixed >> U(29)
            mixed = (mixed ^ words[at + word] & mask[word]) * PRIME
            first = False
    return mixed


@compiled
def _placed(words, mask, packed, part, starts, fine, bounds, rows, width, bits, row_bits):
    """Pack the codes bucket by bucket; bounds: where each bucket starts, and the end of the last. `part` holds the
    signatures until the codes are in their parts."""
    inner = bits - min(bits, COARSE)
    outer = bits - inner
    of_part, of_bucket, behind = U(64 - outer), U(64 - inner) if inner else U(0), U(row_bits)
    inside = (U(1) << of_bucket) - U(1) if inner else ~U(0)
    parts, buckets = 1 << outer, 1 << inner
    for at in range(parts + 1):
        starts[at] = 0
    for row in range(rows):
        part[row] = _signature(words, mask, row, width)
        starts[(part[row] >> of_part) + U(1)] += 1
    for at in range(parts):
        starts[at + 1] += starts[at]
    for row in range(rows):
        signed = part[row]
        number = signed >> of_part
        told = words[row] << behind if width == 1 else signed << U(bits) >> U(inner)
        code = (told & inside) >> behind << behind | U(row)
        if inner:
            code |= (signed << U(outer)) >> of_bucket << of_bucket
        packed[starts[number]] = code
        starts[number] += 1
    begin = 0
    for number in range(parts):
        end = starts[number]
        for at in range(buckets + 1):
            fine[at] = 0
        for at in range(begin, end):
            fine[(packed[at] >> of_bucket if inner else U(0)) + U(1)] += 1
        for at in range(buckets):
            fine[at + 1] += fine[at]
            bounds[number * buckets + at] = begin + fine[at]
        for at in range(begin, end):
            bucket = packed[at] >> of_bucket if inner else U(0)
            part[fine[bucket]] = packed[at]
            fine[bucket] += 1
        for at in range(end - begin):
            packed[begin + at] = part[at]
        begin = end
    bounds[parts * buckets] = rows


@compiled
def _kept(words, width, threshold, left, right, first, end):
    """Those of the pairs left[first:end], right[first:end] that are near, moved to the front; where they end."""
    for at in range(first, end):
        one, other = np.int64(left[at]) * width, np.int64(right[at]) * width
        distance = 0
        for word in range(width):
            distance += _ones(words[one + word] ^ words[other + word])
        left[first], right[first] = left[at], right[at]
        first += distance <= threshold
    return first


@numba.cfunc(LOOPS.signature(numba))
def near(words, mask, packed, part, starts, fine, bounds, left, right, large, progress, rows, width, bits, row_bits,
         threshold, largest, room):  # fmt: skip
    """Fills left and right with near pairs, and large with buckets of more than `largest` codes (first place and
    size). progress: the bucket and the code in it to go on from (bucket -1: nothing is placed yet), pairs, large
    buckets; stops where fewer than a bucket's places are left of the `room`."""
    if progress[0] < 0:
        _placed(words, mask, packed, part, starts, fine, bounds, rows, width, bits, row_bits)
        progress[0], progress[1] = 0, 0
    inner, behind = bits - min(bits, COARSE), U(row_bits)
    told = ((U(1) << U(64 - inner)) - U(1) if inner else ~U(0)) >> behind << behind
    row = (U(1) << behind) - U(1)
    may_differ = threshold if width == 1 else 0  # of the packed bits
    known, found, crowds = np.int64(0), np.int64(0), progress[3]
    for bucket in range(progress[0], 1 << bits):
        begin, end = bounds[bucket], bounds[bucket + 1]
        if end - begin > largest:
            large[2 * crowds], large[2 * crowds + 1] = begin, end - begin
            crowds += 1
            continue
        one = begin + progress[1]
        progress[1] = 0
        while one < end - 1:
            if found - known >= FLUSHED or found + end - one > room:
                known = found = _kept(words, width, threshold, left, right, known, found)
                if found + end - one > room:
                    progress[0], progress[1], progress[2], progress[3] = bucket, one - begin, found, crowds
                    return
            code = packed[one]
            for at in range(one + 1, end):
                left[found], right[found] = code & row, packed[at] & row
                found += _ones((code ^ packed[at]) & told) <= may_differ
            one += 1
    progress[0], progress[2] = 1 << bits, _kept(words, width, threshold, left, right, known, found)
    progress[3] = crowds
