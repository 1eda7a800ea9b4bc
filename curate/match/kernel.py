"""The compiled loops of compiled.py: numba's, which only the process that compiles them imports.

A few texts at a time: all are cut into tokens, all tokens and the windows of two are looked up, then each text walks on
from what was found, so that the look-ups wait for memory together.

They are handed bare pointers and allocate nothing, so that their machine code needs no numba, no Python and no memory
but what the caller owns. Numbers that meet hashes are unsigned: numba makes floats of mixed ones.
"""

from typing import Any

import numba
import numpy as np

from curate.match.characters import BLANK, JOINER, MARK, REMOVED, SYMBOL, WORD
from curate.match.hashing import MIX, PARENT, SALT, TOUCH
from curate.match.layout import INSIDE, LEFT, LOOPS, RECENT, TOGETHER, UNICODE

FIRST_MIX, LAST_MIX = MIX
U = np.uint64
ONES, TOPS = U(0x0101010101010101), U(0x8080808080808080)
LAST = np.int32(2**31 - 1)
FIRST = -1  # in place of how it touches the one before: the first token of a text
ZERO, NINE = np.int64(0), np.int64(9)  # not literals, for each of which numba compiles a function anew
compiled: Any = numba.njit(no_cpython_wrapper=True)  # type: ignore[call-overload]


@compiled
def _look_up(words, windows, bits, plain, hashes, before, tokens, values, nexts, some, paths, recent, known):
    """The value of each token alone; `some` tokens, ended by LAST, whose window with the next one is a node, its value.

    Loops almost without branches, so that the processor waits for many places at once; common words are remembered.
    """
    missing, likely, slots = np.int64(0), np.int64(0), U(RECENT - 1)
    for token in range(tokens):
        slot = hashes[token] >> U(32) & slots
        values[token] = known[slot]
        some[missing] = token
        missing += recent[slot] != hashes[token]
    for i in range(missing):
        paths[i] = words[hashes[some[i]] >> (U(64) - bits)]
    for i in range(missing):
        key = hashes[some[i]]
        slot, values[some[i]] = key >> U(32) & slots, _value(key, paths[i], words, bits)
        recent[slot], known[slot] = key, values[some[i]]
    before[tokens], hashes[tokens] = FIRST, 0
    for token in range(tokens):
        touch = before[token + 1]
        paths[likely] = _longer(hashes[token], hashes[token + 1], touch, plain)
        some[likely] = token
        goes_on = values[token] & U(touch == 1 or (touch >= 0 and not plain))
        likely += np.int64(_likely(paths[likely], windows, bits) & goes_on)
    for i in range(likely):
        nexts[i] = words[paths[i] >> (U(64) - bits)]
    there = 0
    for i in range(likely):
        some[there], nexts[there] = some[i], _value(paths[i], nexts[i], words, bits)
        there += nexts[there] != 0
    some[there] = LAST


@compiled
def _walk(words, windows, twins, twinned, bits, plain, hashes, before, values, nexts, some, bounds, found, size, room,
          few, counts, first, after):  # fmt: skip
    """Append the queries of each text to found[:size], which has `room`; the new size, -1 where that is too little."""
    window = 0
    for row in range(first, after):
        begin, end = size, bounds[row - first + 1]
        for token in range(bounds[row - first], end):
            size = _ended(values[token], twins, twinned, found, size, room)
        while some[window] < end:
            value, path, last = nexts[window], hashes[some[window]], some[window] + 1
            window += 1
            while value:
                size = _ended(value, twins, twinned, found, size, room)
                path = _longer(path, hashes[last], before[last], plain)
                last += 1
                if not value & U(1) or last == end or (plain and before[last] != 1):
                    break
                key = _longer(path, hashes[last], before[last], plain)
                likely = _likely(key, windows, bits)
                value = _value(key, words[(key >> (U(64) - bits)) * likely] * likely, words, bits)
        if size > room:
            return -1
        size = _sorted(found, begin, size, few)
        counts[row] = size - begin
    return size


@compiled
def _ended(value, twins, twinned, found, size, room):
    """Append the query of a node, if it has one, and its twins; what has no room is only counted."""
    query = np.int64(value >> U(1)) - 1
    if size < room:
        found[size] = query
    size += query >= 0
    if twinned and query >= 0:
        query = np.int64(twins[query])
        while query >= 0:
            if size < room:
                found[size] = query
            size += 1
            query = np.int64(twins[query])
    return size


@compiled
def _longer(path, key, touch, plain):
    """See Trie.find."""
    path = path * PARENT + key
    return path if plain else path + U(touch - 1) * TOUCH


@compiled
def _likely(key, windows, bits):
    """See Trie._likely; 0 or 1."""
    place = key >> (U(64) - bits)
    return U(windows[place >> U(3)]) >> (place & U(7)) & U(1)


