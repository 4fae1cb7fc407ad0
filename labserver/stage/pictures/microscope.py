"""The microscope: the bytes of one message, each part named. Above what it says, below the bytes in hex.

In the text twin a frame's masking key, new in each frame, stands as `??`, and its payload unmasked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from labserver.stage.pictures.parts import UNMASKED, Part, Strip, strips
from labserver.stage.pictures.sheet import MARGIN, WIDTH, Sheet
from labserver.stage.pictures.words import fit, width
from labserver.stage.rich import Picture
from labserver.stage.wire import WireEvent, counted, hexed

__all__ = ["draw"]

_ROOM = WIDTH - 2 * MARGIN - 2
_WIDE, _NARROW, _BITS = 32.0, 20.0, 110.0  # widths of a cell: at most, at least, one that shows bits
_GLYPHS = {10: "\\n", 13: "\\r", 9: "\\t", 32: "␣"}
_LEVEL = 34  # px that a caption goes down to make room for its neighbour
_LEVELS = 8
_STRIPS = 8
_LINES = 6  # of one strip


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
    size, carried = sum(strip.size for strip in found), sum(strip.carried for strip in found)
    if len(found) == 1:
        return f"Under the microscope: {size} bytes on the wire carry {carried}"
    noun = "frames" if all(strip.title.startswith("WebSocket") for strip in found) else "messages"
    return f"Under the microscope: {len(found)} {noun}, {size} bytes, carry {carried}"


def _describe(found: Sequence[Strip]) -> str:
    said = [f"{counted(len(found), 'strip')} of bytes with their parts named."]
    for strip in found[:_STRIPS]:
        parts = [f"{part.name} ({counted(len(part.raw), 'byte')}): {part.meaning}" for part in strip.parts[:16]]
        said.append(f"{strip.title}, {strip.sub}. {'; '.join(parts)}.")
    return " ".join(said)


def _strip(sheet: Sheet, strip: Strip, top: float) -> float:
    """Draw a strip, on several lines when its parts need them; return the lowest y it used."""
    sheet.title_line(top, strip.title, strip.sub)
    y = top + 16
    bottom = y
    for line in _lines(strip.parts):
        bottom = _parts(sheet, line, y)
        y = bottom + 24
    return bottom


# --- cells


_Line = Sequence[tuple[Part, Sequence[_Cell]]]
"""Parts that stand side by side, with their cells."""


def _lines(parts: Sequence[Part]) -> list[_Line]:
    """Break parts into lines of the sheet's width; when one line is too short for all, long parts are elided."""
    if not parts:
        return []
    full = [(part, _cells(part, 400)) for part in parts]
    if _need(full) <= _ROOM:
        return [full]
    lines: list[list[tuple[Part, Sequence[_Cell]]]] = [[]]
    for each in [(part, _cells(part, 24 if part.payload else 10)) for part in parts]:
        if lines[-1] and _need([*lines[-1], each]) > _ROOM:
            lines.append([])
        lines[-1].append(each)
    return list(lines[:_LINES])


def _count(cells: Sequence[_Cell]) -> int:
    return sum(cell.span for cell in cells)


def _need(line: _Line) -> float:
    """Return the least width of a line, px."""
    return sum((_BITS if part.bits else _count(cells) * _NARROW) + 2 for part, cells in line)


def _cell_width(line: _Line) -> float:
    """Return the width of a cell that fills the sheet, or the most a cell may have."""
    fixed = sum((_BITS if part.bits else 0) + 2 for part, _ in line)
    count = sum(0 if part.bits else _count(cells) for part, cells in line)
    return min(_WIDE, (_ROOM - fixed) / count) if count else _WIDE


def _cells(part: Part, most: int) -> list[_Cell]:
    """Return the cells of a part; the middle of a long one is an ellipsis."""
    if part.bits:
        return [_Cell(part.bits, (part.raw.hex(),), "ink")]
    raw, clear = part.raw, part.plain
    if len(raw) > most:
        first = replace(part, raw=raw[: most - 4], clear=clear[: most - 4])
        last = replace(part, raw=raw[-3:], clear=clear[-3:])
        return [*_cells(first, most), _Cell("…", ("…",), "mute"), *_cells(last, most)]
    if part.secret or part.name in ("extended length", "close code"):
        return [_Cell("·", (f"{byte:02x}",), "mute") for byte in raw]
    return list(_characters(raw, clear, "hot" if part.payload else "ink"))


