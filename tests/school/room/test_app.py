"""The room over real sockets: what it takes, what it refuses, who may read, and a feed that resumes."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from simulated import DEADLINE, a_verdict, until

from labserver.school.catalogue import exercise_ids
from labserver.school.room.app import create_app
from labserver.school.room.feed import PAGES_MAX
from labserver.school.room.store import Store
from labserver.settings import Settings
from labserver.stage.server import start


class Served:
    """A room on a server in a thread, and a client of it."""

    def __init__(self, path, **settings):
        self.store = Store(path)
        self.app = create_app(self.store)
        self.live = start(self.app, name="room", settings=Settings(sse_keepalive=0.2, **settings))
        self.client = httpx.Client(base_url=self.live.url, trust_env=False, timeout=DEADLINE)
        self.cookie = {"Cookie": f"labserver_room_{self.store.epoch}={self.store.board_key}"}

    def report(self, verdict, key=None, **options):
        options = options or {"json": verdict.model_dump()}
        headers = {"Authorization": f"Bearer {key or self.store.report_key}", "Content-Type": "application/json"}
        return self.client.post("/verdicts", headers=headers, **options)


@pytest.fixture
def served(tmp_path):
    one = Served(tmp_path / "room.db")
    yield one
    one.client.close()
    assert one.live.stop()


def events(served, enough: Callable[[str], bool], **cursor):
    """Read the feed until there is enough; return its events as dicts of their fields, comments under `comment`."""
    text, headers = "", cursor.pop("headers", {})
    with served.client.stream("GET", "/feed", params=cursor, headers=served.cookie | headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        for chunk in answer.iter_text():
            text += chunk
            if enough(text):
                break
    blocks = [block for block in text.split("\n\n") if block]
    return [
        dict(line.partition(": ")[::2] if line[0] != ":" else ("comment", line) for line in block.split("\n"))
        for block in blocks
    ]


def numbers(found):
    return [int(event["id"].rpartition("-")[2]) for event in found if "id" in event and "event" not in event]


def test_a_verdict_is_kept_once_and_told_once(served):
    verdict = a_verdict("Ana <script>, /\\ 😀")
    assert [(served.report(verdict).status_code, served.report(verdict).json()) for _ in range(2)] == [
        (201, {"number": 1}),
        (200, {"number": 1}),
    ]
    opening, told, *rest = events(served, lambda text: ": keepalive" in text)
    assert json.loads(told["data"]) == verdict.model_dump(exclude={"id"})
    assert (opening["event"], opening["retry"]) == ("room", "3000")
    assert [each["id"] for each in json.loads(opening["data"])["exercises"]] == list(exercise_ids())
    assert rest == [{"comment": ": keepalive"}]


def test_who_comes_back_gets_what_is_missing_and_nothing_twice(served):
    for _ in range(3):
        served.report(a_verdict())
    epoch = served.store.epoch
    enough = f"id: {epoch}-3\n"
    assert numbers(events(served, lambda text: enough in text)) == [1, 2, 3]
    resumed = events(served, lambda text: enough in text, headers={"Last-Event-ID": f"{epoch}-1"}, after="other-9")
    assert (json.loads(resumed[0]["data"])["how"], resumed[0]["id"], numbers(resumed)) == (
        "resume",
        f"{epoch}-1",
        [2, 3],
    )
    caught_up = events(served, lambda text: "keepalive" in text, after=f"{epoch}-3")
    assert (json.loads(caught_up[0]["data"])["how"], numbers(caught_up)) == ("resume", [])


@pytest.mark.parametrize(
    "cursor", ["other-1", "{epoch}-4", "{epoch}-x", "{epoch}-", "{epoch}--1", "{epoch}-²", "1", "-"]
)
def test_a_cursor_that_is_not_ours_begins_anew_and_says_so(served, cursor):
    for _ in range(3):
        served.report(a_verdict())
    epoch = served.store.epoch
    found = events(served, lambda text: f"id: {epoch}-3\n" in text, after=cursor.format(epoch=epoch))
    assert (json.loads(found[0]["data"])["how"], numbers(found)) == ("gap", [1, 2, 3])


GOOD = a_verdict().model_dump()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[]", 422),
        (b"null", 422),
        (b"\xff\xfe", 422),
        (json.dumps(GOOD | {"exercise": "99_none"}).encode(), 422),
        (json.dumps(GOOD | {"exercise": "../../etc"}).encode(), 422),
        (json.dumps(GOOD | {"verdict": "great"}).encode(), 422),
        (json.dumps(GOOD | {"points": 101}).encode(), 422),
        (json.dumps(GOOD | {"points": -1}).encode(), 422),
        (json.dumps(GOOD | {"points": float("nan")}).encode(), 422),
        (json.dumps(GOOD | {"points": 10**30}).encode(), 422),
        (json.dumps(GOOD | {"name": ""}).encode(), 422),
        (json.dumps(GOOD | {"name": " "}).encode(), 422),
        (json.dumps(GOOD | {"name": "x" * 81}).encode(), 422),
        (json.dumps(GOOD | {"name": "\ud800"}).encode(), 422),
        (json.dumps(GOOD | {"id": "1"}).encode(), 422),
        (json.dumps(GOOD | {"failed": ["x"] * 51}).encode(), 422),
        (json.dumps(GOOD | {"source": "import os"}).encode(), 422),
        (json.dumps(GOOD | {"name": "x" * 20_000}).encode(), 413),
    ],
)
def test_bad_input_is_refused_kept_nowhere_and_not_logged(served, body, status):
    answer = served.report(None, content=body)
    assert answer.status_code == status, answer.text
    assert "import os" not in answer.text
    assert served.store.counts() == (0, 0)
    assert served.live.errors() == []


def test_each_key_opens_one_door(served):
    store = served.store
    assert served.report(a_verdict(), key="wrong").status_code == 401
    assert served.report(a_verdict(), key=store.board_key).status_code == 401
    assert served.client.post("/verdicts", json=GOOD).status_code == 401
    for path in ("/feed", "/key"):
        assert served.client.get(path).status_code == 401
        assert served.client.get(path, headers={"Authorization": f"Bearer {store.report_key}"}).status_code == 401
        assert (
            served.client.get(path, headers={"Cookie": f"labserver_room_{store.epoch}={store.report_key}"}).status_code
            == 401
        )
    assert served.client.post("/key", json={"key": store.report_key}).status_code == 401
    assert served.client.post("/key", json={"key": "é"}).status_code == 401
    assert served.client.post("/key", json={"key": "x" * 2000}).status_code == 413
    answer = served.client.post("/key", json={"key": store.board_key})
    assert answer.status_code == 204
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert served.client.get("/key").status_code == 204


def test_no_key_is_in_a_log(served):
    served.client.post("/key", json={"key": served.store.board_key})
    served.report(a_verdict())
    logged = "\n".join(map(str, served.live.logs()))
    assert served.store.board_key not in logged
    assert served.store.report_key not in logged


def test_the_page_runs_no_script_but_its_own(served):
    for path in ("/", "/board.js", "/board.css"):
        answer = served.client.get(path)
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "//" not in answer.text.replace("// ", "").replace("http://", ""), "nothing is loaded from elsewhere"


async def test_a_page_that_leaves_is_forgotten_and_too_many_are_told_so(served):
    feed = served.app.state.room.feed
    async with httpx.AsyncClient(
        base_url=served.live.url, headers=served.cookie, trust_env=False, timeout=DEADLINE
    ) as client:
        opened = [client.stream("GET", "/feed") for _ in range(PAGES_MAX)]
        answers = await asyncio.gather(*(page.__aenter__() for page in opened))
        assert {answer.status_code for answer in answers} == {200}
        assert (feed.pages, (await client.get("/feed")).status_code) == (PAGES_MAX, 503)
        await asyncio.gather(*(answer.aclose() for answer in answers))
        until(lambda: feed.pages == 0, "the server forgets the pages")


def test_a_page_that_never_reads_costs_nobody_else_anything(served):
    """One board reads nothing while thousands of verdicts come; another one gets them all."""
    with served.client.stream("GET", "/feed", headers=served.cookie):
        room = served.app.state.room

        async def flood():
            for number in range(1, 3001):
                room.feed.publish(number, a_verdict("x" * 80, failed=["y" * 80] * 20))

        served.live.submit(flood()).result(DEADLINE)
        assert numbers(events(served, lambda text: "-3000\n" in text)) == list(range(1, 3001))


def test_open_boards_are_told_goodbye_when_the_server_ends(tmp_path):
    one = Served(tmp_path / "other.db")
    with one.client.stream("GET", "/feed", headers=one.cookie) as answer:
        chunks = answer.iter_text()
        text = next(chunks)
        assert one.live.stop()
        text += "".join(chunks)
    assert "event: drain\ndata: the room ends\n\n" in text
    one.client.close()
