"""The participant's side: a verdict arrives once, whatever the room or the network does, and a check never waits."""

import socket
import threading
import time

import pytest
from simulated import DEADLINE, EXERCISE, a_verdict, until

from labserver.errors import LabError
from labserver.school import notebook
from labserver.school.room import report as side
from labserver.school.room.app import create_app
from labserver.school.room.outbox import FILES_MAX, Outbox
from labserver.school.room.report import Address, Sender, hand_over
from labserver.school.room.store import Store
from labserver.school.room.verdict import Verdict
from labserver.school.verdicts import CheckResult, Report
from labserver.settings import Settings
from labserver.stage.server import start

FAILED = CheckResult("done", 10, 0, "failed", seen="secret seen", tape_text="secret tape")
REPORT = Report(EXERCISE, "partial", "secret reason", 40, 100, (FAILED,), "raw_text", 7)


class Path:
    """A server of one's own on loopback: `behave(connection)` for each connection, in a thread."""

    def __init__(self, behave):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.behave, self.seen = behave, 0
        self.thread = threading.Thread(target=self._run, name="path")
        self.thread.start()

    def _run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.seen += 1
            with connection:
                self.behave(connection)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(DEADLINE)


@pytest.fixture
def path():
    opened = []

    def make(behave):
        opened.append(Path(behave))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "room.db")


@pytest.fixture
def live(store):
    server = start(create_app(store), name="room")
    yield server
    assert server.stop()


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "home" / "room")


@pytest.fixture
def participant(tmp_path, monkeypatch):
    """Return `participant(room, name)`: from here on, this process is theirs."""

    def be(room, name="Ana"):
        settings = Settings(home=tmp_path / "home", room=room, name=name)
        monkeypatch.setattr(side, "get_settings", lambda: settings)
        monkeypatch.setattr(notebook, "get_settings", lambda: settings)
        side._sender.cache_clear()

    return be


def kept(store):
    return [verdict for _, verdict in store.verdicts()]


def test_a_report_arrives_without_what_is_nobody_s_business(participant, live, store, outbox):
    participant(f"{live.url}/#{store.report_key}")
    said = []
    hand_over(REPORT, said.append)
    until(lambda: len(said) == 2, "the room answers")
    assert said == ["Reporting to the room as Ana ...", "Reported to the room as Ana."]
    (verdict,) = kept(store)
    assert verdict.model_dump(exclude={"id"}) == {
        "name": "Ana",
        "exercise": EXERCISE,
        "verdict": "partial",
        "points": 40,
        "failed": ["done"],
        "misconception": "raw_text",
    }
    assert list(outbox.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ana <script>, /\\ '\"", "Ana <script>, /\\ '\""),
        ("x" * 10_000, "x" * 80),
        ("a\n\x00\u202eb\ud800", "a b"),
        ("😀 Zoë  李", "😀 Zoë 李"),
        ("\u200b", "nobody"),
    ],
)
def test_any_name_can_be_sent_and_shown(name, shown):
    verdict = Verdict.of(REPORT, name)
    assert verdict.name == shown
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_without_a_name_it_is_the_login(participant, live, store, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ana-login")
    participant(f"{live.url}/#{store.report_key}", name=" ")
    said = []
    hand_over(REPORT, said.append)
    until(lambda: len(said) == 2, "the room answers")
    assert kept(store)[0].name == "ana-login"


def test_a_check_does_not_wait_for_a_room_that_never_answers(participant, path):
    go = threading.Event()
    mute = path(lambda connection: go.wait(DEADLINE))
    participant(f"{mute.url}/#key")
    said = []
    began = threading.active_count()
    hand_over(REPORT, said.append)
    try:
        assert said == ["Reporting to the room as Ana ..."], "it is back, and nobody has answered"
        until(lambda: mute.seen, "the thread has begun to send")
        assert threading.active_count() == began + 1
    finally:
        go.set()


def test_what_could_not_be_sent_is_sent_when_the_room_is_back(store, outbox, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # nobody listens there in a moment
    sender = Sender(Address(f"http://127.0.0.1:{port}", store.report_key), outbox, first_pause=0.1)
    said = []
    verdicts = [a_verdict(f"p{number}") for number in range(3)]
    for verdict in verdicts:
        outbox.put(verdict)
        sender.send(verdict.id, said.append)
    until(lambda: said, "it says that it failed")
    assert set(said) == {f"Kept, and reported later: the room at http://127.0.0.1:{port} does not answer."}
    assert len(list(outbox.waiting())) == 3
    server = start(create_app(store), name="room", port=port)
    try:
        assert until(lambda: sender.join(0.1), "everything is sent")
    finally:
        assert server.stop()
    assert kept(Store(tmp_path / "room.db")) == verdicts
    assert said[-3:] == [f"Reported to the room as p{number}." for number in range(3)]
    assert list(outbox.waiting()) == []


def test_another_kernel_sends_what_a_killed_one_left(live, store, outbox):
    left, mine = a_verdict("left"), a_verdict("mine")
    outbox.put(left)
    outbox.put(mine)
    sender = Sender(Address(live.url, store.report_key), outbox)
    sender.send(mine.id, lambda sentence: None)
    assert until(lambda: sender.join(0.1), "everything is sent")
    assert kept(store) == [left, mine]


def test_a_lost_answer_makes_no_second_verdict(live, store, outbox, path):
    """The path to the room delivers every request, and loses the answers to the first two."""
    port = int(live.url.rpartition(":")[2])

    def deliver(connection):
        with socket.create_connection(("127.0.0.1", port)) as onward:
            request = b""
            while b"}" not in request:
                request += connection.recv(1 << 16)
            onward.sendall(request)
            answer = onward.recv(1 << 16)
            if lossy.seen > 2:
                connection.sendall(answer)

    lossy = path(deliver)
    verdict = a_verdict()
    outbox.put(verdict)
    sender = Sender(Address(lossy.url, store.report_key), outbox, first_pause=0.01)
    said = []
    sender.send(verdict.id, said.append)
    assert until(lambda: sender.join(0.1), "it has arrived")
    assert lossy.seen >= 3
    assert kept(store) == [verdict]
    assert said[-1] == "Reported to the room as ana."


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is no room. Correct LABSERVER_ROOM"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n<h1>Pay</h1>", "is no room. Correct LABSERVER_ROOM"),
        (b"HTTP/1.1 302 Found\r\nLocation: /pay\r\nContent-Length: 0\r\n\r\n", "is no room. Correct LABSERVER_ROOM"),
        (b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n", "Its lab is of another version than yours."),
    ],
)
def test_what_is_no_room_is_one_sentence(outbox, path, answer, says):
    def refuse(connection):
        connection.recv(1 << 16)
        connection.sendall(answer)

    verdict = a_verdict()
    outbox.put(verdict)
    said = []
    sender = Sender(Address(path(refuse).url, "key"), outbox)
    sender.send(verdict.id, said.append)
    assert until(lambda: sender.join(0.1), "it gives up until the next check")
    assert len(said) == 1
    assert says in said[0]
    assert len(list(outbox.waiting())) == (0 if b"422" in answer else 1)