def _characters(raw: bytes, clear: bytes, role: str) -> Iterator[_Cell]:
    """Yield a cell per character, as wide as its bytes; what is no character is a dot."""
    at = 0
    while at < len(clear):
        char, span = _character(clear, at)
        glyph = _GLYPHS.get(clear[at], char if char.isprintable() and width(char) else "·")
        quiet = clear[at] in _GLYPHS or not char.isprintable() or char == "·"
        yield _Cell(glyph, tuple(f"{byte:02x}" for byte in raw[at : at + span]), "mute" if quiet else role, span)
        at += span


def _character(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-8 character at an offset and how many bytes it takes; a dot for a byte that begins none."""
    first = data[at]
    span = 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    try:
        return data[at : at + span].decode(), span
    except UnicodeDecodeError:
        return "·", 1


# --- parts on the sheet


_Place = tuple[Part, float, float]  # where a part begins and ends


def _parts(sheet: Sheet, line: _Line, y: float) -> float:
    """Draw one line of parts whose cells begin at `y`; return its lowest y."""
    cell = _cell_width(line)
    x = MARGIN + 1.0
    places: list[_Place] = []
    for part, cells in line:
        wide = _BITS if part.bits else cell * _count(cells) - (2 if cell >= 30 else 0)
        _part(sheet, part, cells, x, y, wide)
        places.append((part, x, x + wide))
        x += wide + 2
    return _captions(sheet, places, y)


def _part(sheet: Sheet, part: Part, cells: Sequence[_Cell], x: float, y: float, wide: float) -> None:
    """Draw the cells of a part and the line under them."""
    sheet.rect(x, y, wide, 44, "band", 2)
    at = x
    for cell in cells:
        room = wide if part.bits else cell.span * wide / max(_count(cells), 1)
        step = room / len(cell.hex)
        sheet.text(at + room / 2, y + 18, cell.glyph, size=13, role=cell.role, mono=True, anchor="middle")
        for number, digits in enumerate(cell.hex):
            sheet.text(at + step * (number + 0.5), y + 36, digits, size=11, role="mute", mono=True, anchor="middle")
        at += room
    sheet.line(x, y + 51, x + wide, y + 51, "hot" if part.payload else "ink", 3 if part.payload else 1.25)


def _captions(sheet: Sheet, places: Sequence[_Place], y: float) -> float:
    """Name the parts under their lines, from the right, so that no leader crosses a caption; return the lowest y."""
    limits = [WIDTH - MARGIN + 0.0] * _LEVELS
    lowest = 0
    for place in reversed(places):
        level, left = _caption(sheet, place, limits, y, last=place is places[-1])
        limits[level] = left - 8
        for passed in range(level):
            limits[passed] = min(limits[passed], place[1] - 6)
        lowest = max(lowest, level)
    return y + 84 + lowest * _LEVEL


def _caption(sheet: Sheet, place: _Place, limits: Sequence[float], y: float, last: bool) -> tuple[int, float]:
    """Set a caption in the first level with room, the last flush right if it must be; return level and left edge."""
    part, x0, x1 = place
    name, meaning = fit(part.name, 300, weight=600), fit(part.meaning, 300)
    wide = max(width(name, weight=600), width(meaning))
    right = last and x0 + wide > limits[0] and x1 <= limits[0] and x1 - wide >= MARGIN
    level = 0 if right else next((n for n, limit in enumerate(limits) if x0 + wide <= limit), len(limits) - 1)
    if level:
        sheet.line(x0 + 0.5, y + 52, x0 + 0.5, y + 58 + level * _LEVEL, "mute", 1)
    x, anchor = (x1, "end") if right else (x0, "start")
    role = "hot" if part.payload else "ink"
    sheet.text(x, y + 68 + level * _LEVEL, name, role=role, weight=600, anchor=anchor)
    sheet.text(x, y + 84 + level * _LEVEL, meaning, role="mute", anchor=anchor)
    return level, x1 - wide if right else x0


# --- text


def _twin(name: str, found: Sequence[Strip]) -> str:
    out = [name]
    for strip in found:
        out += ["", f"{strip.title}, {strip.sub}"]
        for part in strip.parts:
            meaning = "unmasked here" if part.meaning == UNMASKED else part.meaning
            out.append(f"{part.offset:>5} +{len(part.raw):<3} {part.name:<18} {meaning}")
            out.append("        " + _twin_hex(part))
    return "\n".join(line.rstrip() for line in out) + "\n"


def _twin_hex(part: Part) -> str:
    if part.secret:
        return " ".join(["??"] * min(len(part.raw), 8)) + (" …" if len(part.raw) > 8 else "")
    return hexed(part.plain, 32)
