"""Source as a figure: one piece of it in colour, or a broken form beside its mended one with the difference marked.

The colours are written on each element, on a card of its own, so that they hold in a notebook that JupyterLab does not
trust; a style sheet for the dark theme comes along and is used where it is let through. A changed line carries a sign,
a bar and weight, never a colour alone. The text twin is the source itself, or a unified diff without line numbers.
"""

import ast
import functools
import inspect
import io
import linecache
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from html import escape
from itertools import zip_longest
from types import ModuleType
from typing import Any

from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, Token

from labserver.errors import LabError
from labserver.stage.rich import Html

__all__ = ["compare", "difference", "show", "source_of"]

LABELS = frozenset({"WRONG", "PATTERN", "NEEDS_PROCESS"})
"""Module-level names that describe a twin and are no part of what it does."""

# role -> (light, dark); contrast on the card and on the band is 4.5 or more
_INK = {
    "ink": ("#1f2429", "#e6e9ec"),
    "mute": ("#59616b", "#a3acb6"),
    "hot": ("#b8390e", "#ff9466"),
    "key": ("#6b3fa0", "#c9a7f5"),
    "text": ("#2b6a34", "#93d09c"),
    "name": ("#0b5a94", "#86c3f5"),
}
_CARD, _EDGE, _BAND = ("#fbfbfa", "#16191d"), ("#d9dde2", "#3a4149"), ("#e4e8ec", "#2b3138")

_ROLES = (
    (Comment, "mute"),
    (String.Doc, "mute"),
    (String, "text"),
    (Number, "text"),
    (Keyword, "key"),
    (Operator.Word, "key"),
    (Name.Function, "name"),
    (Name.Class, "name"),
    (Name.Decorator, "name"),
)

MINUS = "\N{MINUS SIGN}"

_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
_SANS = "system-ui,-apple-system,Segoe UI,Roboto,sans-serif"

_DARK = (
    "".join(f".lab-src .k-{role}{{color:{dark}!important}}" for role, (_, dark) in _INK.items())
    + f".lab-src .k-card{{background-color:{_CARD[1]}!important;border-color:{_EDGE[1]}!important}}"
    + f".lab-src .k-band{{background-color:{_BAND[1]}!important}}"
    + f".lab-src .k-rule{{border-color:{_EDGE[1]}!important}}"
    + f".lab-src .k-bar-ink{{border-left-color:{_INK['ink'][1]}!important}}"
    + f".lab-src .k-bar-hot{{border-left-color:{_INK['hot'][1]}!important}}"
)
_SHEET = "<style>" + _DARK.replace(".lab-src", "[data-jp-theme-light=false] .lab-src") + "</style>"


def show(obj: object) -> Html:
    """Show the source of a function, class, module, endpoint or route, coloured, whole as it was written.

    Raises:
        LabError: if `obj` has no Python source to show.
    """
    source = source_of(obj)
    lines = "\n".join(_coloured(source))
    caption = (
        f'<div class="k-mute" style="{_css("mute")};font:12px {_SANS};padding:8px 14px 0">{escape(_title(obj))}</div>'
    )
    code = f'<pre class="k-ink" style="{_css("ink")};{_CODE};padding:6px 14px 10px;overflow-x:auto">{lines}</pre>'
    return Html(_carded(caption + code), source)


def compare(broken: object, pattern: object) -> Html:
    """Show two sources side by side, the broken one at the left, with their difference marked.

    A module is shown without its docstring and without the labels `WRONG`, `PATTERN` and `NEEDS_PROCESS`; what `WRONG`
    says stands above the column instead.

    Args:
        broken: a function, class, module, endpoint or route.
        pattern: the same, mended.

    Raises:
        LabError: if one of them has no Python source to show.
    """
    left, right = _body(broken), _body(pattern)
    names = _title(broken), _title(pattern)
    pairs = list(_pairs(left.splitlines(), right.splitlines()))
    table = _table(names, _wrong(broken), pairs, left, right)
    return Html(_carded(table), _diff(names, pairs, left.splitlines(), right.splitlines()))


def difference(broken: object, pattern: object) -> int:
    """Count the lines of code that differ between two sources: a line edited in place counts once.

    Blank lines, comments, docstrings and the module's labels (`WRONG`, `PATTERN`, `NEEDS_PROCESS`) do not count.

    Args:
        broken: a function, class, module, endpoint or route.
        pattern: the same, mended.

    Raises:
        LabError: if one of them has no Python source.
    """
    left, right = code_lines(source_of(broken)), code_lines(source_of(pattern))
    return sum(not equal for _, _, equal in _pairs(left, right))