def test_a_wrong_key_is_one_sentence_and_the_right_one_sends_it_all(live, store, outbox):
    first, second = a_verdict("first"), a_verdict("second")
    outbox.put(first)
    said = []
    wrong = Sender(Address(live.url, "wrong"), outbox)
    wrong.send(first.id, said.append)
    assert until(lambda: wrong.join(0.1), "it gives up until the next check")
    assert ["does not accept the key in LABSERVER_ROOM" in sentence for sentence in said] == [True]
    outbox.put(second)
    right = Sender(Address(live.url, store.report_key), outbox)
    right.send(second.id, said.append)
    assert until(lambda: right.join(0.1), "everything is sent")
    assert kept(store) == [first, second]


@pytest.mark.parametrize(
    "text",
    ["", "room", "http://", "http://host:8765", "http://host:8765/#", "ftp://host/#k", "http://h:x/#k", "//h/#k"],
)
def test_an_address_that_is_none_is_one_sentence_and_no_traceback(participant, text):
    with pytest.raises(LabError, match="LABSERVER_ROOM is not the address of a room"):
        Address.parse(text)
    participant(text)
    said = []
    hand_over(REPORT, said.append)
    assert [sentence.partition(":")[0] for sentence in said] == ["LABSERVER_ROOM is not the address of a room"] * bool(
        text
    )


def test_an_address_may_have_a_path_a_proxy_s():
    assert Address.parse(" https://hub.example/user/x/proxy/8765/#k ") == Address(
        "https://hub.example/user/x/proxy/8765", "k"
    )


def test_a_home_that_can_t_be_written_is_one_sentence(participant, tmp_path):
    (tmp_path / "home").write_text("a file")
    participant("http://127.0.0.1:9/#k")
    said = []
    hand_over(REPORT, said.append)
    assert [sentence.partition(":")[0] for sentence in said] == ["Not reported to the room"]


def test_the_outbox_drops_what_is_damaged_too_old_or_too_much(outbox, monkeypatch):
    verdicts = [a_verdict(f"p{number}") for number in range(FILES_MAX + 2)]
    for verdict in verdicts:
        outbox.put(verdict)
    assert [verdict for _, verdict in outbox.waiting()] == verdicts[2:]
    (outbox.folder / "0-damaged.json").write_text('{"id": "')
    (outbox.folder / "half.partial").write_text('{"id": "')
    assert len(list(outbox.waiting())) == FILES_MAX
    assert not (outbox.folder / "0-damaged.json").exists()
    tomorrow = time.time() + 100_000
    monkeypatch.setattr("time.time", lambda: tomorrow)
    assert list(outbox.waiting()) == []


def test_a_check_says_below_its_table_that_it_was_reported(participant, live, store, capsys):
    participant(f"{live.url}/#{store.report_key}")
    notebook._report(REPORT)
    until(lambda: kept(store), "it has arrived")
    out = ""

    def printed():
        nonlocal out
        out += capsys.readouterr().out
        return "Reported" in out

    until(printed, "it says so")
    assert out == "Reporting to the room as Ana ...\nReported to the room as Ana.\n"
