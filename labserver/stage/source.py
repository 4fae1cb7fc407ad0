"""Source code as a cell's result: one endpoint, or a broken form beside its mend with the difference marked.

The colours are JupyterLab's own, so they follow its theme; in a notebook that it does not trust, variables are removed
and the plain colour before each remains. A sign and a bar mark a changed line, never colour alone.
`difference` counts what `compare` shows: it is how the lab keeps every lesson down to twelve lines.
"""

import ast
import inspect
from collections.abc import Iterator
from difflib import SequenceMatcher, unified_diff
from html import escape
from textwrap import dedent
from typing import Any

from pygments import lex
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from labserver.errors import LabError
from labserver.stage.rich import Html

__all__ = ["compare", "difference", "show"]

COLOURS: tuple[tuple[Any, str, str], ...] = (  # the first that a token belongs to; plain ones read on both themes
    (Comment, "--jp-mirror-editor-comment-color", "#5f7f7f"),
    (String, "--jp-mirror-editor-string-color", "#b85c38"),
    (Number, "--jp-mirror-editor-number-color", "#2e8b57"),
    (Keyword, "--jp-mirror-editor-keyword-color", "#2f8f4e"),
    (Operator.Word, "--jp-mirror-editor-keyword-color", "#2f8f4e"),
    (Name.Decorator, "--jp-mirror-editor-meta-color", "#8a6fd1"),
    (Name.Function, "--jp-mirror-editor-def-color", "#4178d0"),
    (Name.Class, "--jp-mirror-editor-def-color", "#4178d0"),
)
CODE = (
    "margin:0;padding:0;background:transparent;font-size:13px;line-height:1.45;"
    "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;text-align:left"
)
CHANGED = "background:rgba(184,57,14,.12);box-shadow:inset 3px 0 0 #c2552d"
HEAD = "padding:4px 8px;text-align:left;font-weight:600;border-bottom:1px solid rgba(128,128,128,.4)"
LESSON = {"WRONG", "PATTERN", "NEEDS_PROCESS"}  # what a twin says about itself is not part of the difference


def show(obj: Any) -> Html:
    """Show the source of a function, class or module, coloured; the text twin is the source itself.

    Raises:
        LabError: if `obj` has no source in a file or cell.
    """
    source = _source(obj)
    lines = "\n".join(_coloured(source))
    return Html(html=f'<pre style="{CODE}">{lines}</pre>', twin=source)


def compare(broken: Any, pattern: Any) -> Html:
    """Show two sources side by side, the changed lines marked; the text twin is their difference.

    Args:
        broken: the form that fails: a function, class or module.
        pattern: its mend.

    Raises:
        LabError: if one of them has no source.
    """
    left, right = _source(broken), _source(pattern)
    rows = "".join(_row(*row) for row in _aligned(left, right))
    heads = "".join(f'<th style="{HEAD}">{word}</th>' for word in ("&minus; broken", "+ mended"))
    table = (
        '<table style="table-layout:fixed;width:100%;max-width:1180px;border-collapse:collapse;margin:0">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return Html(html=table, twin=_unified(left, right))


def difference(broken: Any, pattern: Any) -> int:
    """Count the lines of code in which two sources differ.

    A line that was replaced counts once. Comments, docstrings, blank lines, indentation and the layout of one
    statement over several lines don't count, nor do the names by which a twin describes itself.
    """
    left, right = _statements(broken), _statements(pattern)
    changes = SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in changes if tag != "equal")


def _source(obj: Any) -> str:
    try:
        source = inspect.getsource(inspect.unwrap(obj) if callable(obj) else obj)
    except (OSError, TypeError):
        raise LabError(
            f"{obj!r} has no source to show: give a function, class or module that is written in a file or cell."
        ) from None
    return dedent(source).strip("\n")


def _coloured(source: str) -> list[str]:
    """Return the lines of `source` as HTML."""
    lines = [""]
    for kind, text in lex(source, PythonLexer(stripnl=False, ensurenl=False)):
        colour = next(
            (f"color:{plain};color:var({own},{plain})" for family, own, plain in COLOURS if kind in family), ""
        )
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append("")
            if part:
                lines[-1] += f'<span style="{colour}">{escape(part)}</span>' if colour else escape(part)
    return lines


Row = tuple[str | None, str | None, bool]
"""A line of the left side, one of the right side (None: a gap), and whether they differ."""


def _aligned(left: str, right: str) -> Iterator[Row]:
    a, b = left.split("\n"), right.split("\n")
    html_a, html_b = _coloured(left), _coloured(right)
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for offset in range(max(i2 - i1, j2 - j1)):
            one = html_a[i1 + offset] if i1 + offset < i2 else None
            two = html_b[j1 + offset] if j1 + offset < j2 else None
            yield one, two, tag != "equal"


def _row(left: str | None, right: str | None, changed: bool) -> str:
    return f'<tr style="background:none">{_cell(left, "&minus;", changed)}{_cell(right, "+", changed)}</tr>'


def _cell(line: str | None, sign: str, changed: bool) -> str:
    marked = changed and line is not None
    indent = len(line or "") - len((line or "").lstrip(" ")) + 6  # characters; a long line goes on further in
    hanging = f"padding-left:{indent}ch;text-indent:-{indent}ch"
    text = f'<pre style="{CODE};{hanging}"><b>{sign if marked else " "}</b> {line or ""}</pre>'
    return f'<td style="text-align:left;vertical-align:top;padding:0 8px;{CHANGED if marked else ""}">{text}</td>'


def _unified(left: str, right: str) -> str:
    """Return the difference in unified form, without the headers that hold line numbers."""
    lines = unified_diff(left.split("\n"), right.split("\n"), "broken", "mended", lineterm="", n=3)
    kept = ["..." if line.startswith("@@") else line for line in lines]
    return "\n".join(line.rstrip() for line in kept) or "no difference"


def _statements(obj: Any) -> list[str]:
    tree = ast.parse(obj if isinstance(obj, str) else _source(obj))
    tree.body = [node for node in tree.body if not _describes(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
                node.body = node.body[1:]
    return [line.strip() for line in ast.unparse(tree).split("\n") if line.strip()]


def _describes(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id in LESSON for target in targets)
