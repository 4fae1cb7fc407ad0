"""The microscope: the bytes of one message, each part named. Above what it says, below the bytes in hex.

In the text twin a frame's masking key, new in each frame, stands as `??`, and its payload unmasked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from labserver.stage.drawing import MARGIN, WIDTH, Sheet, fit, width
from labserver.stage.rich import Picture
from labserver.stage.wire import Sender, WireEvent, close_name, sse_blocks

__all__ = ["Part", "Strip", "draw", "strips"]

_ROOM = WIDTH - 2 * MARGIN - 2
_WIDE, _NARROW, _BITS = 32.0, 20.0, 110.0  # widths of a cell: at most, at least, one that shows bits
_GLYPHS = {10: "\\n", 13: "\\r", 9: "\\t", 32: "␣"}
_LEVEL = 34  # px that a caption goes down to make room for its neighbour
_STRIPS = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring bytes with one meaning.

    Attributes:
        offset: of the first byte in its message.
        raw: the bytes on the wire.
        name, meaning: what they are, and what they say.
        payload: whether they are what the application sent; the rest is framing.
        clear: the bytes unmasked, when they differ from `raw`.
        bits: for a byte whose bits matter, the bits in groups.
        secret: bytes that are random, or nobody can read: no glyphs, and none in the text twin.
    """

    offset: int
    raw: bytes
    name: str
    meaning: str
    payload: bool = False
    clear: bytes | None = None
    bits: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """A message, or one frame of it, in parts."""

    title: str
    sender: Sender
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(len(part.raw) for part in self.parts)

    @property
    def sub(self) -> str:
        carried = sum(len(part.raw) for part in self.parts if part.payload)
        way = "client to server" if self.sender == "client" else "server to client"
        return f"{way}: {self.size} byte{'' if self.size == 1 else 's'} carry {carried}"


# --- naming ---------------------------------------------------------------------------------------------------------


def strips(event: WireEvent) -> list[Strip]:
    """Return the strips of one event: one, or one per frame of a fragmented message."""
    if event.frames:
        count = len(event.frames)
        numbered = [f", {number} of {count}" if count > 1 else "" for number in range(1, count + 1)]
        return [_frame(raw, event, more) for raw, more in zip(event.frames, numbered, strict=True)]
    if event.kind in ("event", "fields"):
        return [Strip("SSE event", event.sender, tuple(_sse(event.raw)))]
    if event.kind == "comment":
        return [Strip("SSE comment", event.sender, tuple(_comment(event.raw)))]
    if event.kind == "chunk":
        return [Strip("HTTP/1.1 chunk", event.sender, tuple(_chunk(event.raw)))]
    if event.kind == "line":
        return [Strip("NDJSON line", event.sender, tuple(_line(event.raw)))]
    if event.kind == "open":
        return [Strip("HTTP/1.1 head", event.sender, tuple(_head(event.raw)))]
    whole = Part(0, event.raw, "bytes", event.note or event.kind, payload=event.kind == "body")
    return [Strip("Body" if event.kind == "body" else "Bytes", event.sender, (whole,))]


