"""The marks as HTML: one page for the instructor, one per student. Pure functions from marks to text.

No scripts and no external assets: a page works from a mail, on paper, in the dark. Everything that a student wrote is
escaped; a tape is shown inside `<img>`, where an SVG runs nothing and loads nothing. No source of a check is shown.
The colours and their meaning are those of the tape: one accent, never alone, always with a sign or a word.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html import escape, unescape
from urllib.parse import quote

from labserver.school.marks import NOT_HANDED_IN, Assignment, Failure, Graded, Marks
from labserver.school.verdicts import CheckResult

__all__ = ["MADE_BY", "SIGNS", "index_page", "key", "page_names", "short", "student_page"]

MADE_BY = '<meta name="generator" content="labserver grade">'
"""Stands in every page; tells our pages from others in the same folder."""

SIGNS = {
    "solved": "●",
    "partial": "◐",
    "wrong": "✗",
    "crashed": "◆",
    "timed out": "◷",
    "not attempted": "○",
    "no answer": "∅",
    "not checked": "?",
    NOT_HANDED_IN: "·",
    "passed": "✓",
    "failed": "✗",
    "unstable": "≈",
    "error": "?",
    "timeout": "◷",
    "never ran": "·",
}
"""A sign per verdict, always beside its word or in a table with a key."""

_SHOWN_TAPES = 3  # per exercise on the instructor's page; the students' pages have them all

_BARS_UP_TO = 8  # exercises; with more there is no room for a bar beside their columns

_CSS = """
:root { color-scheme: light dark; --page: #ffffff; --card: #fbfbfa; --edge: #d9dde2; --band: #e4e8ec; --mute: #59616b;
  --ink: #1f2429; --hot: #b8390e; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1215; --card: #16191d; --edge: #3a4149; --band: #2b3138;
  --mute: #a3acb6; --ink: #e6e9ec; --hot: #ff9466; } }
@media print { :root { color-scheme: light; --page: #ffffff; --card: #ffffff; --edge: #d9dde2; --band: #e4e8ec;
  --mute: #59616b; --ink: #1f2429; --hot: #b8390e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 928px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 24px 0 4px; }
p { margin: 4px 0; overflow-wrap: anywhere; }
a { color: inherit; text-underline-offset: 3px; }
code, pre { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 8px 0; padding: 12px; background: var(--band); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 360px; overflow: auto; }
img { display: block; max-width: 100%; height: auto; margin: 8px 0; }
.mute { color: var(--mute); } .hot { color: var(--hot); } .big { font-size: 19px; font-weight: 600; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 16px 20px;
  margin: 12px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--edge); }
tr > :last-child { padding-right: 0; }
th { font-weight: 600; } thead th { color: var(--mute); font-size: 13px; white-space: nowrap; }
tbody th { overflow-wrap: anywhere; min-width: 120px; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.verdict { white-space: nowrap; }
.sign { display: inline-block; width: 1.3em; text-align: center; }
p .sign, h3 .sign { width: auto; margin-right: 4px; }
h3 .verdict { margin-right: 8px; }
.bar { display: block; width: 120px; height: 8px; margin-top: 8px; background: var(--band); border-radius: 4px;
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--ink); } .bar.bad i { background: var(--hot); }
dl { display: grid; grid-template-columns: 88px 1fr; gap: 2px 12px; margin: 4px 0 8px; }
dt { color: var(--mute); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--mute); }
li { margin: 4px 0; overflow-wrap: anywhere; } ul { padding-left: 20px; margin: 4px 0; }
@media (max-width: 560px) { dl { grid-template-columns: 1fr; } dt { margin-top: 6px; } main { padding: 20px 16px; } }
"""


def page_names(students: Iterable[str]) -> dict[str, str]:
    """Return a file name per student: safe on every system, different also where case does not count."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for student in students:
        stem = re.sub(r"[^\w-]+", "_", student).strip("_")[:80] or "student"
        if re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", stem):
            stem += "_"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[student] = f"{name}.html"
    return names


def student_page(marks: Marks, student: str) -> str:
    """Return the page of one student: every exercise, every check, and the tape of each failure."""
    points = marks.points(student)
    parts = [f"<h1>{escape(student)}</h1>", f'<p class="big">{points} of {marks.max_points} points</p>']
    for assignment in marks.assignments:
        parts.append(_section(assignment, marks.of(student, assignment.id)))
    parts += [_spare(graded) for graded in marks.spare(student)]
    if not marks.assignments and not marks.spare(student):
        parts.append("<p>Nothing was handed in.</p>")
    return _page(f"{student}: {points} of {marks.max_points} points", parts)


def index_page(marks: Marks) -> str:
    """Return the page for the instructor: points of all, what fails most with a tape and a sentence, what is odd."""
    parts = ["<h1>Marks</h1>", f'<p class="mute">{_what(marks)}</p>', _matrix(marks)]
    for assignment in marks.assignments:
        parts.append(_insight(marks, assignment))
    parts += [_odd(marks), f'<p class="mute">{escape(marks.walls)}</p>']
    return _page("Marks", parts)


def _page(title: str, parts: Iterable[str]) -> str:
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            MADE_BY,
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_CSS}</style>",
            "</head>",
            "<body><main>",
            *parts,
            "</main></body>",
            "</html>",
            "",
        ]
    )