def source_of(obj: object) -> str:
    """Return the source of a function, class, module, endpoint or route, dedented, without a trailing line end.

    Raises:
        LabError: if there is none: an object that is no definition, or one that was not written in Python.
    """
    target = _target(obj)
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):
        source = _class_in_cell(target) if inspect.isclass(target) else ""
    if not source.strip():
        raise LabError(
            f"There is no source to show for {_title(obj)}: give a function, a class, a module or a route "
            "that was written in Python."
        )
    return textwrap.dedent(source).rstrip()


def code_lines(source: str) -> list[str]:
    """Return the lines of code in `source`: no blank line, no comment, no docstring, no label of a twin."""
    lines = source.splitlines()
    for (row, column), (_, end) in _comments(source):
        lines[row - 1] = lines[row - 1][:column] + lines[row - 1][end:]
    hidden = {row for first, last in _docstrings(ast.parse(source)) for row in range(first, last + 1)}
    hidden |= {row for first, last in _labels(ast.parse(source)) for row in range(first, last + 1)}
    return [line.rstrip() for row, line in enumerate(lines, 1) if row not in hidden and line.strip()]


# ------------------------------------------------------------------------------------------------ finding the source


def _target(obj: object) -> Any:
    obj = getattr(obj, "endpoint", obj)
    if isinstance(obj, property):
        obj = obj.fget
    while isinstance(obj, functools.partial):
        obj = obj.func
    return inspect.unwrap(obj) if callable(obj) else obj


def _class_in_cell(cls: type) -> str:
    """Return the source of a class defined in a notebook's cell: `inspect` knows files only, its methods know it."""
    for member in vars(cls).values():
        code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
        lines = linecache.getlines(code.co_filename) if code else []
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    return ""


def _title(obj: object) -> str:
    target = _target(obj)
    if isinstance(target, ModuleType):
        return target.__name__
    name = getattr(target, "__qualname__", None) or type(target).__name__
    home = getattr(target, "__module__", "__main__")
    return str(name) if home == "__main__" else f"{home}.{name}"


def _wrong(obj: object) -> str:
    return str(getattr(obj, "WRONG", "")) if isinstance(obj, ModuleType) else ""


def _body(obj: object) -> str:
    source = source_of(obj)
    if not isinstance(_target(obj), ModuleType):
        return source
    tree = ast.parse(source)
    hidden = {row for first, last in _labels(tree) for row in range(first, last + 1)}
    if ast.get_docstring(tree) is not None:
        hidden |= set(range(tree.body[0].lineno, (tree.body[0].end_lineno or 0) + 1))
    kept = [line for row, line in enumerate(source.splitlines(), 1) if row not in hidden]
    return "\n".join(_squeezed(kept))


