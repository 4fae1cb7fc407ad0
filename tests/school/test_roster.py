"""A roster gives submissions the ids of a gradebook; one that can't be right is told in a sentence with its line."""

import subprocess
import sys
from pathlib import Path

import pytest

from labserver.errors import LabError
from labserver.school.catalogue import exercise
from labserver.school.roster import read_roster


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "class.csv"


def test_names_are_those_that_submissions_have(path: Path) -> None:
    path.write_text('submission,id\nAnn  Lee_17_file,ann@example.org\n\n"Müller, Jo",0042\n', encoding="utf-8")
    assert read_roster(path) == {"Ann Lee_17_file": "ann@example.org", "Müller, Jo": "0042"}


def test_what_a_spreadsheet_saves_is_read_too(path: Path) -> None:
    path.write_bytes("\ufeffSubmission;ID\r\nMu\u0308ller; 7 \r\n".encode())
    assert read_roster(path) == {"Müller": "7"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "The roster class.csv has to begin with the line `submission,id`."),
        (b"name,mail\nann,1\n", "The roster class.csv has to begin with the line `submission,id`."),
        (b"submission,id\nann\n", "class.csv, line 2: expected the name of a submission and an id."),
        (b"submission,id\nann,\n", "class.csv, line 2: expected the name of a submission and an id."),
        (b"submission,id\nann,1\n\nann,2\n", "class.csv, line 4: 'ann' has an id already."),
        (b"submission,id\nann,1\nbob,1\n", "class.csv, line 3: the id '1' is another student's already."),
        (b"PK\x03\x04\xff\xfe", "The roster class.csv is not UTF-8 text: save it as `CSV UTF-8`."),
        (b"submission,id\n" + b"x" * 200_000 + b",1\n", "class.csv, line 2: field larger than field limit (131072)."),
    ],
)
def test_what_is_no_roster_is_told_in_one_sentence(path: Path, data: bytes, sentence: str) -> None:
    path.write_bytes(data)
    with pytest.raises(LabError) as caught:
        read_roster(path)
    assert str(caught.value) == sentence


def test_one_that_is_not_there(path: Path) -> None:
    for place in (path, path.parent):
        with pytest.raises(LabError, match="can't be read: "):
            read_roster(place)


def test_grading_with_a_roster(tmp_path: Path) -> None:
    starter = exercise("01_websocket_basics").starter.read_bytes()
    for student in ("Ann Lee_17_file", "Bob_18_file"):
        (tmp_path / "in" / student).mkdir(parents=True)
        (tmp_path / "in" / student / "01.ipynb").write_bytes(starter)
    (tmp_path / "class.csv").write_text("submission,id\nAnn Lee_17_file,ann@example.org\n")
    command = [sys.executable, "-m", "labserver", "grade", "in", "--out", "out", "--roster"]
    done = subprocess.run([*command, "class.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Not in class.csv, so marks.csv has the names of their submissions: Bob_18_file." in done.stdout
    rows = (tmp_path / "out" / "marks.csv").read_text(encoding="utf-8").split()
    assert rows == ["student,01_websocket_basics,total,max", "ann@example.org,0,0,100", "Bob_18_file,0,0,100"]
    wrong = subprocess.run([*command, "none.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "The roster 'none.csv' can't be read: No such file or directory." in wrong.stderr
