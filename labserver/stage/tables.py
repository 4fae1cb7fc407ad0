"""Tables of what was measured: words and numbers side by side. The table has the numbers, its text the findings.

For a decision that no single picture carries: a row per question, a column per way. What the text says of a cell is
written by its author, in words that a claim of the notebook has proved, so that it is the same in every run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from labserver.errors import LabError
from labserver.stage.rich import Html

__all__ = ["Cell", "table"]

_CELL = "text-align:left;vertical-align:top;padding:5px 12px 5px 0;white-space:normal"
_RULE = "border-bottom:1px solid rgba(128,128,128,.4)"
_SIGN = (
    '<span style="color:#c2552d">&#9670;</span> '  # what is hot has a sign, and bold words in the theme's own colour
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        shown: what the table says; measured numbers may stand here.
        said: what the text says, the same on every run.
        hot: whether this is the thing to see.
    """

    shown: str
    said: str
    hot: bool = False


def table(
    name: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str | Cell]],
    *,
    headline: str,
    note: str = "",
    twin: Sequence[str] = (),
) -> Html:
    """Return a table with a row per question and a column per way.

    Args:
        name: the table's name, the first line of its text.
        columns: what is compared, left to right.
        rows: by their heads, top to bottom, a cell per column. A plain string stands in table and text alike, so it
            holds no measured number; a `Cell` has words for each.
        headline: the finding as a sentence.
        note: the line under it: what was done, or how to read it.
        twin: lines that the text says at its end.

    Raises:
        LabError: there is no column or no row, or a row has not a cell for each column.
    """
    if not columns or not rows:
        raise LabError("There is nothing to compare: give table(...) columns and rows.")
    for head, row in rows.items():
        if isinstance(row, str) or len(row) != len(columns):
            raise LabError(f"The row {head!r} needs {len(columns)} cells, one for each of {', '.join(columns)}.")
    cells = {head: [each if isinstance(each, Cell) else Cell(each, each) for each in row] for head, row in rows.items()}
    return Html(_html(columns, cells, headline, note), _text(name, columns, cells, twin))


def _text(name: str, columns: Sequence[str], rows: Mapping[str, Sequence[Cell]], twin: Sequence[str]) -> str:
    wide = max(map(len, columns))
    lines = [name]
    for head, row in rows.items():
        lines += ["", head]
        lines += [
            f"  {'!' if cell.hot else ' '} {column:<{wide}}  {cell.said}".rstrip()
            for column, cell in zip(columns, row, strict=True)
        ]
    return "\n".join([*lines, *([""] if twin else []), *twin]) + "\n"


def _html(columns: Sequence[str], rows: Mapping[str, Sequence[Cell]], headline: str, note: str) -> str:
    heads = "".join(f'<th scope="col" style="{_CELL};{_RULE};font-weight:600">{escape(each)}</th>' for each in columns)
    body = "".join(_row(head, row) for head, row in rows.items())
    said = (
        f'<span style="display:block;font-weight:400;font-size:13px;opacity:.8">{escape(note)}</span>' if note else ""
    )
    caption = (
        f'<caption style="{_CELL};font-size:16px;font-weight:600;caption-side:top">{escape(headline)}{said}</caption>'
    )
    look = "width:100%;max-width:840px;border-collapse:collapse;margin:0;font-size:13px"
    corner = f'<td style="{_CELL};{_RULE}"></td>'
    return (
        f'<table style="{look}">{caption}<thead><tr style="background:none">{corner}{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(head: str, row: Sequence[Cell]) -> str:
    first = f'<th scope="row" style="{_CELL};{_RULE};font-weight:600">{escape(head)}</th>'
    return f'<tr style="background:none">{first}{"".join(map(_cell, row))}</tr>'


def _cell(cell: Cell) -> str:
    look, sign = (";font-weight:600", _SIGN) if cell.hot else ("", "")
    return f'<td style="{_CELL};{_RULE}{look}">{sign}{escape(cell.shown)}</td>'
