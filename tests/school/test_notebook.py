"""What a participant sees in a kernel: `begin`, `check`, `hint`, `progress`, with a real server in a thread."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager

import pytest
from fastapi import APIRouter, FastAPI
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from labserver.school import begin, check, hint, notebook, progress, replay
from labserver.school.answer import cells_of, read_answer
from labserver.school.attempt import Attempt
from labserver.school.catalogue import ROOT, exercise, exercise_ids
from labserver.school.verdicts import Report
from labserver.settings import Settings

ID = "01_websocket_basics"
EXERCISE = exercise(ID)


@pytest.fixture(autouse=True)
def kernel(tmp_path, monkeypatch):
    """A kernel in which nothing has run yet, with a progress file of its own."""
    monkeypatch.setattr(notebook, "_session", None)
    monkeypatch.setattr("labserver.school.standings.get_settings", lambda: Settings(home=tmp_path))


def app_of(path):
    source = read_answer(path).source if path.suffix == ".ipynb" else path.read_text()
    names = {"__name__": "answer"}
    exec(compile(source, "answer", "exec"), names)
    return names["app"]


@pytest.fixture
def said(capsys):
    """Return what was shown since the last time."""
    return lambda: capsys.readouterr().out


def servers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("labserver-check")]


def test_without_begin_it_says_what_to_do(said):
    check(FastAPI())
    hint()
    assert said().count("Run the first code cell") == 2


def test_full_marks_twice_in_one_kernel(said):
    begin(ID)
    app = app_of(EXERCISE.solution)
    texts = []
    for _ in range(2):
        said()
        check(app)
        texts.append(said())
    assert texts[0] == texts[1]
    assert texts[0].startswith("Exercise 01 · WebSocket basics: solved, 100 of 100 points\n✓ passed")
    assert servers() == []
    progress()
    assert "100/100 01 · WebSocket basics" in said()
    hint()
    assert "No hint needed" in said()


def test_a_known_mistake_is_named_and_hints_follow_one_by_one(said):
    begin(ID)
    hint()
    assert "No hint yet" in said()
    check(app_of(ROOT / "solutions" / "wrong" / ID / "tutorial_loop.py"))
    text = said()
    assert "partial, 40 of 100 points" in text
    assert "your app raised" in text
    assert "`KeyError`" in text
    assert "A common mistake, tutorial loop:" in text
    seen = notebook.last_report().checks[3].seen
    assert "1006" in seen
    assert seen not in text, "what was seen may hold random payloads and has no place in the compared text"
    hints = []
    for _ in range(4):
        hint()
        hints.append(said())
    assert [text.splitlines()[0] for text in hints] == [
        "Hint 1 of 3",
        "Hint 2 of 3",
        "Hint 3 of 3: the last one",
        "Hint 3 of 3: the last one",
    ]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "`app` is None"),
        (3, "`app` is an int"),
        (FastAPI, "`app` is the class FastAPI"),
        (APIRouter(), "`app` is an APIRouter"),
        (asyncio, "`app` is a module"),
        ("app", "`app` is a str"),
        (lambda: FastAPI(), "`app` is a function"),
    ],
)
def test_what_is_no_app_is_one_sentence(said, value, says):
    begin(ID)
    said()
    check(value)
    head, sentence = said().strip().split("\n")
    assert head.endswith("not checked")
    assert sentence.startswith(says)
    assert notebook.last_report() is None


def test_the_starter_s_ellipsis_shows_what_will_be_checked(said):
    begin(ID)
    check(...)
    text = said()
    assert "not attempted" in text
    assert text.count("○ to do") == len(EXERCISE.checks)


def test_a_start_up_that_fails_is_one_sentence(said):
    @asynccontextmanager
    async def life(app):
        raise RuntimeError("no database")
        yield

    begin(ID)
    check(FastAPI(lifespan=life))
    text = said()
    assert "crashed, 0 of 100" in text
    assert "RuntimeError: no database" in text
    assert servers() == []


def test_interrupted_it_stops_its_server(said, monkeypatch):
    def interrupted(url, id, **_):
        assert servers()
        raise KeyboardInterrupt

    monkeypatch.setattr(notebook, "run_checks", interrupted)
    begin(ID)
    with pytest.raises(KeyboardInterrupt):
        check(app_of(EXERCISE.solution))
    assert servers() == []


def test_a_server_that_freezes_is_ended(said):
    begin(ID)
    check(app_of(ROOT / "solutions" / "wrong" / ID / "catches_everything_and_goes_on.py"))
    assert "catches everything and goes on" in said()
    assert servers() == []


def test_progress_that_can_t_be_saved_does_not_hide_the_verdict(said, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("labserver.school.standings.get_settings", lambda: Settings(home=tmp_path / "file"))
    monkeypatch.setattr(notebook, "run_checks", lambda url, id, **_: Report(ID, "wrong", points=0))
    begin(ID)
    check(FastAPI())
    text = said()
    assert "wrong, 0 of 100" in text
    assert "progress could not be saved" in text


def test_the_starter_s_cell_is_known_in_a_kernel_without_history(said, monkeypatch):
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr(notebook, "_shell", lambda: shell)
    monkeypatch.setattr(notebook, "_show", lambda html: print(html.twin))
    monkeypatch.setattr(notebook, "run_checks", lambda url, id, **_: Report(ID, "wrong", points=0))
    begin(ID)
    starter = {cell.id: cell.source for cell in cells_of(json.loads(EXERCISE.starter.read_text()))}
    for id in ("given", "answer"):
        assert shell.run_cell(starter[id], store_history=False).success
    said()
    check(shell.user_ns["app"])
    assert "not attempted" in said()
    shell.run_cell(starter["answer"] + "\napp.state.mine = 1", store_history=False)
    check(shell.user_ns["app"])
    assert "wrong, 0 of 100" in said()


@pytest.mark.parametrize("id", exercise_ids())
def test_every_starter_is_known_by_its_cells(id):
    known = exercise(id)
    cells = [cell for cell in cells_of(json.loads(known.starter.read_text())) if cell.kind == "code"]
    attempt = Attempt(known)
    for cell in cells:
        attempt.ran(cell.source)
    assert attempt.starter
    answer = next(cell for cell in cells if cell.role == "answer")
    attempt.ran(answer.source + "\nmine = 1")
    attempt.ran(cells[-1].source)
    attempt.ran("replay()")
    assert not attempt.starter
    attempt.ran(answer.source)
    attempt.ran("hint()")
    assert attempt.starter


def test_replay_runs_the_failed_check_again_with_its_payloads(said):
    begin(ID)
    replay()
    assert "Check your answer first" in said()
    check(app_of(ROOT / "solutions" / "wrong" / ID / "tutorial_loop.py"))
    report = notebook.last_report()
    first = next(result for result in report.checks if not result.passed)
    said()
    replay()
    text = said()
    assert f"`{first.name}` again, with the same payloads" in text
    assert f"seen: {first.seen}\nexpected: {first.expected}" in text
    assert text.count("failed") == 1
    assert notebook.last_report() is report
    replay(app_of(EXERCISE.solution))
    text = said()
    assert "passed" in text
    assert "comes and goes" not in text
    replay(7)
    assert "it has to be an app" in said()
    replay(check="no_such_check")
    assert "There is no check 'no_such_check'" in said()
    assert servers() == []


def test_replay_says_what_comes_and_goes(said, monkeypatch):
    right, wrong = app_of(EXERCISE.solution), app_of(ROOT / "solutions" / "wrong" / ID / "tutorial_loop.py")
    apps = iter([wrong, right])
    begin(ID)
    monkeypatch.setattr(notebook, "app_of", lambda *_: next(apps))
    check(wrong)
    said()
    replay()
    assert "It passed this time: what it asks comes and goes in your app." in said()


def test_replay_of_an_answer_with_full_marks(said):
    begin(ID)
    check(app_of(EXERCISE.solution))
    said()
    replay()
    assert "Every check passed" in said()
    replay(check=EXERCISE.checks[0].name)
    assert "passed" in said()
