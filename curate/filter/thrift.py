"""Thrift's compact protocol, as far as the footers and pages of parquet need it: bytes to fields and back.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any

TRUE, FALSE, I8, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12  # types
Struct = dict[int, tuple[int, Any]]  # field -> (type, value); the value of a list is (type of its items, items)
ONE = [bytes([value]) for value in range(128)]


def struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins at a place, and where it ends."""
    found: Struct = {}
    field = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _zigzag(data, at)
        kind = head & 15
        if kind < I8:  # a bool lies in its type
            found[field] = (kind, None)
        else:
            value, at = _value(data, at, kind)
            found[field] = (kind, value)
    return found, at + 1


def written(struct: Struct) -> bytes:
    """The bytes of a struct."""
    parts, before = [], 0
    for field in sorted(struct):
        kind, value = struct[field]
        delta, before = field - before, field
        parts.append(bytes([delta << 4 | kind]) if delta < 16 else bytes([kind]) + packed(field << 1))
        if kind not in (TRUE, FALSE):
            parts.append(_told(kind, value))
    return b"".join((*parts, b"\0"))


def packed(value: int) -> bytes:
    """A whole number from 0 on, seven bits a byte, the lowest first."""
    if value < 128:
        return ONE[value]
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _zigzag(data, at)
    if kind == BINARY:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return struct(data, at)
    if kind in (TRUE, FALSE, I8):
        return data[at], at + 1
    if kind == 7:  # a double
        return data[at : at + 8], at + 8
    if kind not in (LIST, 10):
        raise ValueError(f"no such type in a parquet footer: {kind}")
    size, inner = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(data, at)
    values = []
    for _ in range(size):
        value, at = _value(data, at, inner)
        values.append(value)
    return (inner, values), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if data[at] < 128:
        return data[at], at + 1
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _told(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return packed(value << 1 if value >= 0 else (-value << 1) - 1)
    if kind == BINARY:
        return packed(len(value)) + value
    if kind == STRUCT:
        return written(value)
    if kind in (TRUE, FALSE, I8):
        return bytes([value])
    if kind == 7:
        return value
    inner, values = value
    head = bytes([len(values) << 4 | inner]) if len(values) < 15 else bytes([15 << 4 | inner]) + packed(len(values))
    return head + b"".join(_told(inner, each) for each in values)
