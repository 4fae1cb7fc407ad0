"""Reading and shrinking screenshots, on pictures made here."""

import struct
import zlib

import pytest
from pixels import SIGNATURE, read_png, shrink

WIDTH, HEIGHT = 7, 10
ROWS = [bytes((17 * x * y + 91 * channel) & 255 for x in range(WIDTH) for channel in range(3)) for y in range(HEIGHT)]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def paeth(a: int, b: int, c: int) -> int:
    estimate = a + b - c
    return min((a, b, c), key=lambda value: abs(estimate - value))


def filtered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """Apply a filter as PNG's section 9.2 states it."""
    left = bytes(step) + row[:-step]
    corner = bytes(step) + above[:-step]
    guesses = [
        {0: 0, 1: a, 2: b, 3: (a + b) // 2, 4: paeth(a, b, c)}[kind]
        for a, b, c in zip(left, above, corner, strict=True)
    ]
    return bytes([kind]) + bytes((x - guess) & 255 for x, guess in zip(row, guesses, strict=True))


def png(rows: list[bytes], *, step: int = 3, depth: int = 8) -> bytes:
    """Encode rows, each with another filter."""
    above = [bytes(len(rows[0])), *rows]
    lines = b"".join(filtered(y % 5, row, above[y], step) for y, row in enumerate(rows))
    kind = {3: 2, 4: 6}[step]
    header = struct.pack(">IIBBBBB", len(rows[0]) // step, len(rows), depth, kind, 0, 0, 0)
    body = zlib.compress(lines)
    return (
        SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", body[:9]) + chunk(b"IDAT", body[9:]) + chunk(b"IEND", b"")
    )


def test_reads_every_filter() -> None:
    pixels = read_png(png(ROWS))
    assert (pixels.width, pixels.height) == (WIDTH, HEIGHT)
    assert pixels.rows == ROWS


def test_reads_a_picture_with_alpha() -> None:
    opaque = [b"".join(row[at : at + 3] + b"\xff" for at in range(0, len(row), 3)) for row in ROWS]
    assert read_png(png(opaque, step=4)).rows == ROWS


def test_brightness_is_the_mean() -> None:
    assert read_png(png([bytes([0, 0, 0, 255, 255, 255])])).brightness() == 127.5


@pytest.mark.parametrize("data", [b"GIF89a", png(ROWS, depth=16)])
def test_says_what_it_cannot_read(data: bytes) -> None:
    with pytest.raises(ValueError, match="PNG"):
        read_png(data)


def test_shrinks_to_a_palette_and_keeps_flat_colours() -> None:
    flat = [bytes((0xFB, 0xFB, 0xFA)) * 400] * 20
    edges = [bytes(value & 255 for x in range(400) for value in (x, x + y, 255 - x)) for y in range(20)]
    small = shrink(png(flat + edges))

    assert len(small) < len(png(flat + edges))
    at = small.index(b"PLTE")
    (size,) = struct.unpack(">I", small[at - 4 : at])
    palette = small[at + 4 : at + 4 + size]
    colours = [palette[start : start + 3] for start in range(0, size, 3)]
    assert len(colours) <= 256
    at = small.index(b"IDAT")
    (size,) = struct.unpack(">I", small[at - 4 : at])
    lines = zlib.decompress(small[at + 4 : at + 4 + size])
    assert {colours[index] for index in lines[1:401]} == {bytes((0xFB, 0xFB, 0xFA))}
    assert zlib.crc32(small[at : at + 4 + size]) == struct.unpack(">I", small[at + 4 + size : at + 8 + size])[0]