_OPCODES = {0: "continues", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


def _frame(raw: bytes, event: WireEvent, more: str) -> Strip:
    first, second = raw[0], raw[1]
    masked, short = bool(second & 128), second & 127
    wide = {126: 2, 127: 8}.get(short, 0)
    key = 2 + wide
    at = key + 4 * masked
    fin = "last" if first & 128 else "more follow"
    deflated = ", deflated" if first & 64 else ""
    kind = _OPCODES.get(first & 15, "reserved")
    length = f"{short} byte{'' if short == 1 else 's'}" if not wide else f"{short}: see next"
    parts = [
        Part(0, raw[:1], "FIN, opcode", f"{fin}, {kind}{deflated}", bits=f"{first:08b}"[:1] + f" {first:08b}"[1:]),
        Part(1, raw[1:2], "MASK, length", f"{'yes' if masked else 'no'}, {length}", bits=f"{second:08b}"),
    ]
    parts[0] = replace(parts[0], bits=f"{first >> 7} {first >> 4 & 7:03b} {first & 15:04b}")
    parts[1] = replace(parts[1], bits=f"{second >> 7} {short:07b}")
    if wide:
        size = int.from_bytes(raw[2:key], "big")
        parts.append(Part(2, raw[2:key], "extended length", f"{size} bytes"))
    if masked:
        parts.append(Part(key, raw[key:at], "masking key", "new in each frame", secret=True))
    clear = _unmask(raw, masked)
    body = raw[at:]
    if not body:
        pass
    elif first & 15 == Opcode.CLOSE and len(body) >= 2:
        code = int.from_bytes(clear[:2], "big")
        parts.append(Part(at, body[:2], "close code", f"{code}, {close_name(code)}", clear=clear[:2], payload=True))
        if body[2:]:
            parts.append(Part(at + 2, body[2:], "reason", "UTF-8, for people", True, clear[2:]))
    else:
        meaning = "hex XOR masking key" if masked else "as it is: no mask"
        if "deflated" in event.note:
            meaning = f"deflated; {event.size} bytes in all" if more else f"inflates to {event.size} bytes"
        elif kind == "ping":
            meaning = "comes back in the pong"
        elif kind == "pong":
            meaning = "the ping's"
        parts.append(Part(at, body, "payload", meaning, True, clear, secret="deflated" in event.note))
    return Strip(f"WebSocket frame{more}", event.sender, tuple(parts))


def _unmask(raw: bytes, masked: bool) -> bytes:
    """Return the payload as websockets' own parser unmasks it."""
    reader = StreamReader()
    plain = bytes([raw[0] & 0x8F]) + raw[1:]  # without the extension's bits, which would need its state
    reader.feed_data(plain)
    reader.feed_eof()
    parser = Frame.parse(reader.read_exact, mask=masked)
    try:
        next(parser)
    except StopIteration as done:
        return bytes(done.value.data)
    raise AssertionError("a whole frame is parsed at once")


_FIELDS = {"id": "for Last-Event-ID", "event": "which listener", "retry": "ms before a reconnect"}


def _sse(raw: bytes) -> list[Part]:
    parts: list[Part] = []
    skip = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
    if skip:
        parts.append(Part(0, raw[:3], "BOM", "ignored"))
    found = next(iter(sse_blocks(raw)), None)
    lines = found[2] if found else []
    for number, (at, line) in enumerate(lines):
        stop = lines[number + 1][0] if number + 1 < len(lines) else _line_end(raw, at + len(line))
        name, colon, _ = line.partition(b":")
        last = number + 1 == len(lines)
        if name != b"data" or not colon:
            word = name.decode(errors="replace") or "comment"
            meaning = _FIELDS.get(word, "ignored")
            parts.append(Part(at, raw[at:stop], fit(word, 120), meaning))
            continue
        begin = at + 5 + (line[5:6] == b" ")
        parts.append(Part(at, raw[at:begin], "data", "field name"))
        body = line[begin - at :]
        if body:
            parts.append(Part(begin, body, "payload", _kind(body), True))
        if not last:
            parts.append(
                Part(begin + len(body), raw[begin + len(body) : stop], "end of line", "a newline if more data")
            )
    end = parts[-1].offset + len(parts[-1].raw) if parts else 0
    if end < len(raw):
        parts.append(Part(end, raw[end:], "blank line", "dispatch now"))
    return parts


def _line_end(raw: bytes, at: int) -> int:
    """Return where the line that ends at `at` is over, unless its end belongs to the blank line after data."""
    line_start = max(raw.rfind(b"\n", 0, at), raw.rfind(b"\r", 0, at)) + 1
    if raw[line_start:].startswith(b"data:"):
        return at
    match = re.compile(rb"\r\n|\n|\r").match(raw, at)
    return match.end() if match else at


def _kind(body: bytes) -> str:
    return "JSON, on one line" if body[:1] in b"{[" else "text, on one line"


def _comment(raw: bytes) -> list[Part]:
    line = raw.rstrip(b"\r\n")
    parts = [Part(0, line[:1], "colon", "a comment")]
    if line[1:]:
        parts.append(Part(1, line[1:], "comment", "no listener sees it"))
    return [*parts, Part(len(line), raw[len(line) :], "end of line", "nothing to dispatch")]


def _line(raw: bytes) -> list[Part]:
    body = raw.rstrip(b"\r\n")
    parts = [Part(0, body, "payload", "one JSON value", True)]
    if raw[len(body) :]:
        parts.append(Part(len(body), raw[len(body) :], "newline", "end of this record"))
    return parts


def _chunk(raw: bytes) -> list[Part]:
    start = raw.find(b"\r\n") + 2
    size = int(raw[: start - 2].split(b";")[0] or b"0", 16)
    parts = [Part(0, raw[:start], "size", f"{size}, in hex")]
    if size:
        body = raw[start : start + size]
        meaning = (
            "one NDJSON row" if body[:1] == b"{" and body.count(b"\n") == 1 and body.endswith(b"\n") else "the data"
        )
        parts.append(Part(start, body, "payload", meaning, True))
    rest = raw[start + size :]
    if rest:
        name = "end of chunk" if size else "end of body"
        parts.append(Part(start + size, rest, name, "not part of the data"))
    return parts


def _head(raw: bytes) -> list[Part]:
    """The head of a request or an answer: only the line that matters, then the rest as one part."""
    end = raw.find(b"\r\n") + 2
    answer = raw.startswith(b"HTTP/")
    first = Part(
        0, raw[:end], "status line" if answer else "request line", "how it went" if answer else "what is asked"
    )
    count = raw[end:].count(b"\r\n") - 1
    return [first, Part(end, raw[end:], "headers", f"{count} of them, then a blank line", secret=True)]


# --- drawing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cell:
    """What one cell shows: a glyph over hex; `span` cells when a character takes several bytes."""

    glyph: str
    hex: tuple[str, ...]
    role: str
    span: int = 1


def draw(name: str, events: Sequence[WireEvent], title: str | None = None, note: str | None = None) -> Picture:
    """Draw the bytes of messages, a strip per frame, event or chunk."""
    found = [strip for event in events for strip in strips(event)]
    shown = found[:_STRIPS]
    heading = title or _headline(found)
    sheet = Sheet(name, heading)
    sheet.head(note or "Above what it says, below the bytes in hex. Thick line: what you sent. The rest is framing.")
    top = 92.0
    for strip in shown:
        top = _strip(sheet, strip, top) + 48
    if len(found) > len(shown):
        sheet.text(MARGIN, top, f"… {len(found) - len(shown)} more frames of this message", role="mute")
        top += 28
    sheet.desc = _describe(found)
    return Picture(sheet.svg(top - 28), sheet.alt, _twin(name, found))


def _headline(found: Sequence[Strip]) -> str:
    if not found:
        return "No bytes"
    size = sum(strip.size for strip in found)
    carried = sum(len(part.raw) for strip in found for part in strip.parts if part.payload)
    if len(found) == 1:
        return f"Under the microscope: {size} bytes on the wire carry {carried}"
    noun = "frames" if all(strip.title.startswith("WebSocket") for strip in found) else "messages"
    return f"Under the microscope: {len(found)} {noun}, {size} bytes, carry {carried}"


def _describe(found: Sequence[Strip]) -> str:
    said = []
    for strip in found[:_STRIPS]:
        parts = [f"{part.name} ({_plural(len(part.raw))}): {part.meaning}" for part in strip.parts[:16]]
        said.append(f"{strip.title}, {strip.sub}. {'; '.join(parts)}.")
    return f"{len(found)} strip{'' if len(found) == 1 else 's'} of bytes with their parts named. " + " ".join(said)


def _plural(number: int) -> str:
    return f"{number} byte{'' if number == 1 else 's'}"


def _strip(sheet: Sheet, strip: Strip, top: float) -> float:
    """Draw a strip, on several lines when its parts need them; return the lowest y it used."""
    sheet.title_line(top, strip.title, strip.sub)
    y = top + 16
    bottom = y
    for line, cell in _lines(strip.parts):
        bottom = _parts(sheet, line, cell, y)
        y = bottom + 24
    return bottom


def _lines(parts: Sequence[Part]) -> list[tuple[list[tuple[Part, list[_Cell]]], float]]:
    """Break parts into lines of the sheet's width, long ones elided, and choose the width of a cell for each line."""
    if not parts:
        return []
    short = [(part, _cells(part, 24 if part.payload else 10)) for part in parts]
    full = [(part, _cells(part, 400)) for part in parts]
    if _need(full, _NARROW) <= _ROOM:
        return [(full, _cell_width(full))]
    lines: list[list[tuple[Part, list[_Cell]]]] = [[]]
    for each in short:
        if lines[-1] and _need([*lines[-1], each], _NARROW) > _ROOM:
            lines.append([])
        lines[-1].append(each)
    return [(line, _cell_width(line)) for line in lines[:6]]


def _count(cells: Sequence[_Cell]) -> int:
    return sum(cell.span for cell in cells)


def _need(line: Sequence[tuple[Part, list[_Cell]]], cell: float) -> float:
    return sum((_BITS if part.bits else _count(cells) * cell) + 2 for part, cells in line)


def _cell_width(line: Sequence[tuple[Part, list[_Cell]]]) -> float:
    fixed = sum((_BITS if part.bits else 0) + 2 for part, _ in line)
    count = sum(0 if part.bits else _count(cells) for part, cells in line)
    return min(_WIDE, (_ROOM - fixed) / count) if count else _WIDE


def _cells(part: Part, most: int) -> list[_Cell]:
    """Return the cells of a part; the middle of a long one is an ellipsis."""
    if part.bits:
        return [_Cell(part.bits, (part.raw.hex(),), "ink")]
    raw, clear = part.raw, part.clear if part.clear is not None else part.raw
    if len(raw) > most:
        head, tail = most - 4, 3
        gap = _Cell("…", ("…",), "mute")
        first = replace(part, raw=raw[:head], clear=clear[:head])
        last = replace(part, raw=raw[-tail:], clear=clear[-tail:])
        return [*_cells(first, most), gap, *_cells(last, most)]
    if part.secret or part.name == "extended length" or part.name == "close code":
        return [_Cell("·", (f"{byte:02x}",), "mute") for byte in raw]
    return _characters(raw, clear, "hot" if part.payload else "ink")


def _characters(raw: bytes, clear: bytes, role: str) -> list[_Cell]:
    """Return a cell per character, as wide as its bytes; what is no character is a dot."""
    out: list[_Cell] = []
    at = 0
    while at < len(clear):
        first = clear[at]
        span = 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        try:
            glyph = clear[at : at + span].decode()
        except UnicodeDecodeError:
            glyph, span = "·", 1
        quiet = first in _GLYPHS or not glyph.isprintable() or glyph == "·"
        glyph = _GLYPHS.get(first, glyph if glyph.isprintable() and width(glyph) else "·")
        digits = tuple(f"{byte:02x}" for byte in raw[at : at + span])
        out.append(_Cell(glyph, digits, "mute" if quiet else role, span))
        at += span
    return out


def _parts(sheet: Sheet, line: Sequence[tuple[Part, list[_Cell]]], cell: float, y: float) -> float:
    """Draw one line of parts whose cells begin at `y`; return its lowest y."""
    x = MARGIN + 1.0
    places: list[tuple[Part, float, float]] = []
    for part, cells in line:
        wide = _BITS if part.bits else cell * _count(cells) - (2 if cell >= 30 else 0)
        sheet.rect(x, y, wide, 44, "band", 2)
        at = x
        for each in cells:
            room = wide if part.bits else each.span * wide / max(_count(cells), 1)
            sheet.text(at + room / 2, y + 18, each.glyph, size=13, role=each.role, mono=True, anchor="middle")
            for number, digits in enumerate(each.hex):
                step = room / len(each.hex)
                sheet.text(at + step * (number + 0.5), y + 36, digits, size=11, role="mute", mono=True, anchor="middle")
            at += room
        hot = part.payload
        sheet.line(x, y + 51, x + wide, y + 51, "hot" if hot else "ink", 3 if hot else 1.25)
        places.append((part, x, x + wide))
        x += wide + 2
    return _captions(sheet, places, y)


def _captions(sheet: Sheet, places: Sequence[tuple[Part, float, float]], y: float) -> float:
    """Name the parts under their lines, from the right, so that no leader crosses a caption; return the lowest y."""
    limits = [WIDTH - MARGIN + 0.0] * 8
    lowest = 0
    for part, x0, x1 in reversed(places):
        name, meaning = fit(part.name, 300, weight=600), fit(part.meaning, 300)
        wide = max(width(name, weight=600), width(meaning))
        right = x0 + wide > limits[0] and x1 <= limits[0] and x1 - wide >= MARGIN and part is places[-1][0]
        level = 0 if right else next((n for n, limit in enumerate(limits) if x0 + wide <= limit), len(limits) - 1)
        x, anchor = (x1, "end") if right else (x0, "start")
        if level:
            sheet.line(x0 + 0.5, y + 52, x0 + 0.5, y + 58 + level * _LEVEL, "mute", 1)
        role = "hot" if part.payload else "ink"
        sheet.text(x, y + 68 + level * _LEVEL, name, role=role, weight=600, anchor=anchor)
        sheet.text(x, y + 84 + level * _LEVEL, meaning, role="mute", anchor=anchor)
        edge = x1 - wide if right else x0
        limits[level] = edge - 8
        for passed in range(level):
            limits[passed] = min(limits[passed], x0 - 6)
        lowest = max(lowest, level)
    return y + 84 + lowest * _LEVEL


# --- text -----------------------------------------------------------------------------------------------------------


def _twin(name: str, found: Sequence[Strip]) -> str:
    out = [name]
    for strip in found:
        out += ["", f"{strip.title}, {strip.sub}"]
        for part in strip.parts:
            meaning = "unmasked here" if part.meaning == "hex XOR masking key" else part.meaning
            out.append(f"{part.offset:>5} +{len(part.raw):<3} {part.name:<18} {meaning}")
            out.append("        " + _twin_hex(part))
    return "\n".join(line.rstrip() for line in out) + "\n"


def _twin_hex(part: Part, most: int = 32) -> str:
    if part.secret:
        return " ".join(["??"] * min(len(part.raw), 8)) + (" …" if len(part.raw) > 8 else "")
    clear = part.clear if part.clear is not None else part.raw
    return clear[:most].hex(" ") + (" …" if len(clear) > most else "")