def _squeezed(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines with at most two blank ones in a row and none at the start: what was cut out leaves no hole."""
    blank = 2
    for line in lines:
        blank = 0 if line.strip() else blank + 1
        if blank <= 2:
            yield line


def _labels(tree: ast.Module) -> Iterator[tuple[int, int]]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id in LABELS for target in targets):
            yield node.lineno, node.end_lineno or node.lineno


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first.lineno, first.end_lineno or first.lineno


def _comments(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(token.start, token.end) for token in tokens if token.type == tokenize.COMMENT]


# ------------------------------------------------------------------------------------------------ the difference


Pair = tuple[int | None, int | None, bool]
"""Index of the line at the left, at the right (None where there is none), and whether the two are equal."""


def _pairs(left: list[str], right: list[str]) -> Iterator[Pair]:
    """Yield the two sources row by row; inside a changed stretch, lines that were only re-indented stand in one row."""
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            yield from ((i, j, True) for i, j in zip(range(i1, i2), range(j1, j2), strict=True))
            continue
        ours, theirs = [line.strip() for line in left[i1:i2]], [line.strip() for line in right[j1:j2]]
        for _, a1, a2, b1, b2 in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
            for i, j in zip_longest(range(i1 + a1, i1 + a2), range(j1 + b1, j1 + b2)):
                yield i, j, False


def _diff(names: tuple[str, str], pairs: list[Pair], left: list[str], right: list[str]) -> str:
    out = [f"--- {names[0]}", f"+++ {names[1]}"]
    removed: list[str] = []
    added: list[str] = []
    for at_left, at_right, equal in pairs:
        if equal:
            out += [*removed, *added, f" {left[at_left or 0]}".rstrip()]
            removed, added = [], []
            continue
        removed += [] if at_left is None else [f"-{left[at_left]}".rstrip()]
        added += [] if at_right is None else [f"+{right[at_right]}".rstrip()]
    return "\n".join([*out, *removed, *added])


# ------------------------------------------------------------------------------------------------ the card

_CODE = f"margin:0;font:12px/1.5 {_MONO};white-space:pre;background:transparent;border:0;text-align:left"
_CELL = f"margin:0;font-family:{_MONO};font-size:12px;line-height:1.5;text-align:left;vertical-align:top;border:0"
_SIGN = "text-align:center;padding:0"


def _css(role: str) -> str:
    return f"color:{_INK[role][0]}"


def _role(kind: Any) -> str:
    return next((role for group, role in _ROLES if kind in group), "ink")


def _coloured(source: str) -> list[str]:
    """Return each line of `source` as HTML; a token over several lines is closed and opened again at each line."""
    lines = [""]
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(source):
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append("")
            lines[-1] += _span(_role(kind), part, kind) if part else ""
    return lines


def _span(role: str, text: str, kind: Any = Token) -> str:
    if role == "ink" or not text.strip():
        return escape(text)
    slant = ";font-style:italic" if kind in Comment else ""
    return f'<span class="k-{role}" style="{_css(role)}{slant}">{escape(text)}</span>'


def _carded(inner: str) -> str:
    style = f"background-color:{_CARD[0]};border:1px solid {_EDGE[0]};border-radius:6px;max-width:1120px"
    return f'{_SHEET}<div class="lab-src"><div class="k-card" style="{style}">{inner}</div></div>'


def _table(names: tuple[str, str], wrong: str, pairs: list[Pair], left: str, right: str) -> str:
    columns = _coloured(left), _coloured(right)
    plain = left.splitlines(), right.splitlines()
    rows = "".join(
        '<tr style="background:transparent">'
        + _cells(columns[0], plain[0], at_left, "" if equal else MINUS, "hot")
        + _cells(columns[1], plain[1], at_right, "" if equal else "+", "ink")
        + "</tr>"
        for at_left, at_right, equal in pairs
    )
    table = "width:100%;table-layout:fixed;border-collapse:collapse;margin:0;border:0"
    widths = '<colgroup><col style="width:24px"><col><col style="width:24px"><col></colgroup>'
    head = f"<tr>{_head('Broken', names[0], wrong, 'hot')}{_head('Mended', names[1], '', 'ink')}</tr>"
    return f'<table style="{table}">{widths}<thead>{head}</thead><tbody>{rows}</tbody></table>'


def _head(word: str, name: str, note: str, role: str) -> str:
    style = f"font:12px {_SANS};text-align:left;vertical-align:top;padding:8px 12px;border:0;white-space:normal"
    rule = f"border-bottom:1px solid {_EDGE[0]}"
    said = f'<br><span class="k-ink" style="{_css("ink")};font-weight:400">{escape(note)}</span>' if note else ""
    return (
        f'<th scope="col" colspan="2" class="k-rule" style="{style};{rule}">'
        f'<b class="k-{role}" style="{_css(role)};font-weight:600">{word}</b> '
        f'<span class="k-mute" style="{_css("mute")};font-weight:400">{escape(name)}</span>{said}</th>'
    )


def _cells(html: list[str], plain: list[str], at: int | None, sign: str, role: str) -> str:
    if at is None:
        return f'<td style="{_CELL};{_SIGN}"></td><td style="{_CELL}"></td>'
    indent = len(plain[at]) - len(plain[at].lstrip()) + 4
    hang = f"padding:0 8px 0 {indent}ch;text-indent:-{indent}ch;white-space:pre-wrap;overflow-wrap:anywhere"
    code = f"{_CELL};{_css('ink')};{hang}"
    if not sign:
        return f'<td style="{_CELL};{_SIGN}"></td><td class="k-ink" style="{code}">{html[at]}</td>'
    marked = f"background-color:{_BAND[0]};font-weight:700"
    bar = f"border-left:4px solid {_INK[role][0]};{_css(role)}"
    return (
        f'<td class="k-band k-bar-{role} k-{role}" style="{_CELL};{_SIGN};{marked};{bar}">{sign}</td>'
        f'<td class="k-band k-ink" style="{code};{marked}">{html[at]}</td>'
    )
