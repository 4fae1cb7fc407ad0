"""Which notebook is whose, in folders and in zip files; junk, bombs and paths that lead out are no submissions."""

import os
import zipfile
from pathlib import Path

import pytest

from labserver.errors import LabError
from labserver.school import submissions
from labserver.school.submissions import find, printable


def lay(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def pack(path: Path, *names: str, **data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, name.encode())
        for name, content in data.items():
            archive.writestr(name, content)


def owners(folder: Path) -> list[tuple[str, str]]:
    return [(item.student, item.source) for item in find(folder).submissions]


def test_three_layouts_may_be_mixed(tmp_path: Path) -> None:
    lay(tmp_path, "zoe/01.ipynb", "adam/week1/02.ipynb", "Bea__01 (2).ipynb", "zoe/05.IPYNB")
    assert owners(tmp_path) == [
        ("adam", "adam/week1/02.ipynb"),
        ("Bea", "Bea__01 (2).ipynb"),
        ("zoe", "zoe/01.ipynb"),
        ("zoe", "zoe/05.IPYNB"),
    ]
    assert next(item.read().decode() for item in find(tmp_path).submissions) == "adam/week1/02.ipynb"


def test_junk_is_passed_over(tmp_path: Path) -> None:
    lay(tmp_path, "a/01.ipynb", ".DS_Store", "a/.DS_Store", "a/.ipynb_checkpoints/01-checkpoint.ipynb")
    lay(tmp_path, "__MACOSX/a/._01.ipynb", "a/._01.ipynb", "a/01-checkpoint.ipynb", ".git/x.ipynb", "a/notes.txt")
    found = find(tmp_path)
    assert [item.source for item in found.submissions] == ["a/01.ipynb"]
    assert (found.students, found.skipped) == (("a",), ())


def test_a_student_with_an_empty_folder_is_a_student(tmp_path: Path) -> None:
    lay(tmp_path, "a/01.ipynb", "b/readme.txt")
    (tmp_path / "c").mkdir()
    assert find(tmp_path).students == ("a", "b", "c")


def test_a_file_of_nobody_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "a/01.ipynb", "01.ipynb", "__x.ipynb")
    skipped = find(tmp_path).skipped
    assert [item.source for item in skipped] == ["01.ipynb", "__x.ipynb"]
    assert "STUDENT__x.ipynb" in skipped[0].reason


def test_one_student_by_two_spellings_of_an_umlaut(tmp_path: Path) -> None:
    lay(tmp_path, "M\u00fcller/01.ipynb", "Mu\u0308ller__02.ipynb")
    assert find(tmp_path).students == ("M\u00fcller",)


def test_names_can_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    lay(tmp_path, "a\x1b[2J/01.ipynb", "b\nc__01.ipynb")
    assert find(tmp_path).students == ("a?[2J", "b?c")
    assert printable("a\tb\n\x00", keep="\n") == "a?b\n?"


def test_links_are_not_followed(tmp_path: Path) -> None:
    lay(tmp_path, "outside/secret.ipynb", "class/a/01.ipynb")
    os.symlink(tmp_path / "outside", tmp_path / "class" / "b")
    os.symlink(tmp_path / "outside" / "secret.ipynb", tmp_path / "class" / "a" / "02.ipynb")
    os.symlink(tmp_path / "class", tmp_path / "class" / "a" / "loop")
    assert owners(tmp_path / "class") == [("a", "a/01.ipynb")]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    lay(tmp_path, "a/01.ipynb")
    os.mkfifo(tmp_path / "a" / "02.ipynb")
    assert owners(tmp_path) == [("a", "a/01.ipynb")]


def test_our_own_results_are_no_student(tmp_path: Path) -> None:
    lay(tmp_path, "a/01.ipynb", "marks/students/a.html", "marks/01.ipynb")
    assert find(tmp_path, leave_out=tmp_path / "marks").students == ("a",)


