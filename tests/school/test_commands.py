"""The school's commands, as a participant types them."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from labserver.errors import LabError
from labserver.school import catalogue, commands

ID = "01_websocket_basics"
SOLUTION = catalogue.ROOT / "solutions" / f"{ID}.ipynb"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A participant's folder with exercise 01 as shipped."""
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    path = tmp_path / "exercises" / f"{ID}.ipynb"
    path.parent.mkdir()
    path.write_bytes(catalogue.exercise(ID).starter.read_bytes())
    return path


def run(*arguments, text=None):
    return CliRunner().invoke(commands.exercises, list(arguments), input=text)


def test_build_check_is_content_with_what_is_committed():
    done = run("build", "--check")
    assert (done.exit_code, done.output) == (0, "Every exercise is what its solution makes.\n")


def test_check_of_a_starter(mine):
    done = run("check", "01")
    assert done.exit_code == 1
    assert "not attempted" in done.output


def test_check_of_a_solution_by_path():
    done = run("check", str(SOLUTION))
    assert done.exit_code == 0, done.output
    assert "solved, 100 of 100" in done.output


def test_check_of_a_crash_and_of_a_failure(mine):
    notebook = json.loads(mine.read_text())
    answer = next(cell for cell in notebook["cells"] if cell["id"] == "answer")
    answer["source"] = "app = FastAP()"
    mine.write_text(json.dumps(notebook))
    done = run("check", "1")
    assert done.exit_code == 1
    assert "crashed, 0 of 100" in done.output
    assert "NameError: name 'FastAP' is not defined" in done.output
    answer["source"] = "app = FastAPI()"
    mine.write_text(json.dumps(notebook))
    assert "First failure:" in run("check", ID).output


def test_reset_asks_before_an_answer_goes(mine):
    mine.write_bytes(SOLUTION.read_bytes())
    assert run("reset", "01", "--all", text="n\n").exit_code != 0
    assert mine.read_bytes() == SOLUTION.read_bytes()
    done = run("reset", "01", "--all", text="y\n")
    assert done.exit_code == 0
    assert "backup-1" in done.output
    assert mine.read_bytes() == catalogue.exercise(ID).starter.read_bytes()


def test_unknown_exercise_is_one_sentence():
    done = run("reset", "77")
    assert isinstance(done.exception, LabError)
    assert "There is no exercise '77': choose one of 01_websocket_basics" in str(done.exception)


def test_next_names_the_file(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LABSERVER_HOME", str(tmp_path))
    commands.next_exercise()
    said = capsys.readouterr().out
    assert said.endswith("(not begun). Open exercises/01_websocket_basics.ipynb.\n")


def test_next_names_the_notebook_to_read_first_where_there_is_one(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LABSERVER_HOME", str(tmp_path))
    lesson = tmp_path / "notebooks" / f"{ID}.ipynb"
    lesson.parent.mkdir()
    lesson.write_text("{}")
    commands.next_exercise()
    said = capsys.readouterr().out
    assert "Read notebooks/01_websocket_basics.ipynb first. Open exercises/01_websocket_basics.ipynb." in said


def test_command_line_ends_with_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "labserver", "exercises", "reset", "77"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("labserver: There is no exercise")
    assert "Traceback" not in done.stderr
