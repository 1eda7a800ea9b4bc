"""Thrift's compact protocol, as far as the footers and pages of parquet need it written.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any

TRUE, FALSE, I8, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12  # types
# field -> (type, value), fields ascending, less than 16 apart. The value of a list is (type of its items, items); that
# of a struct may be what `written` gave of it
Struct = dict[int, tuple[int, Any]]


def written(struct: Struct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _struct(out, struct)
    return bytes(out)


def packed(value: int) -> bytes:
    """A whole number from 0 on, seven bits a byte, the lowest first."""
    out = bytearray()
    _number(out, value)
    return bytes(out)


def _struct(out: bytearray, struct: Struct) -> None:
    before = 0
    for field, (kind, value) in struct.items():
        out.append((field - before) << 4 | kind)
        before = field
        if kind not in (TRUE, FALSE):  # a bool lies in its type
            _value(out, kind, value)
    out.append(0)


def _value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _number(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == BINARY:
        _number(out, len(value))
        out += value
    elif kind == STRUCT:
        if isinstance(value, bytes):
            out += value
        else:
            _struct(out, value)
    elif kind == I8:
        out.append(value)
    else:
        inner, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | inner)
        else:
            out.append(15 << 4 | inner)
            _number(out, len(values))
        for each in values:
            _value(out, inner, each)


def _number(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
