"""Progress keeps the best, survives a damaged file, and knows what is next."""

import pytest

from labserver.school import standings
from labserver.school.verdicts import Report
from labserver.settings import Settings

ID = "01_websocket_basics"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(standings, "get_settings", lambda: Settings(home=tmp_path / "home"))
    return tmp_path / "home"


def report(points):
    return Report(ID, "solved" if points == 100 else "partial", "", points, 100)


def test_best_points_are_kept_and_tries_counted():
    for points in (40, 90, 20):
        standings.record(report(points))
    mine = next(standing for standing in standings.standings() if standing.exercise == ID)
    assert (mine.points, mine.tries, mine.solved) == (90, 3, False)


def test_next_is_the_first_without_full_marks():
    assert standings.next_up().exercise == ID
    standings.record(report(100))
    following = standings.next_up()
    assert following is None or following.exercise != ID


@pytest.mark.parametrize("text", ["", "[]", "{", '{"01_websocket_basics": 3}', '{"01_websocket_basics": {}}'])
def test_damaged_file_counts_as_none(home, text):
    home.mkdir()
    (home / "progress.json").write_text(text)
    assert standings.standings()[0].tries == 0
    standings.record(report(10))
    assert standings.standings()[0].points == 10


def test_nothing_but_the_file_is_left(home):
    standings.record(report(10))
    assert [path.name for path in home.iterdir()] == ["progress.json"]