@compiled
def _value(key, held, words, bits):
    """See Trie.values; `held` is the word at the first place of the key. Without a branch: place 0 where no other."""
    half = U(1) << (bits - U(1))
    value = key << bits ^ held
    missed = U(value >= half) & U(held != 0)
    other = key >> (U(64) - bits) ^ (key >> (U(64) - U(2) * bits) & (U(1) << bits) - U(1))
    rest = words[other * missed] ^ key << bits ^ half
    rest *= missed & U(rest < half)
    return value if value < half else rest


@compiled
def _sorted(found, begin, size, few):
    """Sort found[begin:size], drop repetitions; the new size. `few` int32 [18] is for its use."""
    if size - begin > 16:
        _by_gaps(found, begin, size)
        kept = begin
        for i in range(begin, size):
            found[kept] = found[i]
            kept += i + 1 == size or found[i + 1] != found[i]
        return kept
    _eight(found, begin, size, few, ZERO)
    few[8] = few[17] = LAST
    if size - begin > 8:
        _eight(found, begin + 8, size, few, NINE)
    else:
        few[9] = LAST
    left, right, kept, before = 0, 9, begin, np.int32(-1)
    for _ in range(begin, size):  # merged, without a branch
        first = few[left] <= few[right]
        query = few[left] if first else few[right]
        left += first
        right += not first
        kept += query != before
        found[kept - 1] = before = query
    return kept


@compiled
def _by_gaps(found, begin, size):
    """Sort found[begin:size] as Shell did, with gaps that shrink to 5/11: few texts have so many."""
    gap = size - begin
    while gap > 1:
        gap = gap * 29 >> 6 if gap > 4 else 1
        for i in range(begin + gap, size):
            query, place = found[i], i
            while place >= begin + gap and found[place - gap] > query:
                found[place] = found[place - gap]
                place -= gap
            found[place] = query


@compiled
def _eight(found, i, size, few, at):
    """Sort found[i:size], or as many as eight of them, into few[at:]: a sorting network."""
    a = found[i] if i < size else LAST
    b = found[i + 1] if i + 1 < size else LAST
    c = found[i + 2] if i + 2 < size else LAST
    d = found[i + 3] if i + 3 < size else LAST
    e = found[i + 4] if i + 4 < size else LAST
    f = found[i + 5] if i + 5 < size else LAST
    g = found[i + 6] if i + 6 < size else LAST
    h = found[i + 7] if i + 7 < size else LAST
    a, c, b, d, e, g, f, h = min(a, c), max(a, c), min(b, d), max(b, d), min(e, g), max(e, g), min(f, h), max(f, h)
    a, e, b, f, c, g, d, h = min(a, e), max(a, e), min(b, f), max(b, f), min(c, g), max(c, g), min(d, h), max(d, h)
    a, b, c, d, e, f, g, h = min(a, b), max(a, b), min(c, d), max(c, d), min(e, f), max(e, f), min(g, h), max(g, h)
    c, e, d, f = min(c, e), max(c, e), min(d, f), max(d, f)
    b, e, d, g = min(b, e), max(b, e), min(d, g), max(d, g)
    b, c, d, e, f, g = min(b, c), max(b, c), min(d, e), max(d, e), min(f, g), max(f, g)
    few[at], few[at + 1], few[at + 2], few[at + 3] = a, b, c, d
    few[at + 4], few[at + 5], few[at + 6], few[at + 7] = e, f, g, h


@compiled
def _copied(data, begin, end, text, kinds, classes, lower):
    """Copy a text and note the class of each byte; the length, -1 where it is not ASCII."""
    seen, start, length = np.uint8(0), U(begin), U(end - begin)
    for i in range(length):
        kinds[i] = classes[data[start + i]]
        seen |= kinds[i]
    if seen & UNICODE:
        return -1
    for i in range(length):
        text[i] = data[start + i]
    if lower:
        for i in range(length):
            text[i] += np.uint8(32) if 65 <= text[i] <= 90 else np.uint8(0)
    return end - begin


@compiled
def _decoded(data, i, length, text, kinds, pages, classes, steps):
    """_copied, character by character, each as the one that it counts as; -1 where that is left to the numpy path."""
    size = 0
    while i < length:
        code = np.int64(data[i])
        behind = int(code >= 0xC2) + int(code >= 0xE0) + int(code >= 0xF0)
        if 0x80 <= code < 0xC2 or code >= 0xF5 or not _continues(data, i + 1, length, behind):
            return -1
        code &= 0x3F >> behind if behind else 0x7F
        for _ in range(behind):
            i += 1
            code = code << 6 | np.int64(data[i]) & 0x3F
        i += 1
        if (behind == 2 and code < 0x800) or (behind == 3 and not 0x10000 <= code < 0x110000) or code >> 11 == 27:
            return -1
        page, place = np.int64(pages[code >> 8]), code & 0xFF
        kind, code = classes[page << 8 | place], code + np.int64(steps[page << 8 | place])
        if kind == LEFT:
            return -1
        if kind != REMOVED:
            size = _encoded(code, kind, text, kinds, size)
    return size


