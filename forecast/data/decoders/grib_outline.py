"""What two GRIB messages differ by, seen in their bytes: eccodes takes milliseconds to say what a message holds, and
most messages of an archive hold what an earlier one did, at another date.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 1 << 14
"""Bytes in which all headers must lie: rows of reduced grids take 2 or 4 each."""
_RELATIVE = (0, 1)
"""Product definition templates of edition 2 that give times relative to the reference only."""


@dataclass(frozen=True)
class Outline:
    """A message in bytes: its length, its date of reference in seconds since 1970, and all else of its headers."""

    length: int
    reference: int
    rest: bytes


def outline(handle: BinaryIO, offset: int, end: int) -> Outline | None:
    """The message at `offset` of a file of `end` bytes; None where it is not plainly that, and eccodes has to say."""
    handle.seek(offset)
    block = handle.read(_BLOCK)
    try:
        found = {1: _first, 2: _second}[block[7]](block)
    except (IndexError, KeyError, ValueError):
        return None
    if found is None or offset + found.length > end:
        return None
    handle.seek(offset + found.length - 4)
    return found if handle.read(4) == b"7777" else None


def _first(block: bytes) -> Outline | None:
    """Edition 1: times are relative to the reference, whose bytes stand in the product definition."""
    length, product = int.from_bytes(block[4:7]), int.from_bytes(block[8:11])
    begin, grid = 8, 8 + product
    if length >= 1 << 23 or product < 28 or not block[begin + 7] & 0x80:  # large messages count in other units
        return None
    stop = grid + int.from_bytes(block[grid : grid + 3])
    year, month, day, hour, minute = block[begin + 12 : begin + 17]
    reference = _seconds((block[begin + 24] - 1) * 100 + year, month, day, hour, minute, 0)
    if not grid < stop <= len(block):
        return None
    rest = block[begin : begin + 12] + block[begin + 17 : begin + 24] + block[begin + 25 : stop]
    return Outline(length, reference, b"1" + rest)


def _second(block: bytes) -> Outline | None:
    """Edition 2: sections up to the product definition."""
    at, sections = 16, {}
    while at < len(block) and 4 not in sections:
        size, number = int.from_bytes(block[at : at + 4]), block[at + 4]
        if size < 5 or at + size > len(block):
            return None
        sections[number] = block[at : at + size]
        at += size
    if not {1, 3, 4} <= set(sections):
        return None
    first = sections[1]
    reference = _seconds(int.from_bytes(first[12:14]), *first[14:19])
    if int.from_bytes(sections[4][7:9]) in _RELATIVE:
        sections[1] = first[:12] + first[19:]
    rest = b"".join(sections[number] for number in sorted(sections))
    return Outline(int.from_bytes(block[8:16]), reference, b"2" + block[6:7] + rest)


def _seconds(*date: int) -> int:
    return int(datetime.datetime(*date, tzinfo=datetime.UTC).timestamp())  # type: ignore[misc,arg-type]