@pytest.mark.parametrize(
    ("path", "members", "student"),
    [
        ("class.zip", ["eve/01.ipynb"], "eve"),
        ("class.zip", ["class/eve/01.ipynb", "class/finn/01.ipynb"], "eve"),
        ("class.zip", ["eve/week1/01.ipynb"], "eve"),
        ("class.zip", ["eve__01.ipynb"], "eve"),
        ("class.zip", ["class/eve__01.ipynb"], "eve"),
        ("eve.zip", ["01.ipynb"], "eve"),
        ("eve.zip", ["eve/01.ipynb"], "eve"),
        ("eve__week1.zip", ["01.ipynb"], "eve"),
        ("eve__week1.zip", ["week1/01.ipynb"], "eve"),
        ("eve/week1.zip", ["01.ipynb"], "eve"),
        ("eve/week1.zip", ["week1/01.ipynb", "__MACOSX/week1/._01.ipynb", "week1/.DS_Store"], "eve"),
    ],
)
def test_zip_files_follow_the_same_layouts(tmp_path: Path, path: str, members: list[str], student: str) -> None:
    pack(tmp_path / path, *members)
    found = find(tmp_path).submissions
    assert found[0].student == student
    assert found[0].source == f"{path}/{members[0]}"
    assert found[0].read().decode() == members[0]
    assert len(found) == sum("MACOSX" not in name and name.endswith(".ipynb") for name in members)


@pytest.mark.parametrize(
    "name", ["../eve/01.ipynb", "/eve/01.ipynb", "eve/../../01.ipynb", "..\\eve\\01.ipynb", "C:/e/1.ipynb"]
)
def test_a_zip_cannot_write_or_name_anything_outside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "class"
    pack(folder / "class.zip", name, "good/01.ipynb")
    before = sorted(tmp_path.rglob("*"))
    found = find(folder)
    assert [item.student for item in found.submissions] == ["good"]
    assert "leads out" in found.skipped[0].reason
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_bomb_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MAX_ZIP_BYTES", 1 << 20)
    pack(tmp_path / "bomb.zip", **{"a/01.ipynb": bytes(2 << 20)})
    found = find(tmp_path)
    assert found.submissions == ()
    assert "more than" in found.skipped[0].reason


def test_a_zip_of_too_many_files_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MAX_ZIP_FILES", 3)
    pack(tmp_path / "many.zip", *[f"a/{n}.ipynb" for n in range(4)])
    assert "more than" in find(tmp_path).skipped[0].reason


def test_a_file_that_is_too_large_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MAX_NOTEBOOK_BYTES", 1 << 20)
    pack(tmp_path / "eve.zip", **{"01.ipynb": bytes((1 << 20) + 1)})
    lay(tmp_path, "adam/01.ipynb")
    (tmp_path / "adam" / "01.ipynb").write_bytes(bytes((1 << 20) + 1))
    for item in find(tmp_path).submissions:
        with pytest.raises(ValueError, match="larger than 1 MiB"):
            item.read()


def test_what_is_no_zip_and_what_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"this is no zip")
    pack(tmp_path / "empty.zip", "a/readme.txt")
    pack(tmp_path / "eve.zip", "01.ipynb" * 20 + ".ipynb")
    data = bytearray((tmp_path / "eve.zip").read_bytes())
    at = 30 + len("01.ipynb" * 20 + ".ipynb")
    data[at : at + 8] = b"\xff" * 8
    (tmp_path / "eve.zip").write_bytes(bytes(data))
    found = find(tmp_path)
    assert {item.source: item.reason.split()[3] for item in found.skipped} == {"no.zip": "can't", "empty.zip": "holds"}
    with pytest.raises(ValueError, match=r"damaged|can't be read"):
        found.submissions[0].read()


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "a/01.ipynb")
    (item,) = find(tmp_path).submissions
    item.path.unlink()
    with pytest.raises(ValueError, match="can't be read"):
        item.read()


def test_a_folder_that_is_missing_or_holds_nothing_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="There is no folder"):
        find(tmp_path / "missing")
    lay(tmp_path, "class/a/readme.txt")
    with pytest.raises(LabError, match="no submissions in"):
        find(tmp_path / "class")
    with pytest.raises(LabError, match="There is no folder"):
        find(tmp_path / "class" / "a" / "readme.txt")
