"""SVG primitives of the lab's pictures: palette, text widths, marks, axis. What is drawn where is others' business.

A sheet is 840 px wide and as high as its content. Each element carries its light colour as an attribute and a class for
the dark one. A sheet remembers the box of each text, guessed for the widest common face, so that a label can ask for
room before it is set, and a test can prove that none overlap.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10
from zlib import crc32

__all__ = ["LEFT", "MARGIN", "RIGHT", "WIDTH", "Axis", "Box", "Sheet", "duration", "fit", "kilo", "width", "wrap"]

WIDTH = 840  # px, of the sheet
MARGIN = 24
LEFT, RIGHT = 176, 808  # the plot

_LIGHT = {
    "card": "#fbfbfa",
    "edge": "#d9dde2",
    "band": "#e4e8ec",
    "mute": "#59616b",
    "ink": "#1f2429",
    "hot": "#b8390e",
}
_DARK = {
    "card": "#16191d",
    "edge": "#3a4149",
    "band": "#2b3138",
    "mute": "#a3acb6",
    "ink": "#e6e9ec",
    "hot": "#ff9466",
}
_SANS = "system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _style() -> str:
    light = ";".join(f"--{role}:{value}" for role, value in _LIGHT.items())
    dark = ";".join(f"--{role}:{value}" for role, value in _DARK.items())
    roles = "".join(f".tape .f-{r}{{fill:var(--{r})}}.tape .s-{r}{{stroke:var(--{r})}}" for r in _LIGHT)
    return (
        f".tape{{{light}}}@media (prefers-color-scheme:dark){{.tape{{{dark}}}}}"
        f"[data-jp-theme-light=true] .tape{{{light}}}[data-jp-theme-light=false] .tape{{{dark}}}"
        f"@media print{{.tape.tape.tape{{{light}}}}}{roles}"
    )


def width(text: str, size: float = 12, mono: bool = False, weight: int = 400) -> float:
    """Return the width of `text` in px, guessed for the widest common face."""
    em = 0.61 if mono else 0.585 if weight < 600 else 0.6
    cells = 0.0
    for char in text:
        if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Cf"):
            continue
        cells += 1.0 if unicodedata.east_asian_width(char) in "WF" or ord(char) > 0x1F000 else em
    return cells * size


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
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M")):
        if size < limit * 0.9995 or unit == "M":
            return f"{size:.0f} B" if not unit else f"{size / (limit / 1e3):.1f} {unit}B"
    return ""


@dataclass(frozen=True, slots=True)
class Box:
    """The place that a text takes on the sheet, px."""

    x0: float
    y0: float
    x1: float
    y1: float
    text: str = ""

    def hits(self, other: "Box", gap: float = 0) -> bool:
        """Whether the two overlap, or are closer than `gap` px side by side."""
        return (
            self.x0 < other.x1 + gap
            and other.x0 < self.x1 + gap
            and self.y0 < other.y1 - 0.5
            and other.y0 < self.y1 - 0.5
        )


@dataclass(slots=True)
class Sheet:
    """A picture in the making.

    Attributes:
        name: the figure's name; ids are made from it.
        title: the headline, also the SVG's title.
        desc: what the picture shows, in words, with every number that is the point.
        boxes: where the texts are.
    """

    name: str
    title: str
    desc: str = ""
    boxes: list[Box] = field(default_factory=list)
    _under: list[str] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)

    # --- text

    def box(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 12,
        anchor: str = "start",
        mono: bool = False,
        weight: int = 400,
    ) -> Box:
        """Return the place that a text would take."""
        wide = width(text, size, mono, weight)
        x0 = x - (wide if anchor == "end" else wide / 2 if anchor == "middle" else 0)
        return Box(x0, y - 0.78 * size, x0 + wide, y + 0.24 * size, text)

    def free(self, box: Box, gap: float = 6) -> bool:
        """Whether a text may stand there: inside the sheet and clear of the others."""
        return box.x0 >= 4 and box.x1 <= WIDTH - 8 and not any(box.hits(other, gap) for other in self.boxes)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        role: str = "ink",
        weight: int = 400,
        anchor: str = "start",
        mono: bool = False,
        halo: bool = False,
    ) -> Box:
        """Set a line of text, baseline at `y`; `halo` keeps it readable where a line crosses."""
        if not text:
            return Box(x, y, x, y)
        text = _XML.sub("·", text)
        attributes = f'x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"'
        attributes += f' font-weight="{weight}"' if weight != 400 else ""
        attributes += f' font-family="{_MONO}"' if mono else ""
        attributes += f' text-anchor="{anchor}"' if anchor != "start" or halo else ""
        colour = f'fill="{_LIGHT[role]}" class="f-{role}"'
        if halo:
            colour = f'fill="{_LIGHT[role]}" stroke="{_LIGHT["card"]}" class="f-{role} s-card"'
            attributes += ' stroke-width="5" paint-order="stroke" stroke-linejoin="round"'
        self._parts.append(f"<text {colour} {attributes}>{escape(text)}</text>")
        box = self.box(x, y, text, size, anchor, mono, weight)
        self.boxes.append(box)
        return box

    def title_line(self, y: float, title: str, sub: str) -> None:
        """Set a strip's or panel's title with a quieter word behind it, which follows at the title's true width."""
        room = WIDTH - 2 * MARGIN - width(title, 13, weight=600) - 10
        behind = escape(_XML.sub("·", fit(sub, room)))
        self._parts.append(
            f'<text fill="{_LIGHT["ink"]}" class="f-ink" x="{MARGIN}" y="{_n(y)}" font-size="13" font-weight="600">'
            f'{escape(title)}<tspan dx="10" font-size="12" font-weight="400" fill="{_LIGHT["mute"]}" class="f-mute">'
            f"{behind}</tspan></text>"
        )
        first = self.box(MARGIN, y, title, 13, weight=600)
        self.boxes += [first, self.box(first.x1 + 10, y, fit(sub, room))]

    def head(self, note: str) -> None:
        """Set the headline and the line under it, elided to the sheet."""
        self.text(MARGIN, 36, fit(self.title, WIDTH - 2 * MARGIN, 16, weight=600), size=16, weight=600)
        self.text(MARGIN, 57, fit(note, WIDTH - 2 * MARGIN, 13), size=13, role="mute")

    # --- lines and areas

    def path(
        self,
        d: str,
        *,
        stroke: str = "",
        fill: str = "",
        width: float = 1,
        dash: str = "",
        under: bool = False,
        opacity: float = 1,
    ) -> None:
        """Draw a path in the colour of a role; `under` puts it below all else."""
        classes = " ".join(f"{kind}-{role}" for kind, role in (("f", fill), ("s", stroke)) if role)
        parts = f'fill="{_LIGHT[fill] if fill else "none"}"'
        if stroke:
            parts += f' stroke="{_LIGHT[stroke]}"'
        parts += f' class="{classes}" d="{d}"'
        if stroke:
            parts += f' stroke-width="{_n(width)}" stroke-linejoin="round"'
        parts += f' stroke-dasharray="{dash}"' if dash else ""
        parts += f' fill-opacity="{opacity}"' if opacity != 1 else ""
        (self._under if under else self._parts).append(f"<path {parts}/>")

    def line(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        role: str = "ink",
        width: float = 1.5,
        dash: str = "",
        under: bool = False,
    ) -> None:
        """Draw a straight line."""
        self.path(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}", stroke=role, width=width, dash=dash, under=under)

    def rect(self, x: float, y: float, w: float, h: float, role: str, radius: float = 0) -> None:
        """Fill a rectangle."""
        rx = f' rx="{_n(radius)}"' if radius else ""
        self._parts.append(
            f'<rect fill="{_LIGHT[role]}" class="f-{role}" x="{_n(x)}" y="{_n(y)}" '
            f'width="{_n(w)}" height="{_n(h)}"{rx}/>'
        )

    def circle(
        self, x: float, y: float, r: float, fill: str, stroke: str = "", width: float = 1.5, dash: str = ""
    ) -> None:
        """Draw a circle."""
        colour = f'fill="{_LIGHT[fill]}"' + (f' stroke="{_LIGHT[stroke]}"' if stroke else "")
        classes = f"f-{fill}" + (f" s-{stroke}" if stroke else "")
        more = f' stroke-width="{_n(width)}"' if stroke else ""
        more += f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<circle {colour} class="{classes}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"{more}/>')

    # --- marks, centred at x, y

    def mark(self, kind: str, x: float, y: float, role: str = "ink") -> None:
        """Draw the mark of one event; see the table of marks in the design."""
        match kind:
            case "bytes" | "body":
                self.rect(x - 4.5, y - 4.5, 9, 9, role)
            case "comment" | "fields":
                self.circle(x, y, 2.75, "card", "mute")
            case "token":
                self.line(x, y - 7, x, y + 7, role, 2)
            case "ping":
                self.path(_closed([(x, y - 5), (x - 5, y + 4), (x + 5, y + 4)]), fill="card", stroke=role, width=1.5)
            case "pong":
                self.path(_closed([(x, y + 5), (x - 5, y - 4), (x + 5, y - 4)]), fill="card", stroke=role, width=1.5)
            case "lost":
                self.circle(x, y, 4.5, "card", "mute", 1.25, "2 2")
            case "replay":
                self.circle(x, y, 4.5, "card", "hot", 2)
                self.circle(x, y, 1.75, "hot")
            case "error":
                self.path(_closed([(x, y - 8), (x + 8, y), (x, y + 8), (x - 8, y)]), fill="hot")
                self.line(x, y - 4, x, y + 1, "card", 2)
                self.circle(x, y + 3.8, 1.1, "card")
            case _:
                self.circle(x, y, 5, role)

    def arrow_up(self, x: float, y: float) -> None:
        """Draw the arrow of something sent, leaving a band whose top is at `y`."""
        self.boxes.append(Box(x - 0.5, y - 15, x + 0.5, y))
        self.line(x, y + 2, x, y - 12)
        self.path(_closed([(x, y - 15), (x - 3.5, y - 8), (x + 3.5, y - 8)]), fill="ink")

    def band(self, x0: float, x1: float, y: float, height: float, torn: bool = False) -> None:
        """Draw an open connection from `x0` to `x1`; torn where it was cut."""
        if not torn:
            self.rect(x0, y, max(x1 - x0, 0.5), height, "band")
            return
        edge = "".join(f"L{x1 + (3 if tooth % 2 else -3):.1f} {y + tooth * height / 4:.1f}" for tooth in range(5))
        self.path(f"M{x0:.1f} {y + height:.1f}V{y:.1f}{edge}Z", fill="band")
        self.path("M" + edge[1:], stroke="hot", width=2)

    def measure(self, x0: float, x1: float, y: float, text: str, hot: bool = False, limit: float = WIDTH - 24) -> bool:
        """Draw `|-- text --|`, the text beside it when it is too short; return False without room."""
        role, weight = ("hot", 600) if hot else ("mute", 400)
        wide = width(text, 12, weight=weight)
        inside = wide + 32 <= x1 - x0
        middle = (x0 + x1) / 2
        if inside:
            box = self.box(middle, y + 4, text, anchor="middle", weight=weight)
        else:
            box = self.box(x1 + 8, y + 4, text, weight=weight)
            if box.x1 > limit or not self.free(box):
                box = self.box(x0 - 8, y + 4, text, anchor="end", weight=weight)
                if box.x0 < LEFT:
                    return False
        if not self.free(box):
            return False
        for x in (x0, x1):
            self.line(x, y - 5, x, y + 5, role)
        if inside:
            self.line(x0, y, box.x0 - 8, y, role)
            self.line(box.x1 + 8, y, x1, y, role)
        else:
            self.line(x0, y, x1, y, role)
        self.text(box.x0, y + 4, text, role=role, weight=weight)
        return True

    # --- the whole

    def svg(self, height: float) -> str:
        """Return the SVG document, `height` px high."""
        tall = ceil(height)
        body = "\n".join([*self._under, *self._parts])
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40] or "tape"
        ident = f"tape-{slug}-{crc32((self.title + self.desc + body).encode()):08x}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="tape" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" '
            f'height="{tall}" role="img" aria-labelledby="{ident}-t {ident}-d" font-family="{_SANS}" '
            f'style="max-width:100%;height:auto">\n'
            f'<title id="{ident}-t">{escape(_XML.sub("·", self.title))}</title>\n'
            f'<desc id="{ident}-d">{escape(_XML.sub("·", self.desc))}</desc>\n'
            f"<style>{_style()}</style>\n"
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{tall - 1}" rx="8" fill="{_LIGHT["card"]}" '
            f'stroke="{_LIGHT["edge"]}" class="f-card s-edge"/>\n{body}\n</svg>\n'
        )

    @property
    def alt(self) -> str:
        """The alternative text: headline and description."""
        stop = "" if self.title.endswith((".", "?", "!")) else "."
        return f"{self.title}{stop} {self.desc}".strip()


