"""What the walls around an answer hold: tried, not believed, by a program that runs where answers run."""

import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labserver import posix
from labserver.errors import LabError
from labserver.school.catalogue import ROOT
from labserver.school.sandbox import Limits, Sandbox

__all__ = ["Walls", "look_through"]

_TRIAL = """
import json, os, sys, tempfile
def reads(path):
    try:
        return bool(os.listdir(path)) if os.path.isdir(path) else bool(open(path, "rb").read(1))
    except OSError:
        return False
def writes(path):
    try:
        tempfile.TemporaryFile(dir=path).close() if os.path.isdir(path) else open(path, "r+b").close()
    except OSError:
        return False
    return True
print(json.dumps([[path for path in sys.argv[1:] if tries(path)] for tries in (reads, writes)]))
"""


@dataclass(frozen=True, slots=True)
class Walls:
    """What an answer can do to files that are not its own.

    Attributes:
        readable: the private places that it can read.
        writable: those that it can write to.
        sentence: the same in words.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    sentence: str


def look_through(private: Iterable[Path], *, user: str | None = None) -> Walls:
    """Try from inside a sandbox to read and write the solutions, this package's checks and other private places.

    Args:
        private: what no answer is to see, beside the solutions.
        user: name of the user that answers run as; None: as you.

    Raises:
        LabError: if that user does not hold as a wall, does not exist, or can't run Python here.
    """
    if user is not None and not posix.is_root():
        again = " ".join(shlex.quote(part) for part in sys.argv[1:])
        raise LabError(f"--user needs root, who alone may run answers as another user: sudo labserver {again}")
    places = [path.resolve() for path in (*private, ROOT / "solutions", ROOT / "solutions" / "hidden") if path.exists()]
    with Sandbox(Limits(seconds=30), owner=user) as box:
        box.start([sys.executable, "-c", _TRIAL, *map(str, places), __file__])
        box.ended(35)
        outcome = box.finish()
    try:
        readable, writable = json.loads(outcome.output)
    except ValueError:
        whose = f"The user {user!r}" if user else "An answer"
        last = outcome.output.strip().rpartition("\n")[2] or outcome.ended
        raise LabError(
            f"{whose} can't run {sys.executable} ({last}): install Python and the lab where every user can read them, "
            "/opt for instance."
        ) from None
    readable = [path for path in readable if path != __file__]
    if user is not None and (exposed := sorted({*readable, *writable})):
        rights = " ".join(shlex.quote(path) for path in exposed)
        raise LabError(f"The user {user!r} can get at what no answer may see: chmod -R o-rwx {rights}")
    return Walls(tuple(readable), tuple(writable), _sentence(readable, writable, user))


def _sentence(readable: list[str], writable: list[str], user: str | None) -> str:
    who = f"as the user {user}, with" if user else "with"
    begin = f"Each answer runs {who} a bare environment, limits and a deadline, in a folder of its own."
    if not readable and not writable:
        return f"{begin} It was tried: it can't read or write the solutions, the submissions and the results."
    kinds = [word for word, places in (("read", readable), ("write", writable)) if places]
    return (
        f"{begin} This system puts no wall around files (Linux has one from 5.13 on): an answer can "
        f"{' and '.join(kinds)} what you can, hidden checks among it. Use --user or a container for strangers."
    )
