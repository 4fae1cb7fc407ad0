"""What a participant sees: the table of a check, hints, progress. HTML for light and dark, and the same as plain text.

The text holds verdicts, points and titles alone: what was seen, and the tape, carry random payloads and stand in the
HTML. No mark is told by colour only: each has a sign and a word.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from html import escape

from labserver.school.catalogue import Exercise
from labserver.school.standings import Standing
from labserver.school.verdicts import CheckResult, Report
from labserver.stage.rich import Html

__all__ = ["checked", "line", "note", "opened", "progressed", "to_do"]

_SIGNS = {"passed": "✓", "failed": "✗", "unstable": "≈", "error": "!", "never ran": "·", "timeout": "⧖", "to do": "○"}
_WHEN = {
    "unstable": "It passed some of its runs and failed others: two clients at once, or a race.",
    "timeout": "It did not come to an end: does some loop of yours never await?",
}

# Light by default, dark by the system's wish or JupyterLab's theme, which wins over the system.
_STYLE = """<style>
.labserver-check{--ink:#1f2429;--mute:#59616b;--edge:#d9dde2;--card:#fbfbfa;--hot:#b8390e;--bar:#e4e8ec;
 color:var(--ink);background:var(--card);border:1px solid var(--edge);border-radius:6px;padding:16px 20px;
 max-width:840px;box-sizing:border-box;font:13px/1.5 system-ui,sans-serif}