@dataclass(frozen=True, slots=True)
class Axis:
    """Time to the right: from 0 to `span` seconds over the plot."""

    span: float
    right: float = RIGHT

    def x(self, at: float) -> float:
        """Return the place of a time, px."""
        return LEFT + (self.right - LEFT) * min(max(at / self.span, 0.0), 1.0)

    @property
    def unit(self) -> tuple[str, float]:
        """Name of the unit and seconds in it."""
        return ("seconds", 1.0) if self.span >= 2 else ("milliseconds", 1e-3)

    def ticks(self) -> list[tuple[float, str]]:
        """Return 3 to 7 round times, in seconds, and what to write there."""
        _, unit = self.unit
        span = self.span / unit
        rough = span / 5
        power = 10.0 ** floor(log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (power * factor) <= 6.5)
        count = floor(span / step + 1e-9)
        digits = (
            0 if step >= 1 and step == round(step) else max(1, ceil(-log10(step)) + (1 if "25" in f"{step:g}" else 0))
        )
        return [(step * n * unit, f"{step * n:.{digits}f}" if n else "0") for n in range(count + 1)]

    def draw(self, sheet: Sheet, y: float, tops: Sequence[tuple[float, float]]) -> None:
        """Draw the axis at `y`, and its grid through each of `tops` (from y, to y)."""
        sheet.line(LEFT, y, self.right, y, "mute", 1)
        sheet.text(MARGIN, y + 20, self.unit[0], role="mute")
        for at, label in self.ticks():
            x = self.x(at)
            sheet.line(x, y, x, y + 5, "mute", 1)
            sheet.text(x, y + 20, label, role="mute", anchor="middle")
            if at:
                for top, bottom in tops:
                    sheet.line(x, top, x, bottom, "edge", 1, "1 5", under=True)


def _closed(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
