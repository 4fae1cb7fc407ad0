"""Finds what was handed in: which notebook belongs to which student, in folders and in zip files of folders.

Layouts, freely mixed: `STUDENT/x.ipynb`, `STUDENT/ASSIGNMENT/x.ipynb`, `STUDENT__x.ipynb`, and zip files of these. A
zip inside a student's folder is that student's; beside the folders it is read like a folder, and notebooks at its root
are of the student it is called after. Nothing is unpacked onto the disc and no notebook is executed here.
"""

import os
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labserver.errors import LabError

__all__ = ["LAYOUTS", "Found", "Skipped", "Submission", "find", "printable", "student_name"]

LAYOUTS = "STUDENT/x.ipynb, STUDENT/ASSIGNMENT/x.ipynb, STUDENT__x.ipynb, or zip files of these"
MAX_NOTEBOOK_BYTES = 16 << 20  # a notebook with its outputs; ours have 1 MiB at most
MAX_ZIP_BYTES = 512 << 20  # unpacked, by the zip's own table, to which its reader holds it
MAX_ZIP_FILES = 10_000
_JUNK = frozenset({"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "node_modules", "venv"})


@dataclass(frozen=True, slots=True)
class Submission:
    """One notebook that was handed in.

    Attributes:
        student: as the folder or file was called.
        source: where it lies, from the folder of submissions on, `a.zip/b.ipynb` for a file in a zip.
        path: the file, or the zip that holds it.
        member: its name inside the zip, else "".
    """

    student: str
    source: str
    path: Path
    member: str = ""

    def read(self) -> bytes:
        """Return the notebook's bytes.

        Raises:
            ValueError: if it can't be read or is too large; the text is a sentence.
        """
        try:
            if not self.member:
                with self.path.open("rb") as file:
                    data = file.read(MAX_NOTEBOOK_BYTES + 1)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                    data = file.read(MAX_NOTEBOOK_BYTES + 1)
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(f"The file can't be read: {error}.") from None
        except Exception as error:  # zlib.error, lzma.LZMAError: damaged data
            raise ValueError(f"The file is damaged: {error}.") from None
        if len(data) > MAX_NOTEBOOK_BYTES:
            raise ValueError(f"The file is larger than {MAX_NOTEBOOK_BYTES >> 20} MiB: clear its outputs.")
        return data


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not graded although somebody may have meant it to be, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """Everything in a folder of submissions, sorted.

    Attributes:
        students: all of them, also those with an empty folder.
        submissions: by student, then by source.
        skipped: what needs a look by the teacher.
    """

    students: tuple[str, ...]
    submissions: tuple[Submission, ...]
    skipped: tuple[Skipped, ...]


def find(folder: Path, *, leave_out: Path | None = None) -> Found:
    """Find all submissions in `folder`.

    Args:
        folder: of one class and one collection.
        leave_out: a folder inside it that is not a student's (our own output).

    Raises:
        LabError: if there is no such folder, it can't be read, or nothing is in it.
    """
    if not folder.is_dir():
        raise LabError(f"There is no folder {str(folder)!r}: name the one that holds the submissions ({LAYOUTS}).")
    students: set[str] = set()
    submissions: list[Submission] = []
    skipped: list[Skipped] = []
    try:
        for path in _files(folder, folder, leave_out.resolve() if leave_out else None):
            parts = path.relative_to(folder).parts
            if len(parts) > 1:
                students.add(student_name(parts[0]))
            if path.is_dir():
                students.add(student_name(parts[0]))
            elif path.suffix.lower() == ".zip":
                _open_zip(path, parts, submissions, skipped)
            elif path.suffix.lower() == ".ipynb":
                _place(Submission("", "/".join(parts), path), parts, submissions, skipped)
    except OSError as error:
        raise LabError(f"The folder {str(folder)!r} can't be read: {error.strerror}.") from None
    students |= {submission.student for submission in submissions}
    if not submissions and not skipped:
        raise LabError(f"There are no submissions in {str(folder)!r}: expected {LAYOUTS}.")
    submissions.sort(key=lambda submission: (_order(submission.student), submission.source))
    return Found(tuple(sorted(students, key=_order)), tuple(submissions), tuple(skipped))


def _files(root: Path, folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """Yield files and the students' folders; links are not followed, so that none leads out or round in a circle."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if _junk(entry.name) or entry.is_symlink() or (leave_out and path.resolve() == leave_out):
            continue
        if entry.is_dir():
            if folder == root:
                yield path
            yield from _files(root, path, leave_out)
        elif entry.is_file():
            yield path


def _open_zip(path: Path, parts: tuple[str, ...], submissions: list[Submission], skipped: list[Skipped]) -> None:
    source = "/".join(parts)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        skipped.append(Skipped(source, f"This zip file can't be opened: {error}."))
        return
    if len(members) > MAX_ZIP_FILES or sum(member.file_size for member in members) > MAX_ZIP_BYTES:
        size = f"{MAX_ZIP_FILES} files or {MAX_ZIP_BYTES >> 20} MiB"
        skipped.append(Skipped(source, f"This zip file would unpack to more than {size}: look at it by hand."))
        return
    names = [(member, _member_parts(member)) for member in members]
    if not any(inner and inner[-1].lower().endswith(".ipynb") for _, inner in names):
        skipped.append(Skipped(source, "This zip file holds no notebook."))
    tops = {inner[0] if len(inner) > 1 else "" for _, inner in names if inner}
    for member, inner in names:
        if not inner or not inner[-1].lower().endswith(".ipynb"):
            continue
        if tops == {path.stem}:  # a folder was packed and not what is in it
            inner = inner[1:]
        place = Submission("", f"{source}/{member.filename}", path, member.filename)
        if _traversing(member.filename):
            skipped.append(Skipped(place.source, "The name of this file leads out of its zip file: it was not opened."))
        elif len(parts) == 1 and (owner := _prefix(parts[0])):
            _place(place, (owner, *inner), submissions, skipped)
        elif len(parts) == 1 and len(inner) == 1 and not _prefix(inner[0]):
            _place(place, (path.stem, *inner), submissions, skipped)
        else:
            _place(place, (*parts[:-1], *inner), submissions, skipped)


def _member_parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    name = member.filename
    if not member.flag_bits & 0x800:  # not marked as UTF-8, which many zip programs write all the same
        try:
            name = name.encode("cp437").decode()
        except UnicodeError:
            name = member.filename
    parts = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "."))
    return () if any(_junk(part) for part in parts if part != "..") else parts


def _traversing(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or (len(name) > 1 and name[1] == ":")


def _place(
    submission: Submission, parts: tuple[str, ...], submissions: list[Submission], skipped: list[Skipped]
) -> None:
    student = parts[0] if len(parts) > 1 else _prefix(parts[0])
    if not student:
        reason = "Whose is it? Call it STUDENT__x.ipynb or put it into a folder with the student's name."
        skipped.append(Skipped(printable(submission.source), reason))
        return
    submissions.append(
        Submission(student_name(student), printable(submission.source), submission.path, submission.member)
    )


def _prefix(name: str) -> str:
    student, found, rest = name.partition("__")
    return student if found and rest else ""


def printable(text: str, *, keep: str = "") -> str:
    """Return a text that can do nothing to a terminal: every control character but those in `keep` becomes `?`."""
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)


def student_name(text: str) -> str:
    """Return a student's name as it is written everywhere, from a folder's or a roster's spelling of it."""
    # macOS writes an umlaut as two characters: one student must not become two
    return " ".join(printable(unicodedata.normalize("NFC", text)).split()) or "?"


def _junk(name: str) -> bool:
    return name.startswith((".", "~$")) or name in _JUNK or name.endswith("-checkpoint.ipynb")


def _order(student: str) -> tuple[str, str]:
    return student.casefold(), student