def _what(marks: Marks) -> str:
    counts = marks.verdicts()
    people, exercises = len(marks.students), len(marks.assignments)
    mean = sum(marks.points(student) for student in marks.students) / max(1, people)
    spread = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict])
    return (
        f"{people} student{'s' * (people != 1)}, {exercises} exercise{'s' * (exercises != 1)}; "
        f"{mean:.0f} of {marks.max_points} points on average. {spread[:1].upper()}{spread[1:]}."
    )


def _matrix(marks: Marks) -> str:
    pages = page_names(marks.students)
    single = len(marks.assignments) == 1
    head = "".join(
        f'<th scope="col" title="{escape(item.title)}">{escape(item.id if single else item.number)}</th>'
        for item in marks.assignments
    )
    rows = []
    for student in marks.students:
        cells = "".join(_matrix_cell(marks.of(student, item.id), words=single) for item in marks.assignments)
        link = f'<a href="students/{quote(pages[student])}">{escape(student)}</a>'
        bar = _bar(marks.points(student), marks.max_points) if len(marks.assignments) <= _BARS_UP_TO else ""
        points = f'<td class="n">{marks.points(student)}</td><td>{bar}</td>'
        rows.append(f'<tr><th scope="row">{link}</th>{points}{cells}</tr>')
    columns = f'<th scope="col">student</th><th scope="col" class="n">of {marks.max_points}</th><td></td>{head}'
    return _table(columns, rows, "" if single else _key(marks))


def _table(head: str, rows: Iterable[str], foot: str = "") -> str:
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="card scroll"><table>{body}</table>{foot}</div>'


def _matrix_cell(graded: Graded | None, *, words: bool) -> str:
    verdict = graded.report.verdict if graded else NOT_HANDED_IN
    if words:
        return f"<td>{_verdict(verdict)}</td>"
    tone = "" if verdict in ("solved", "partial", NOT_HANDED_IN) else ' class="hot"'
    return f'<td title="{verdict}"><span{tone}>{short(graded)}</span></td>'


def short(graded: Graded | None) -> str:
    """Return an answer in two characters: its points when some are missing, else the sign of its verdict."""
    if graded is None:
        return SIGNS[NOT_HANDED_IN]
    return str(graded.report.points) if graded.report.verdict == "partial" else SIGNS[graded.report.verdict]


def _key(marks: Marks) -> str:
    return f'<p class="mute">{escape(key(marks))}</p>'


def key(marks: Marks) -> str:
    """Return what the signs of `short` mean, those that are used."""
    used = marks.verdicts()
    signs = [f"{sign} {verdict}" for verdict, sign in SIGNS.items() if used[verdict] and verdict != "partial"]
    return ", ".join([*signs, "a number: partial"])


def _verdict(verdict: str) -> str:
    tone = {"solved": "", "passed": "", "partial": "", NOT_HANDED_IN: "mute", "never ran": "mute"}.get(verdict, "hot")
    sign = f'<span class="sign" aria-hidden="true">{SIGNS[verdict]}</span>'
    return f'<span class="verdict {tone}">{sign} {verdict}</span>'


def _bar(part: int, whole: int, *, bad: bool = False) -> str:
    share = 100 * part // whole if whole else 0
    return f'<span class="bar{" bad" * bad}" aria-hidden="true"><i style="width:{share}%"></i></span>'


def _insight(marks: Marks, assignment: Assignment) -> str:
    parts = [f"<h2>{escape(assignment.number)} {escape(assignment.title)}</h2>"]
    failures = marks.failures(assignment.id)
    if not failures:
        return parts[0] + '<p class="mute">No check failed.</p>'
    rows = [
        f'<tr><th scope="row">{_prose(failure.check.title or failure.check.name)}</th>'
        f'<td class="n">{len(failure.students)} of {failure.ran}</td>'
        f"<td>{_bar(len(failure.students), failure.ran, bad=True)}</td><td>{_prose(failure.check.hint)}</td></tr>"
        for failure in failures
    ]
    columns = '<th scope="col" class="n">failed</th><td></td><th scope="col">a sentence to say</th>'
    parts.append(_table(f'<th scope="col">what fails most</th>{columns}', rows))
    for name, students in marks.misconceptions(assignment.id):
        says, see = assignment.misconception(name)
        whose = f"{len(students)} answer{'s' * (len(students) > 1)}: {', '.join(students)}"
        parts.append(f"<h3>Known wrong answer: {escape(_words(name))}</h3><p>{_prose(says)}{_see(see)}</p>")
        parts.append(f'<p class="mute">{escape(whose)}</p>')
    parts += [_sample(failure) for failure in failures[:_SHOWN_TAPES] if failure.check.tape_svg]
    return "\n".join(parts)


