"""The store: numbers without a gap, each verdict once, whatever ends its process, and one process at a time."""

import os
import sqlite3
import stat
import subprocess
import sys

import pytest
from simulated import a_verdict

from labserver.errors import LabError
from labserver.school.room.store import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "room.db"


def test_a_verdict_is_kept_once_however_often_it_comes(path):
    store = Store(path)
    first, second = a_verdict("ana"), a_verdict("ben")
    assert [store.add(verdict) for verdict in (first, second, first, second)] == [
        (1, True),
        (2, True),
        (1, False),
        (2, False),
    ]
    assert store.verdicts() == [(1, first), (2, second)]
    assert store.counts() == (2, 2)
    store.close()


def test_who_opens_it_again_finds_everything_and_the_same_keys(path):
    store = Store(path)
    verdict = a_verdict("Zoë, <b>\n", failed=[])
    store.add(verdict)
    store.close()
    again = Store(path)
    assert (again.epoch, again.report_key, again.board_key) == (store.epoch, store.report_key, store.board_key)
    assert again.verdicts() == [(1, verdict)]
    assert again.add(a_verdict()) == (2, True)
    again.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_nobody_else_reads_the_keys(path):
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


WRITER = """
import sys
from pathlib import Path
from simulated import a_verdict
from labserver.school.room.store import Store

store = Store(Path(sys.argv[1]))
while True:
    verdict = a_verdict()
    print(store.add(verdict)[0], verdict.id, flush=True)
"""


def test_what_was_answered_is_there_after_a_kill_at_any_point(path):
    """The process is killed while it writes: every verdict that it had told of is there, and no half one."""
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    told = []
    for lines in (3, 20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        told += [writer.stdout.readline().split() for _ in range(lines)]
        writer.kill()
        told += [line.split() for line in writer.communicate()[0].splitlines() if line.count(" ") == 1]
    store = Store(path)
    kept = {str(number): verdict.id for number, verdict in store.verdicts()}
    assert list(kept) == [str(number) for number in range(1, len(kept) + 1)]
    whole = {number: id for number, id in told if len(id) == 32}
    assert len(whole) >= 23
    assert whole.items() <= kept.items()
    assert len(kept) <= len(whole) + 2, "at most one, of each kill, that nobody was told of"
    store.close()


def test_a_second_room_is_kept_out(path, monkeypatch):
    store = Store(path)
    script = (
        "import sys; from pathlib import Path; from labserver.school.room.store import Store; Store(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert "LabError: Another room keeps its verdicts in" in done.stderr
    store.close()


def test_what_is_no_room_is_left_as_it_is(tmp_path):
    text, other = tmp_path / "text", tmp_path / "other.db"
    text.write_text("dear diary\n" * 100)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE grades (name TEXT)")
    connection.close()
    for path, says in ((text, "is no file of a room"), (other, "the database of something else"), (tmp_path, "Cannot")):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(LabError, match=says) as caught:
            Store(path)
        assert "--keep" in str(caught.value)
        assert (path.read_bytes() if path.is_file() else b"") == before
