"""A client as an answer: what it yields and how it ends comes over HTTP, and who hangs up stops it at once."""

import asyncio
import functools
import json

import httpx
import pytest

from labserver.school import begin, check, notebook
from labserver.school.asgi import answer_problem, client_problem
from labserver.school.catalogue import exercise, exercise_ids
from labserver.school.client_host import client_app
from labserver.school.run import AnswerDied, serving
from labserver.stage import start

ID = "15_reconnecting_client"
URL = "http://127.0.0.1:1/feed"


def lines(follow, body=None):
    """Have it follow a URL, and return what is told."""
    with start(client_app(follow), name="host") as live:
        response = httpx.post(live.url, json=body or {"url": URL}, timeout=10)
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_what_is_yielded_is_told_and_then_the_end():
    async def follow(client, url):
        yield ("message", "21", "7")
        yield ("price", url, "")

    assert lines(follow) == [
        {"event": ["message", "21", "7"]},
        {"event": ["price", URL, ""]},
        {"end": "done", "raised": [], "text": ""},
    ]


@pytest.mark.parametrize("odd", ["text", b"bytes", {"data": 1}, ("two", "words"), ("name", "data", 7), None])
def test_what_is_no_event_is_told_as_what_it_is(odd):
    async def follow(client, url):
        yield odd

    assert lines(follow)[0] == {"odd": repr(odd)}


def test_what_it_raises_is_told_by_the_names_of_its_class_and_those_above():
    class FeedFailed(Exception):
        pass

    class Refused(FeedFailed):
        pass

    async def follow(client, url):
        yield ("message", "1", "1")
        raise Refused("no " + "x" * 1000)

    *_, last = lines(follow)
    assert last["end"] == "raised"
    assert last["raised"][:3] == ["Refused", "FeedFailed", "Exception"]
    assert last["text"].startswith("no x")
    assert len(last["text"]) == 80


def test_a_client_that_is_refused_says_so():
    async def follow(client, url):
        async with client.stream("GET", url) as response:
            yield ("message", str(response.status_code), "")

    (last,) = lines(follow)
    assert last["raised"][0] == "ConnectError"


async def test_who_hangs_up_stops_it_at_once_wherever_it_stands():
    closed = []

    async def follow(client, url):
        try:
            yield ("message", url, "")
            if url.endswith("waits"):
                await asyncio.Event().wait()
            while True:
                yield ("message", "more", "")
        finally:
            await asyncio.sleep(0)  # clean-up may await
            closed.append(url)

    with start(client_app(follow), name="host") as live:
        async with httpx.AsyncClient(timeout=10) as web:
            for url in ("waits", "yields"):
                async with web.stream("POST", live.url, json={"url": url}) as response:
                    await anext(response.aiter_lines())
                async with asyncio.timeout(10):
                    while url not in closed:
                        await asyncio.sleep(0.01)


def test_all_runs_share_a_client_that_is_closed_with_the_server():
    seen = []

    async def follow(client, url):
        seen.append(client)
        yield ("message", str(client.is_closed), "")

    with start(client_app(follow), name="host") as live:
        for _ in range(2):
            assert "False" in httpx.post(live.url, json={"url": URL}, timeout=10).text
    assert seen[0] is seen[1]
    assert seen[0].is_closed


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"url": 7}', b"\xff"])
def test_a_request_without_a_url_is_refused(body):
    async def follow(client, url):
        yield ("message", "", "")

    with start(client_app(follow), name="host") as live:
        assert httpx.post(live.url, content=body, timeout=10).status_code in (400, 422)


async def coroutine_function(client, url):
    pass


async def generator(client, url, *, patience=1.0):
    yield patience


async def one_argument(url):
    yield url


async def three_arguments(client, url, last_id):
    yield url


class Follower:
    async def __call__(self, client, url):
        yield url


def called(function, *arguments):
    """What somebody passes who calls the function first; a coroutine is closed, so that nobody warns of it."""
    made = function(*arguments)
    if asyncio.iscoroutine(made):
        made.close()
    return made


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "`follow` is None: run your answer cell"),
        (..., "`follow` is still `...`"),
        (called(coroutine_function, None, ""), "`follow` was called already: pass the function itself"),
        (called(generator, None, ""), "`follow` was called already: pass the function itself"),
        (coroutine_function, "`follow` never yields: it has to be an async generator function"),
        (lambda client, url: [], "`follow` is a function without `async`: it has to be an async generator function"),
        (one_argument, "`follow(url)` can't be called as `follow(client, url)`: take these two arguments."),
        (three_arguments, "`follow(client, url, last_id)` can't be called as `follow(client, url)`"),
        (3, "`follow` is an int: it has to be"),
        (Follower, "`follow` is a type: it has to be"),
        (asyncio, "`follow` is a module: it has to be"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_client_is_one_sentence(value, says):
    problem = client_problem(value)
    assert problem.startswith(says)
    assert "\n" not in problem


@pytest.mark.parametrize("value", [generator, functools.partial(three_arguments, last_id="7")])
def test_what_is_a_client(value):
    assert client_problem(value) == ""


def test_the_name_says_whether_an_answer_is_an_app_or_a_client():
    assert answer_problem(generator, "follow") == ""
    assert "has to be an app" in answer_problem(generator, "app")
    assert [id for id in exercise_ids() if exercise(id).client] == [ID]


def test_each_exercise_has_its_lesson():
    assert [id for id in exercise_ids() if not exercise(id).lesson.exists()] == []
    assert exercise(ID).lesson.name == "06_sse_resume.ipynb"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("async def follow(client, url):\n    pass", "`follow` never yields"),
        ("follow = ...", "`follow` is still `...`"),
        ("def app(): pass", "does not define `follow`"),
    ],
)
def test_an_answer_that_is_no_client_dies_with_the_sentence(source, says):
    with pytest.raises(AnswerDied, match=says), serving(source, "follow"):
        pass


def test_in_a_kernel_it_is_a_sentence_too(capsys, monkeypatch):
    monkeypatch.setattr(notebook, "_session", None)
    begin(ID)
    capsys.readouterr()
    check(coroutine_function)
    assert capsys.readouterr().out.startswith(
        "Exercise 15 · A client that comes back: not checked\n`follow` never yields: it has to be"
    )
    assert notebook.last_report() is None