def _sample(failure: Failure) -> str:
    check = failure.check
    title = f"<summary>A tape: {_prose(check.title or check.name)}</summary>"
    return f'<details class="card">{title}{_seen(check)}{_tape(check)}</details>'


def _odd(marks: Marks) -> str:
    rows = []
    for graded in marks.graded:
        if graded.report.reason:
            rows.append((graded.source, f"{graded.report.verdict}. {graded.report.reason}"))
        rows += [(graded.source, note) for note in graded.notes]
    rows += [(skipped.source, skipped.reason) for skipped in marks.skipped]
    if not rows:
        return ""
    items = "".join(f"<li><code>{escape(source)}</code>: {_prose(what)}</li>" for source, what in rows)
    return f'<h2>Needs a look</h2><div class="card"><ul>{items}</ul></div>'


def _section(assignment: Assignment, graded: Graded | None) -> str:
    points = graded.report.points if graded else 0
    verdict = graded.report.verdict if graded else NOT_HANDED_IN
    parts = [
        f'<section id="{escape(assignment.id)}"><h2>{escape(assignment.number)} {escape(assignment.title)}</h2>',
        f"<p>{_verdict(verdict)}, {points} of {assignment.max_points} points{_bar(points, assignment.max_points)}</p>",
    ]
    if graded:
        parts += _told(assignment, graded)
        if graded.report.checks:
            parts.append(_checks_table(graded.report.checks))
            parts += [_failure(check) for check in graded.report.checks if not check.passed]
        parts.append(_output(graded))
    return "\n".join([*parts, "</section>"])


def _told(assignment: Assignment, graded: Graded) -> Iterator[str]:
    yield f'<p class="mute"><code>{escape(graded.source)}</code></p>'
    if graded.report.reason:
        yield f"<p>{_prose(graded.report.reason)}</p>"
    for note in graded.notes:
        yield f"<p>{escape(note)}</p>"
    if graded.report.misconception:
        says, see = assignment.misconception(graded.report.misconception)
        yield f"<p><strong>{escape(_words(graded.report.misconception))}.</strong> {_prose(says)}{_see(see)}</p>"


def _checks_table(checks: Iterable[CheckResult]) -> str:
    rows = [
        f'<tr><th scope="row">{_prose(check.title or check.name)}</th><td>{_verdict(check.verdict)}</td>'
        f'<td class="n">{check.earned} of {check.points}</td></tr>'
        for check in checks
    ]
    columns = '<th scope="col">check</th><th scope="col">verdict</th><th scope="col" class="n">points</th>'
    return _table(columns, rows)


def _failure(check: CheckResult) -> str:
    return f"<h3>{_verdict(check.verdict)}{_prose(check.title or check.name)}</h3>{_seen(check)}{_tape(check)}"


def _seen(check: CheckResult) -> str:
    by = "a check that is not in the notebook" if check.guard else ""
    lines = (("seen", check.seen), ("expected", check.expected), ("hint", check.hint), ("found by", by))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{_prose(text)}</dd>" for name, text in lines if text) + "</dl>"


def _tape(check: CheckResult) -> str:
    twin = f"<details><summary>as text</summary><pre>{escape(check.tape_text)}</pre></details>"
    if not check.tape_svg:
        return twin if check.tape_text else ""
    data = b64encode(check.tape_svg.encode(errors="replace")).decode()
    picture = f'<img alt="{escape(_alt(check.tape_svg))}" width="840" src="data:image/svg+xml;base64,{data}">'
    return picture + (twin if check.tape_text else "")


def _alt(svg: str) -> str:
    found = [re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", svg, re.DOTALL) for tag in ("title", "desc")]
    return ". ".join(unescape(match[1]).strip().rstrip(".") for match in found if match) or "The tape of this exchange"


def _output(graded: Graded) -> str:
    if not graded.output.strip():
        return ""
    return f"<details><summary>What the answer printed</summary><pre>{escape(graded.output)}</pre></details>"


def _spare(graded: Graded) -> str:
    report = graded.report
    why = "another of your files for this exercise earned as much or more" if report.exercise else report.reason
    return (
        f"<section><h2>Does not count: <code>{escape(graded.source)}</code></h2>"
        f"<p>{_verdict(report.verdict)}, {report.points} points; {_prose(why)}</p></section>"
    )


def _prose(text: str) -> str:
    """Escape a text; what stands between backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _see(see: str) -> str:
    return f" See <code>{escape(see)}</code>." if see else ""


def _words(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]
