"""What is here and what is not: versions, event loop, broker, proxy, NATS, browser, LLM endpoint.

One line each. A line that is not right says what to do. `doctor` is the command, `report` the same for a notebook.
"""

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from labserver.settings import Settings
from labserver.stage.parts import Part, find_all
from labserver.stage.rich import Html

__all__ = ["Finding", "doctor", "examine", "report"]

CARD = {  # the packages that the lab is built on, and the extra each belongs to
    "fastapi": "",
    "uvicorn": "",
    "httpx": "",
    "websockets": "",
    "anthropic": "",
    "redis": "",
    "jupyterlab": "lab",
    "nest-asyncio": "lab",
    "pytest": "test",
    "nbval": "test",
}
LABELS = {"broker": "broker", "nginx": "nginx", "nats": "NATS", "chromium": "browser", "llm": "LLM endpoint"}
OLDEST = (3, 11)
# a shape each, so that colour is not needed to read them
MARKS = {"ok": "✓", "missing": "○", "wrong": "✗"}
STYLES = {"ok": "green", "missing": "yellow", "wrong": "bold red"}
State = Literal["ok", "missing", "wrong"]
PATH_SHOWN = 60  # characters of a path that fit the table's column


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        name: what was looked at.
        state: "ok"; "missing" (some experiments are skipped without it); "wrong" (the lab does not work so).
        detail: version, place or name; may differ between machines.
        cure: what to do when it is not ok, else "".
        needed: whether the lab cannot do without it.
    """

    name: str
    state: State
    detail: str = ""
    cure: str = ""
    needed: bool = True


def _python() -> Finding:
    version = f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()})"
    if tuple(sys.version_info) >= OLDEST:
        return Finding("Python", "ok", version)
    return Finding("Python", "wrong", version, "Install Python 3.11 or newer and build the environment with it.")


def _wanted() -> dict[str, Requirement]:
    """Return what this package's own metadata asks for, by name."""
    try:
        lines = importlib.metadata.requires("labserver") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def _package(name: str, extra: str, wanted: Requirement | None) -> Finding:
    place = f'".[{extra}]"' if extra else "."  # quoted: zsh takes brackets for a pattern; " also works on Windows
    install = f"Run `pip install -e {place}`."
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "wrong", "not installed", install)
    if wanted is not None and not wanted.specifier.contains(version, prereleases=True):
        return Finding(name, "wrong", f"{version}, needs {wanted.specifier}", install)
    return Finding(name, "ok", version)


def _event_loop() -> Finding:
    """Name the loop that uvicorn takes: uvloop where it has a wheel, else asyncio's own."""
    if importlib.util.find_spec("uvloop") is not None:
        return Finding("event loop", "ok", f"uvloop {importlib.metadata.version('uvloop')}")
    if sys.platform == "win32" or sys.implementation.name != "cpython":
        return Finding("event loop", "ok", "asyncio")
    return Finding("event loop", "wrong", "asyncio, without uvloop", "Run `pip install uvloop`.")


def _part(part: Part) -> Finding:
    state: State = "ok" if part.available else "missing"
    cure = part.reason[:1].upper() + part.reason[1:]
    return Finding(LABELS[part.name], state, part.label, cure, needed=False)


def examine(settings: Settings | None = None) -> list[Finding]:
    """Look at everything; the order is always the same.

    Args:
        settings: which broker and LLM endpoint to look for; by default this process's.

    Raises:
        LabError: if an environment variable does not fit.
    """
    wanted = _wanted()
    packages = [_package(name, extra, wanted.get(name)) for name, extra in CARD.items()]
    return [_python(), *packages, _event_loop(), *map(_part, find_all(settings))]


def _short(detail: str) -> str:
    return detail if len(detail) <= PATH_SHOWN else "…" + detail[-PATH_SHOWN:]


def _summary(findings: list[Finding]) -> str:
    wrong = sum(found.state == "wrong" for found in findings)
    missing = sum(found.state == "missing" for found in findings)
    if wrong:
        return f"Not right: {wrong}. The lab does not work until that is mended."
    if missing:
        return f"Not here: {missing}. The experiments that need it are skipped; all else works."
    return "Everything is here."


def _table(findings: list[Finding]) -> Table:
    table = Table(title="What is here", title_justify="left", caption=_summary(findings), caption_justify="left")
    for head in ("", "what", "version or place", "what to do"):
        table.add_column(head, overflow="fold")
    for found in findings:
        table.add_row(MARKS[found.state], found.name, _short(found.detail), found.cure, style=STYLES[found.state])
    return table


def _html(findings: list[Finding]) -> str:
    heads = ["", "what", "version or place", *(["what to do"] if any(found.cure for found in findings) else [])]
    rows = [(MARKS[found.state], found.name, _short(found.detail), found.cure)[: len(heads)] for found in findings]
    head, body = _row("th", heads), "".join(_row("td", row) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table><p>{escape(_summary(findings))}</p>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"


def _twin(findings: list[Finding]) -> str:
    """Return what is the same on every machine where the lab works: no version, no optional part's state."""
    lines = [f"{MARKS[found.state]} {found.name}" for found in findings if found.needed]
    optional = ", ".join(found.name for found in findings if not found.needed)
    return "\n".join([*lines, f"optional, see the table: {optional}"])


def report(settings: Settings | None = None) -> Html:
    """Return the table for a notebook; its text twin holds no version and no state of an optional part.

    Raises:
        LabError: if an environment variable does not fit.
    """
    findings = examine(settings)
    return Html(_html(findings), _twin(findings))


def doctor() -> None:
    """Show what is here: versions, event loop, broker, nginx, NATS, browser, LLM endpoint, and what to do."""
    findings = examine()
    Console().print(_table(findings))
    if any(found.state == "wrong" for found in findings):
        raise typer.Exit(1)