@media (prefers-color-scheme:dark){.labserver-check{
 --ink:#e6e9ec;--mute:#a3acb6;--edge:#3a4149;--card:#16191d;--hot:#ff9466;--bar:#2b3138}}
[data-jp-theme-light=true] .labserver-check{
 --ink:#1f2429;--mute:#59616b;--edge:#d9dde2;--card:#fbfbfa;--hot:#b8390e;--bar:#e4e8ec}
[data-jp-theme-light=false] .labserver-check{
 --ink:#e6e9ec;--mute:#a3acb6;--edge:#3a4149;--card:#16191d;--hot:#ff9466;--bar:#2b3138}
.labserver-check p{margin:0 0 4px;color:var(--ink)}
.labserver-check .head{font-size:16px;font-weight:600}
.labserver-check .mute{color:var(--mute)}
.labserver-check .hot{color:var(--hot);font-weight:600}
.labserver-check table{border-collapse:collapse;width:100%;margin:12px 0 0;font-size:13px;color:var(--ink)}
.labserver-check tr,.labserver-check tr:nth-child(even),.labserver-check tr:hover{background:transparent}
.labserver-check td,.labserver-check th{text-align:left;vertical-align:top;padding:7px 10px 7px 0;white-space:normal;
 border:0;border-top:1px solid var(--edge);max-width:none}
.labserver-check th{color:var(--mute);font-weight:400;border-top:0;padding-top:0}
.labserver-check .mark{white-space:nowrap;width:86px}
.labserver-check .points{text-align:right;white-space:nowrap;padding-right:0;width:60px;
 font-variant-numeric:tabular-nums}
.labserver-check code{font:12px/1.5 ui-monospace,monospace;color:inherit;background:var(--bar);border-radius:3px;
 padding:1px 4px;overflow-wrap:anywhere}
.labserver-check dl{display:grid;grid-template-columns:72px 1fr;gap:2px 8px;margin:4px 0 0}
.labserver-check dt{color:var(--mute);font-weight:400}
.labserver-check dd{margin:0;overflow-wrap:anywhere}
.labserver-check .know{border-left:3px solid var(--hot);padding:2px 0 2px 12px;margin:12px 0 0}
.labserver-check a{color:inherit;text-decoration:underline}
.labserver-check img{max-width:100%;margin-top:12px}
</style>"""


def checked(report: Report, known: Exercise, remarks: Iterable[str] = ()) -> Html:
    """Show a report: the verdict, the misconception if it is one we know, each check, the tape of the first failure."""
    head = f"{_name(known)}: {_verdict(report)}"
    said = [text for text in (report.reason, *remarks) if text]
    know = known.misconceptions.get(report.misconception)
    body, lines = [_p("head", head), *(_p("", text) for text in said)], [head, *said]
    if know is not None:
        title = report.misconception.replace("_", " ")
        body.append(
            f'<div class="know"><p class="hot">A common mistake: {_rich(title)}</p>'
            f"<p>{_rich(know.says)}</p>{_link(know.see)}</div>"
        )
        lines += [f"A common mistake, {title}: {know.says}", f"Shown in {_place(know.see)}"]
    if report.checks:
        first = next((check for check in report.checks if not check.passed), None)
        body.append(_table(_row(check, check is first) for check in report.checks))
        lines += [_line(check.verdict, check.earned, check.points, check.title) for check in report.checks]
        body.append(_tape(first))
    return _html(body, lines)


def comes_and_goes(report: Report) -> str:
    """Say that a check ended otherwise than before, with the same payloads and the same app."""
    came = "passed this time" if report.solved else "failed this time"
    return f"It {came}: what it asks comes and goes in your app. Look for a race."


def replayed(report: Report, known: Exercise, name: str, remarks: Iterable[str] = ()) -> Html:
    """Show one check that ran again with the payloads of an earlier run."""
    head = f"{_name(known)}: `{name}` again, with the same payloads"
    said = [text for text in (report.reason, *remarks) if text]
    body, lines = [_p("head", head), *(_p("", text) for text in said)], [head, *said]
    for check in report.checks:
        body += [_table([_row(check, first=True)]), _tape(check, "This time, on the wire:")]
        lines.append(_line(check.verdict, check.earned, check.points, check.title))
        if not check.passed:
            lines += [f"seen: {check.seen}", f"expected: {check.expected}"]
    return _html(body, lines)


def to_do(known: Exercise, sentence: str) -> Html:
    """Show what will be checked, before there is an answer."""
    head = f"{_name(known)}: not attempted"
    rows = (
        f"<tr>{_mark('to do')}<td>{_rich(check.title)}</td>{_points(0, check.points)}</tr>" for check in known.checks
    )
    lines = [head, sentence, *(_line("to do", 0, check.points, check.title) for check in known.checks)]
    return _html([_p("head", head), _p("", sentence), _table(rows)], lines)


def opened(known: Exercise) -> Html:
    """Show that an exercise was opened."""
    return line(f"{_name(known)}: {len(known.checks)} checks, {known.max_points} points.")


def note(head: str, texts: Iterable[str] = ()) -> Html:
    """Show a heading and sentences."""
    said = list(texts)
    return _html([_p("head", head), *(_p("", text) for text in said)], [head, *said])


def line(text: str) -> Html:
    """Show a sentence."""
    return _html([_p("", text)], [text])


def progressed(all_of_them: Iterable[tuple[Exercise, Standing]]) -> Html:
    """Show the best points of every exercise."""
    rows, lines, earned, most = [], [], 0, 0
    for known, standing in all_of_them:
        earned, most = earned + standing.points, most + known.max_points
        verdict = "passed" if standing.solved else "failed" if standing.tries else "to do"
        word = "solved" if standing.solved else "begun" if standing.tries else "to do"
        title = f"{known.number} · {known.title}"
        mark = f'<td class="mark">{_SIGNS[verdict]} {word}</td>'
        rows.append(f"<tr>{mark}<td>{_rich(title)}</td>{_points(standing.points, known.max_points)}</tr>")
        lines.append(f"{_SIGNS[verdict]} {word:<9} {standing.points:>3}/{known.max_points:<3} {title}")
    head = f"Progress: {earned} of {most} points"
    return _html([_p("head", head), _table(rows)], [head, *lines])


def _html(body: Iterable[str], lines: Iterable[str]) -> Html:
    return Html(f'{_STYLE}<div class="labserver-check">{"".join(body)}</div>', "\n".join(lines))


def _name(known: Exercise) -> str:
    return f"Exercise {known.number} · {known.title}"


def _verdict(report: Report) -> str:
    scored = f"{report.points} of {report.max_points} points"
    return f"solved, {scored}" if report.solved else f"{report.verdict}, {scored}"


def _line(verdict: str, earned: int, points: int, title: str) -> str:
    return f"{_SIGNS[verdict]} {verdict:<9} {earned:>2}/{points:<2}  {title}"


def _table(rows: Iterable[str]) -> str:
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _row(check: CheckResult, first: bool) -> str:
    details = ""
    if not check.passed:
        pairs = [("seen", check.seen), ("expected", check.expected if check.expected != check.title else "")]
        pairs += [("note", _WHEN.get(check.verdict, "")), ("think", check.hint if first else "")]
        shown = "".join(f"<dt>{name}</dt><dd>{_rich(text)}</dd>" for name, text in pairs if text)
        details = f"<dl>{shown}</dl>"
    return f"<tr>{_mark(check.verdict)}<td>{_rich(check.title)}{details}</td>{_points(check.earned, check.points)}</tr>"


def _mark(verdict: str) -> str:
    hot = "" if verdict in ("passed", "to do") else " hot"
    return f'<td class="mark{hot}">{_SIGNS[verdict]} {verdict}</td>'


def _points(earned: int, points: int) -> str:
    return f'<td class="points">{earned} / {points}</td>'


def _tape(check: CheckResult | None, says: str = "The first check that failed, on the wire:") -> str:
    if check is None or not check.tape_svg:
        return ""
    data = b64encode(check.tape_svg.encode()).decode()
    alt = escape(f"What went over the wire. {check.tape_text}")
    said = f'<p class="mute" style="margin-top:14px">{says}</p>'
    return f'{said}<img alt="{alt}" width="840" src="data:image/svg+xml;base64,{data}">'


def _link(see: str) -> str:
    """A link from a notebook in `exercises/` or `solutions/` to a heading."""
    return f'<p class="mute">Shown in <a href="../{escape(see)}">{escape(_place(see))}</a></p>'


def _place(see: str) -> str:
    """`notebooks/x.ipynb#A-heading` as words."""
    path, _, anchor = see.partition("#")
    return f"{path}, {anchor.replace('-', ' ')}" if anchor else path


def _p(kind: str, text: str) -> str:
    return f'<p class="{kind}">{_rich(text)}</p>' if kind else f"<p>{_rich(text)}</p>"


def _rich(text: str) -> str:
    """Escape; `code` in backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