@compiled
def _continues(data, i, length, count):
    continued = i + count <= length
    for j in range(i, min(i + count, length)):
        continued &= data[j] & 0xC0 == 0x80
    return continued


@compiled
def _encoded(code, kind, text, kinds, size):
    """Append a character as UTF-8; every byte of a word is WORD, other characters go on with INSIDE."""
    if code < 0x80:
        text[size], kinds[size] = code, kind
        return size + 1
    bytes_behind = 1 if code < 0x800 else 2 if code < 0x10000 else 3
    lead = 0xC0 if bytes_behind == 1 else 0xE0 if bytes_behind == 2 else 0xF0
    text[size], kinds[size] = lead | code >> 6 * bytes_behind, kind
    for j in range(1, bytes_behind + 1):
        text[size + j] = 0x80 | code >> 6 * (bytes_behind - j) & 0x3F
        kinds[size + j] = WORD if kind == WORD else INSIDE
    return size + bytes_behind + 1


@compiled
def _cut(kinds, text, length, spaced, longest, hashes, before, tokens):
    """Append the tokens of a text: hash of each, and how it touches the one before."""
    i, end, behind = 0, 0, BLANK
    kinds[max(length, 0)] = BLANK
    while i < length:
        kind = kinds[i]
        start = i
        if kind == WORD:
            i = _word_end(kinds, i)
        else:
            i += 1
            while kinds[i] == INSIDE:
                i += 1
            if kind == BLANK:
                continue
        if end == 0:
            before[tokens] = FIRST
        elif spaced:
            before[tokens] = start - end + (behind == MARK) + (kind == MARK)
        else:
            before[tokens] = 0 if kind == behind == SYMBOL and start == end else 1
        hashes[tokens] = _hash(text, start, i - start, longest)
        end, behind = i, kind
        tokens += 1
    return tokens


@compiled
def _word_end(kinds, i):
    """Eight places at a time."""
    while True:
        other = _eight_bytes(kinds, i) ^ ONES * U(WORD)
        if not other:
            i += 8
            continue
        lowest = other & (~other + U(1))
        i += np.int64(((lowest - U(1) & TOPS) >> U(7)) * ONES >> U(56))
        if kinds[i] != JOINER or kinds[i - 1] != WORD or kinds[i + 1] != WORD:
            return i
        i += 1


@compiled
def _hash(text, start, length, longest):
    """See hashes_of."""
    hashed, done = U(0), 0
    while True:
        count = min(length - done, 8)
        word = (_eight_bytes(text, start + done) << U(64 - 8 * count)) + U(count) * SALT
        hashed = (hashed ^ word) * FIRST_MIX
        hashed = (hashed ^ hashed >> U(32)) * LAST_MIX
        done += 8
        if done >= length or done > longest:
            return hashed


@compiled
def _eight_bytes(data, i):
    """As one word: a single load to LLVM."""
    low = U(data[i]) | U(data[i + 1]) << U(8) | U(data[i + 2]) << U(16) | U(data[i + 3]) << U(24)
    high = U(data[i + 4]) | U(data[i + 5]) << U(8) | U(data[i + 6]) << U(16) | U(data[i + 7]) << U(24)
    return low | high << U(32)


@numba.cfunc(LOOPS.signature(numba))
def matched(data, offsets, text, kinds, hashes, before, values, nexts, some, paths, bounds, few, recent, known, classes,
            pages, page_classes, page_steps, words, windows, twins, found, counts, left, progress, rows, room, bits,
            plain, twinned, spaced, lower, longest):  # fmt: skip
    """Fills counts, left and found from progress on, (row, size of found); stops where found has no room for a text."""
    row, size = progress[0], progress[1]
    while row < rows:
        first, tokens, bounds[0] = row, ZERO, 0
        stop = offsets[row] + TOGETHER
        while row < rows and (row == first or (offsets[row + 1] <= stop and row - first < TOGETHER)):
            length = _copied(data, offsets[row], offsets[row + 1], text, kinds, classes, lower != 0)
            if length < 0:
                length = _decoded(data, offsets[row], offsets[row + 1], text, kinds, pages, page_classes, page_steps)
            left[row] = length < 0
            tokens = _cut(kinds, text, length, spaced != 0, longest, hashes, before, tokens)
            row += 1
            bounds[row - first] = tokens
        _look_up(words, windows, U(bits), plain != 0, hashes, before, tokens, values, nexts, some, paths, recent, known)
        after = _walk(words, windows, twins, twinned != 0, U(bits), plain != 0, hashes, before, values, nexts, some,
                      bounds, found, size, room, few, counts, first, row)  # fmt: skip
        if after < 0:
            break
        progress[0], progress[1] = row, after
        size = after
