"""Words on a sheet: how wide they are, what of them fits, and numbers as a reader likes them. Knows no SVG."""

import re
import unicodedata

__all__ = ["duration", "fit", "kilo", "width", "wrap"]


def width(text: str, size: float = 12, mono: bool = False, weight: int = 400) -> float:
    """Return the width of `text` in px, guessed for the widest common face."""
    em = 0.61 if mono else 0.585 if weight < 600 else 0.6
    return sum(_cell(char, em) for char in text) * size


def _cell(char: str, em: float) -> float:
    """Return the width of a character in em: nothing for a combining one, one for a wide one."""
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Cf"):
        return 0.0
    return 1.0 if unicodedata.east_asian_width(char) in "WF" or ord(char) > 0x1F000 else em


def fit(text: str, room: float, size: float = 12, mono: bool = False, weight: int = 400) -> str:
    """Return `text`, or its beginning and an ellipsis, no wider than `room` px."""
    if width(text, size, mono, weight) <= room:
        return text
    while text and width(text + "…", size, mono, weight) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def wrap(text: str, room: float, most: int, size: float = 12, weight: int = 400) -> list[str]:
    """Break `text` at spaces into at most `most` lines of `room` px; the last is elided if it must be."""
    lines: list[str] = []
    line = ""
    for word in re.split(r"\s+(?!\S\s|\S$)", text.strip()):  # a single letter, such as a unit, stays with its number
        if line and width(f"{line} {word}", size, weight=weight) > room:
            if len(lines) + 1 == most:
                return [*lines, fit(f"{line} {word}…", room, size, weight=weight)]
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [fit(each, room, size, weight=weight) for each in [*lines, line] if each]


def duration(seconds: float) -> str:
    """Return a time for a reader: `3 ms`, `1.5 s`."""
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms".replace(".0 ", " ")
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def kilo(size: float) -> str:
    """Return a number of bytes for a reader: `812 B`, `3.1 kB`."""
    if size < 999.5:
        return f"{size:.0f} B"
    return f"{size / 1e3:.1f} kB" if size < 999_500 else f"{size / 1e6:.1f} MB"
