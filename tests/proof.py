"""Write PROOF.md, the table of proof: every answer that is kept, and the checks that catch it, from a run of them all.

`python tests/proof.py` judges every answer and writes the page; `python tests/proof.py 05 15` judges these exercises
anew and keeps the rest. `school/test_solutions.py` holds the page to what it observed, `school/test_proof.py` to what
there is.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import randbelow

from rich.progress import track

from labserver.school.answer import Answer, read_answer
from labserver.school.catalogue import ROOT, Exercise, exercise, exercise_ids, find_exercise, hidden
from labserver.school.checking import Misconception
from labserver.school.judge import judge_answer
from labserver.school.verdicts import CheckResult, Report

__all__ = ["PAGE", "answers", "observed", "page", "rows", "section"]

PAGE = ROOT / "PROOF.md"
SOLUTIONS = ROOT / "solutions"
HEAD = """# The table of proof

Which answers the checks of each exercise were tried on, and which checks caught them. `python tests/proof.py` writes
this page from a run of every answer in `solutions/`; `make test` runs them all again and fails when a row is not what
it saw. A wrong answer fails just the checks that stand beside it, no more and no fewer, and no two fail the same ones.
As shipped, every exercise is *not attempted*.

Hidden checks run in `labserver grade` alone. Each guards a visible one, whose points are lost when it fails. They stand
beside the answers that pass every visible check; from others they may take more than the notebook does. Here they have
only their names: this page, like the answers, is no part of a handout.
"""

Reports = Mapping[str, Report]
"""The reports of one exercise's answers, by path below `solutions/`: `wrong/05_server_sent_events/raw_text.py`."""


def answers(id: str) -> list[str]:
    """Return the paths of all answers to an exercise: the solution, other right ones, wrong ones."""
    kept = [path for kind in ("right", "wrong") for path in sorted((SOLUTIONS / kind / id).glob("*.py"))]
    return [f"{id}.ipynb", *(path.relative_to(SOLUTIONS).as_posix() for path in kept)]


def page(judged: Mapping[str, Reports]) -> str:
    """Return the text of the page from the reports of every answer, by exercise."""
    return "\n".join([HEAD, *(section(id, reports) for id, reports in sorted(judged.items()))])


def section(id: str, reports: Reports) -> str:
    """Return the part of one exercise: its checks with their points, and a row for each answer."""
    known, unseen = exercise(id), hidden(id)
    lines = [f"## {known.number} · {known.title}", "", "| check | points | what the answer must do |", "|---|---:|---|"]
    lines += [f"| `{check.name}` | {check.points} | {_cell(check.title)} |" for check in known.checks]
    if unseen:
        guards = ", ".join(f"`{check.name}` (of `{check.guards}`)" for check in unseen.checks)
        lines += ["", f"Hidden: {guards}."]
    lines += ["", "| answer | points | caught by | what its author believes | shown in |", "|---|---:|---|---|---|"]
    return "\n".join([*lines, *rows(id, reports), ""])


def rows(id: str, reports: Reports) -> list[str]:
    """Return the rows of some or all answers to an exercise, as the page has them."""
    return [_row(exercise(id), answer, report) for answer, report in reports.items()]


def _row(known: Exercise, answer: str, report: Report) -> str:
    wrong = _misconception(known, Path(answer).stem) if answer.startswith("wrong/") else None
    name = f"`{Path(answer).stem}`" if answer.endswith(".py") else "the solution"
    kind = ", right" if answer.startswith("right/") else ""
    believes, shown = (_cell(wrong.says), _link(wrong.see)) if wrong else ("", "")
    return f"| [{name}](solutions/{answer}){kind} | {_points(report)} | {_caught(report)} | {believes} | {shown} |"


def _visible(report: Report) -> list[CheckResult]:
    """The visible checks that failed by themselves, and not because of a hidden one."""
    return [check for check in report.checks if not check.passed and not check.guard]


def _points(report: Report) -> int:
    """What the notebook gives to an answer that it catches, else what grading gives."""
    if not (lost := _visible(report)):
        return report.points
    return report.max_points - sum(check.points for check in lost)


def _caught(report: Report) -> str:
    """The visible checks, or the hidden ones of an answer that passes those; the verdict if none could run."""
    if not report.checks:
        return report.verdict
    visible = [f"`{check.name}`" for check in _visible(report)]
    unseen = [f"`{check.name}` (hidden)" for check in report.hidden if not check.passed]
    return ", ".join(visible or unseen) or "nothing"


def _misconception(known: Exercise, name: str) -> Misconception | None:
    unseen = hidden(known.id)
    return {**known.misconceptions, **(unseen.misconceptions if unseen else {})}.get(name)


def _link(see: str) -> str:
    path, _, anchor = see.partition("#")
    return f"[{Path(path).stem[:2]}, {_cell(anchor.replace('-', ' '))}](<{see}>)" if see else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _judge(answer: str, id: str) -> Report:
    path = SOLUTIONS / answer
    source = read_answer(path).source if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    return judge_answer(Answer(id, exercise(id).object, source, attempted=True), seed=randbelow(1 << 31))[0]


def _surprise(answer: str, report: Report) -> str:
    """What an answer did that it must not, or ""."""
    if answer.startswith("wrong/"):
        failed = frozenset(check.name for check in report.checks if not check.passed and not check.guard)
        # one that froze its server has these failures, and no name: another fault may have the same
        named = report.misconception or exercise(report.exercise).misconception_of(failed)
        fine, must = named == Path(answer).stem, "fail just the checks that it declares"
    else:
        fine, must = report.solved, "have full marks"
    return "" if fine else f"{answer}: it has to {must}; {report.verdict}, caught by {_caught(report)}. {report.reason}"


def observed(ids: Iterable[str]) -> dict[str, dict[str, Report]]:
    """Judge all answers to these exercises as `labserver grade` does, one at a time for each core.

    One that does what it must not is judged once more by itself: on a machine that stalls for seconds, checks fail that
    no fault of an answer fails.
    """
    pairs = [(answer, id) for id in ids for answer in answers(id)]
    judged: dict[str, dict[str, Report]] = {id: {} for _, id in pairs}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        futures = [pool.submit(_judge, *pair) for pair in pairs]
        try:
            for (answer, id), future in track(list(zip(pairs, futures, strict=True)), "judging"):
                judged[id][answer] = future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt starts nothing new
    for id, reports in judged.items():
        for answer in [answer for answer, report in reports.items() if _surprise(answer, report)]:
            reports[answer] = _judge(answer, id)
    return judged


def _kept() -> dict[str, str]:
    """The parts that the page has, by exercise."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = re.split(r"^(?=## )", text, flags=re.M)[1:]
    return {find_exercise(part[3:5]): part.rstrip("\n") + "\n" for part in parts}


def main(names: list[str]) -> int:
    """Judge the exercises named, or all, and write the page; one whose answers surprise keeps the part that it has."""
    parts, surprises = _kept(), []
    for id, reports in observed(map(find_exercise, names) if names else exercise_ids()).items():
        said = [surprise for item in reports.items() if (surprise := _surprise(*item))]
        parts |= {} if said else {id: section(id, reports)}
        surprises += said
    PAGE.write_text("\n".join([HEAD, *(parts[id] for id in sorted(parts))]), encoding="utf-8")
    print(*surprises, sep="\n", end="\n" if surprises else "", file=sys.stderr)
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
