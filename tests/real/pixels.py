"""Screenshots as PNG files: read their pixels, and make them small by a palette. No library is needed for either.

Follows the PNG specification (W3C, third edition): section 9 for filters, 11 for chunks. Reads what a browser writes:
8 bits, RGB or RGBA, not interlaced.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

__all__ = ["Pixels", "read_png", "shrink"]

Colour = tuple[int, int, int]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE = 256


@dataclass(frozen=True)
class Pixels:
    """A decoded picture: `rows` of `width` pixels, each three bytes: red, green, blue."""

    width: int
    height: int
    rows: list[bytes]

    def colours(self) -> Counter[Colour]:
        """Count the pixels of each colour."""
        counted: Counter[Colour] = Counter()
        for row in self.rows:
            counted.update(zip(row[0::3], row[1::3], row[2::3], strict=True))
        return counted

    def brightness(self) -> float:
        """Return the mean of all channels of all pixels, 0 for black to 255 for white."""
        return sum(sum(row) for row in self.rows) / (3 * self.width * self.height)


def read_png(data: bytes) -> Pixels:
    """Decode `data`. Raises ValueError if it is no PNG of the kind that browsers write."""
    chunks = list(_chunks(data))
    width, height, depth, kind, *_rest, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth != 8 or kind not in (2, 6) or interlaced:
        raise ValueError(f"cannot read a PNG of depth {depth}, colour type {kind}, interlace {interlaced}")
    step = 3 if kind == 2 else 4
    raw = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    rows, above = [], bytes(width * step)
    for start in range(0, len(raw), 1 + width * step):
        above = _unfilter(raw[start], bytearray(raw[start + 1 : start + 1 + width * step]), above, step)
        rows.append(above if step == 3 else _without_alpha(above))
    return Pixels(width, height, rows)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG")
    at = len(SIGNATURE)
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def _unfilter(kind: int, row: bytearray, above: bytes, step: int) -> bytes:
    if kind == 2:
        return bytes([(a + b) & 255 for a, b in zip(row, above, strict=True)])
    for at in range(len(row)) if kind else ():
        left = row[at - step] if at >= step else 0
        corner = above[at - step] if at >= step else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + above[at]) // 2
        else:
            guess = _paeth(left, above[at], corner)
        row[at] = (row[at] + guess) & 255
    return bytes(row)


def _paeth(left: int, up: int, corner: int) -> int:
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


def _without_alpha(row: bytes) -> bytes:
    kept = bytearray(len(row) // 4 * 3)
    for channel in range(3):
        kept[channel::3] = row[channel::4]
    return bytes(kept)


def shrink(data: bytes) -> bytes:
    """Return `data`, a screenshot, with at most 256 colours; flat areas keep theirs exactly."""
    pixels = read_png(data)
    counted = pixels.colours()
    palette = _palette(counted)
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in counted:
        if colour not in index:
            index[colour] = min(range(len(palette)), key=partial(_distance, colour, palette))
    lines = bytearray()
    for row in pixels.rows:
        lines.append(0)
        lines.extend(map(index.__getitem__, zip(row[0::3], row[1::3], row[2::3], strict=True)))
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.width, pixels.height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(value for colour in palette for value in colour)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _palette(counted: Counter[Colour]) -> list[Colour]:
    """Return the commonest colours and, for the many rare ones of letters' edges, one of each small cube of colours."""
    exact = [colour for colour, _count in counted.most_common(PALETTE // 2)]
    cubes: dict[Colour, list[tuple[int, Colour]]] = {}
    for colour, count in (counted - Counter(dict.fromkeys(exact, counted.total()))).items():
        cube = (colour[0] >> 4, colour[1] >> 4, colour[2] >> 4)
        cubes.setdefault(cube, []).append((count, colour))
    fullest = sorted(cubes.values(), key=lambda cube: -sum(count for count, _colour in cube))
    return exact + [max(cube)[1] for cube in fullest[: PALETTE - len(exact)]]


def _distance(colour: Colour, palette: list[Colour], number: int) -> int:
    other = palette[number]
    return sum((a - b) ** 2 for a, b in zip(colour, other, strict=True))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
