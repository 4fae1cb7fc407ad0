"""A rehearsal for the terminal: its progress, its table, and the one sentence that answers the question."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labserver.school.rehearse.findings import Findings, Outcome
from labserver.school.rehearse.host import KINDS
from labserver.school.rehearse.room import Room

__all__ = ["NOT_SIMULATED", "opening", "progress", "sentence", "summary", "table"]

NOT_SIMULATED = (
    "Not simulated: browsers, the network, and JupyterLab's own server, of which a hub starts one for each person. "
    "People read slower than this, so tomorrow the processors have more time; memory is the same."
)
_BUSY = 85.0  # percent of the processors' time, from which on whatever is slow is slow because of them
_SHOWN = 3  # problems that are told in full


def opening(room: Room) -> str:
    """Return what will be done, in one sentence."""
    plan = room.plan
    then = f", then {plan.exercise.name} in a kernel of its own" if plan.exercise else ""
    starter = (
        " There are no solutions here, so they check the starter, whose checks end at once: what checks take is not in "
        "these figures."
        if plan.exercise and plan.expected != "solved"
        else ""
    )
    return (
        f"{_people(plan.people)} {'arrives' if plan.people == 1 else f'arrive within {plan.window:g} s'}: "
        f"{plan.notebook.name}, with about {plan.pause:g} s to read after each cell{then}.{starter}"
    )


def progress(room: Room) -> str:
    """Return how far everybody is, in one line."""
    states = [person.outcome.state for person in room.people]
    came, through = sum(state != "not come" for state in states), sum(state in ("done", "failed") for state in states)
    failed = f", {states.count('failed')} failed" if "failed" in states else ""
    return f"{came} came, {through} through{failed}; memory: {size(room.peak)} at most, {size(room.free)} free"


def table(found: Findings) -> RenderableType:
    """Return the table of what people waited for, and that of what it took."""
    steps = Table(box=box.SIMPLE_HEAD)
    steps.add_column("step", overflow="fold")
    for name in ("half within", "slowest", "whose"):
        steps.add_column(name, justify="right", no_wrap=True)
    for row in found.steps():
        steps.add_row(Text(row.what), f"{row.half:.1f}", f"{row.worst:.1f}", f"person {row.who}")
    taken = Table(box=box.SIMPLE_HEAD, show_header=False)
    taken.add_column("what", no_wrap=True)
    taken.add_column("how much", overflow="fold")
    for name, value in _taken(found):
        taken.add_row(name, Text(value))
    return Group(
        "Seconds that people wait, without what they read; of each notebook the slowest cell as well",
        steps,
        "What it takes of this host",
        taken,
    )


def sentence(found: Findings) -> str:
    """Say whether the room fits, and what to do if not."""
    people = _people(found.plan.people)
    if found.fits:
        verdicts = " and every verdict is the expected one" if found.plan.exercise else ""
        more = f" Its memory would carry about {found.carries}." if found.carries else ""
        fit = "fits" if found.plan.people == 1 else "fit"
        return f"{people} {fit}: all come through{verdicts}{_slowest(found)}.{more}"
    if found.stopped == "memory":
        return (
            f"This host carries about {found.carries or 0}: memory is full at {found.came} of {people} (less than "
            f"{size(found.plan.keep_free)} free); tell people to shut down the notebook's kernel before they open the "
            "exercise, let two share a machine, or give it more memory."
        )
    if found.stopped == "deadline":
        return (
            f"{people} do not fit: {found.count('unfinished') + found.count('not come')} were not through after "
            f"{found.plan.seconds / 60:g} minutes{_slowest(found)}. Let them begin in groups, or rehearse longer with "
            "--minutes."
        )
    failed = f"{people} do not fit: {found.count('failed')} of them did not come through"
    if found.busy < _BUSY:
        return f"{failed}. Try --people 1: what fails there too is no matter of the room."
    if found.share < found.busy / 2:
        return f"{failed}, and something else kept the processors busy: rehearse again when it has ended."
    return (
        f"{failed}, and the processors had hardly a pause ({found.busy:.0f} % busy). Let people begin in groups; or "
        f"rehearse slower readers, which is nearer to a room: --pause {2 * found.plan.pause + 1:g}."
    )


def _slowest(found: Findings) -> str:
    row = found.slowest()
    return f"; the slowest step is {row.what}, half of them wait {row.half:.0f} s or more" if row else ""


def summary(found: Findings) -> list[str]:
    """Return what went wrong for whom, then the sentence, then what was not simulated."""
    failed = [person for person in found.people if person.state == "failed"]
    told = [f"Person {person.number}: {person.problem}." for person in failed[:_SHOWN]]
    if more := failed[_SHOWN:]:
        told.append(f"{len(more)} more failed; --json FILE tells who, and why.")
    return [*told, sentence(found), NOT_SIMULATED]


def size(amount: int) -> str:
    """Return bytes as MiB or GiB."""
    return f"{amount / (1 << 30):.1f} GiB" if amount >= 1 << 30 else f"{amount / (1 << 20):.0f} MiB"


def _taken(found: Findings) -> list[tuple[str, str]]:
    host = found.host
    share = 100 * found.peak / host.memory
    return [
        (
            "memory, all",
            f"{size(found.peak)} at most, {share:.0f} % of {size(host.memory)}; {size(host.free)} were free",
        ),
        ("memory, each", f"{size(found.each)}, most {_most(found.people)}"),
        ("counted as", KINDS[host.kind]),
        (
            "processors",
            f"{found.cpu:.0f} s of work for {host.cores} in {found.took:.0f} s: {found.share:.0f} % of their time",
        ),
        ("", f"with all else that runs here {found.busy:.0f} %"),
        ("people", _states(found)),
    ]


def _most(people: tuple[Outcome, ...]) -> str:
    most = max(people, key=lambda person: person.peak)
    return f"{size(most.peak)} for person {most.number}"


def _states(found: Findings) -> str:
    words = {"done": "through", "failed": "failed", "unfinished": "not through", "not come": "did not get in"}
    return ", ".join(f"{found.count(state)} {word}" for state, word in words.items() if found.count(state))  # type: ignore[arg-type]


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"
