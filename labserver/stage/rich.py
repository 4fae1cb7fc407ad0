"""Rich results: what a cell shows to a reader (a picture, HTML) and, under it, the plain text that is compared.

A picture leaves as an `<img>` with a data URI, the only form that JupyterLab shows in a notebook it does not trust.
Numbers that were measured may stand in the picture; the text twin never holds one.
"""

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Html", "Picture"]


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG drawing with its alternative text and its text twin.

    Attributes:
        svg: a whole SVG document.
        alt: title and description in words; a reader of it alone gets the lesson.
        twin: the same as plain text without times, ports or sizes of reads; what nbval compares.
        width: pixels.
    """

    svg: str
    alt: str
    twin: str
    width: int = 840

    def img(self) -> str:
        """Return the `<img>` element that shows this picture anywhere, trusted or not."""
        data = b64encode(self.svg.encode()).decode()
        return f'<img alt="{escape(self.alt)}" width="{self.width}" src="data:image/svg+xml;base64,{data}">'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.img(), "text/plain": self.twin}

    def __repr__(self) -> str:
        return self.twin


@dataclass(frozen=True, slots=True)
class Html:
    """An HTML fragment with its text twin."""

    html: str
    twin: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.twin}

    def __repr__(self) -> str:
        return self.twin
