"""The database of items: seeded, mapped as the pattern maps it, and gone with its owner."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, inspect

from labserver.errors import LabError
from labserver.patterns.items import Item
from labserver.settings import Settings
from labserver.stage import Database, database, start
from labserver.stage.databases import SMALL, OwnDatabase


def rows_of(made: Database) -> list[tuple[int, str, int, str]]:
    with closing(sqlite3.connect(made.path)) as connection:
        return connection.execute("SELECT * FROM items ORDER BY id").fetchall()


def test_it_holds_the_same_items_on_each_run() -> None:
    with database(300) as first:
        rows = rows_of(first)
    with database(300) as second:
        assert second.path != first.path
        assert rows_of(second) == rows
    assert rows[0] == (1, "white stool 1", 6909, "2020-08-05")
    assert [row[0] for row in rows] == list(range(1, 301))
    assert not first.path.parent.exists()


def test_it_is_made_once_for_the_same_arguments() -> None:
    with database(10) as made:
        assert database(10) is made
        with database(10, bad=3) as other:
            assert other is not made
    with database(10) as again:
        assert again is not made


def test_the_table_is_the_one_that_the_pattern_maps() -> None:
    with database(1) as made:
        engine = create_engine(f"sqlite:///{made.path}")
        found = {column["name"]: column["type"].python_type for column in inspect(engine).get_columns("items")}
        engine.dispose()
    assert found == {column.name: column.type.python_type for column in Item.__table__.columns}


def test_a_spoilt_item_and_wide_names() -> None:
    with database(5, bad=4, width=100) as made:
        rows = rows_of(made)
    assert [row[3] == "soon" for row in rows] == [False, False, False, True, False]
    assert {len(row[1]) for row in rows} == {100}


@pytest.mark.parametrize(("rows", "bad"), [(-1, None), (5, 6), (5, 0)])
def test_what_can_not_be_is_one_sentence(rows: int, bad: int | None) -> None:
    with pytest.raises(LabError, match="There is no database of"):
        database(rows, bad=bad)


def test_the_lab_lends_its_patterns_and_twins_one_database_and_removes_it_with_the_server(tmp_path: Path) -> None:
    with start(name="lent") as live:
        own = live.app.dependency_overrides
        body = httpx.get(f"{live.url}/stream/items", params={"limit": SMALL + 1}).text
        assert body.endswith(f'{{"done": true, "rows": {SMALL}}}\n')
        assert httpx.get(f"{live.url}/broken/no_end_marker/items/{SMALL}").status_code == 200
        lends = [getattr(give, "__self__", None) for give in own.values()]
        (lent,) = [lender for lender in lends if isinstance(lender, OwnDatabase)]
        path = lent._made.path
        assert path.exists()
    assert not path.parent.exists()


def test_the_settings_are_stronger_than_the_labs_own() -> None:
    with database(3) as made, start(name="set", settings=Settings(database_url=made.url)) as live:
        assert httpx.get(f"{live.url}/stream/items").text.endswith('{"done": true, "rows": 3}\n')


def test_it_goes_with_its_process() -> None:
    program = "from labserver.stage import database; print(database(3).path)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).parent.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the keeper of a folder needs a POSIX system")
def test_it_goes_with_a_process_that_is_killed() -> None:
    program = "import sys; from labserver.stage import database; print(database(3).path, flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip()).parent
    there = folder.exists()
    child.kill()
    child.communicate()
    end = time.monotonic() + 10
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert (there, folder.exists()) == (True, False)


def test_the_lab_starts_without_sqlalchemy() -> None:
    program = "import sys; from labserver.stage import start; start().stop(); print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
