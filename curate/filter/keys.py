"""Ranks as unsigned integers: the order of float64 values, of uids, of what chance draws for a uid."""

import binascii

import numpy as np
import pyarrow as pa
import xxhash

from curate.arrow import text

SMALL = 0x20  # the bit that tells a to f, and no digit, from A to F
SIGN = np.uint64(1 << 63)


def of_values(values: np.ndarray) -> np.ndarray:
    """float64 without NaN -> uint64 in the same order; -0 and 0 are one value."""
    bits = (np.asarray(values, np.float64) + 0.0).view(np.uint64)
    bits ^= (bits.view(np.int64) >> 63).view(np.uint64) | SIGN  # of a negative all bits, else the sign
    return bits


def value_of(key: int) -> float:
    """The value of a key of `of_values`."""
    bits = key ^ (1 << 63) if key >> 63 else key ^ ((1 << 64) - 1)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


def of_uids(uids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of 128-bit uids, uint64 [rows] each, in the order of the text. A uid that is not 32 hex digits
    stands as its 128-bit xxh3, which keeps ties decided but in another order."""
    found = hex_halves(uids)
    if found is None:
        digests = [xxhash.xxh3_128_hexdigest(uid.encode("utf-8", "surrogatepass")) for uid in uids.to_pylist()]
        found = hex_halves(pa.array(digests, pa.string()))
    assert found is not None
    return found


def words(uids: pa.Array) -> np.ndarray | None:
    """uint64 [rows, 4]: the bytes of uids of 32 characters, in the order of the text; None where one has others."""
    _, offsets, data = text(uids).buffers()
    if not len(uids):
        return np.zeros((0, 4), np.uint64)
    ends = np.frombuffer(offsets, np.int32)[uids.offset : uids.offset + len(uids) + 1]
    if uids.null_count or (np.diff(ends) != 32).any():
        return None
    return np.frombuffer(data, ">u8", count=4 * len(uids), offset=ends[0]).reshape(-1, 4).astype(np.uint64)


def hex_halves(uids: pa.Array, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """uint64 [rows] twice, of some rows or all, or None where a uid is not 32 small hex digits."""
    if len(uids) == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    _, offsets, data = text(uids).buffers()
    ends = np.frombuffer(offsets, np.int32)[uids.offset : uids.offset + len(uids) + 1]
    if uids.null_count or (np.diff(ends) != 32).any():
        return None
    digits = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].reshape(-1, 32)
    digits = digits if rows is None else digits[rows]
    if not (digits & SMALL).all():
        return None
    try:
        halves = np.frombuffer(binascii.unhexlify(digits.data), ">u8").reshape(-1, 2).astype(np.uint64)
    except binascii.Error:
        return None
    return halves[:, 0].copy(), halves[:, 1].copy()


def drawn(high: np.ndarray, low: np.ndarray, seed: int, number: int = 0) -> np.ndarray:
    """uint64 [rows] that chance draws for each uid: the same for the same (uid, seed, number), on any machine.

    SplitMix64's finaliser (Steele et al. 2014) over both halves and the seed."""
    start = np.array([(seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 1) % 2**64], np.uint64)
    return _mixed(_mixed(high + _mixed(start)) ^ low)


def uniform(draws: np.ndarray) -> np.ndarray:
    """float64 in the open interval (0, 1)."""
    return ((draws >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mixed(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
