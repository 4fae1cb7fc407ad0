"""The sheet that a picture is drawn on: palette, text, lines and areas as SVG. What is drawn where is others' business.

A sheet is 840 px wide and as high as its content. Each element carries its light colour as an attribute and a class for
the dark one. A sheet remembers the box of each text, guessed for the widest common face, so that a label can ask for
room before it is set, and a test can prove that none overlap.
"""

import re
from dataclasses import dataclass, field
from html import escape
from math import ceil
from zlib import crc32

from labserver.stage.pictures.words import fit, width

__all__ = ["LEFT", "MARGIN", "RIGHT", "WIDTH", "Box", "Sheet"]

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


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
