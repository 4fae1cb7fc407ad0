"""The hostile server does what its script says, seen by a real client, and keeps every request with its moments."""

import asyncio
import socket
import time
from itertools import pairwise

import httpx
import pytest

from labserver.school import hostile as module
from labserver.school.hostile import Hostile, Reply, in_turn

ENDINGS = [
    (200, "cut", httpx.RemoteProtocolError),
    (200, "reset", httpx.NetworkError),
    (200, "silent", httpx.ReadTimeout),
    (0, "reset", httpx.NetworkError),
    (0, "silent", httpx.ReadTimeout),
]


@pytest.fixture
def hostile():
    with Hostile() as server:
        yield server


@pytest.fixture
async def web():
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=10) as client:
        yield client


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def pieces(web, url, count=None, **options):
    """Read a stream to its end or for so many pieces."""
    found = []
    async with web.stream("GET", url, **options) as response:
        async for piece in response.aiter_raw():
            found.append(piece)
            if len(found) == count:
                break
    return found


async def test_each_piece_comes_as_a_piece(hostile, web):
    sent = tuple(bytes([byte]) for byte in "é\r\n".encode())
    hostile.script("/feed", in_turn(Reply(sent, "whole")))
    assert await pieces(web, f"{hostile.url}/feed") == list(sent)


@pytest.mark.parametrize(("status", "ending", "error"), ENDINGS)
async def test_an_ending_is_what_a_client_sees(hostile, web, status, ending, error):
    hostile.script("/feed", in_turn(Reply((), ending, status)))
    with pytest.raises(error):
        await pieces(web, f"{hostile.url}/feed", timeout=httpx.Timeout(10, read=0.3))


async def test_a_held_stream_says_that_it_lives(hostile, web):
    hostile.script("/feed", in_turn(Reply((b"data: 1\n\n",))))
    assert await pieces(web, f"{hostile.url}/feed", count=3) == [b"data: 1\n\n", b":\n\n", b":\n\n"]


@pytest.mark.parametrize("status", [204, 401, 503])
async def test_a_refusal_is_a_whole_answer_with_its_headers(hostile, web, status):
    hostile.script("/feed", in_turn(Reply(status=status, headers=(("Retry-After", "1"),))))
    response = await web.get(f"{hostile.url}/feed")
    assert (response.status_code, response.headers["Retry-After"]) == (status, "1")
    assert bool(response.content) == (status != 204)


async def test_replies_come_in_turn_and_the_last_one_again(hostile, web):
    hostile.script("/feed", in_turn(Reply(status=503), Reply(status=401)))
    said = [(await web.get(f"{hostile.url}/feed")).status_code for _ in range(3)]
    assert said == [503, 401, 401]
    assert (await web.get(f"{hostile.url}/another")).status_code == 404


async def test_visits_are_kept_with_headers_and_moments(hostile, web):
    hostile.script("/feed", in_turn(Reply((b"data: 1\n\n",), "whole"), Reply((b"data: 2\n\n",))))
    began = time.monotonic()
    await pieces(web, f"{hostile.url}/feed?a=1")
    await pieces(web, f"{hostile.url}/feed", count=1, headers={"Last-Event-ID": "7"})
    await until(lambda: hostile.visits("/feed")[-1].left is not None)
    first, second = hostile.visits("/feed")
    assert [first.number, second.number] == [1, 2]
    assert [first.last_event_id, second.last_event_id] == [None, "7"]
    assert first.headers["host"] == hostile.url.removeprefix("http://")
    moments = [began, first.came, first.over, second.came, second.left, time.monotonic()]
    assert all(earlier <= later for earlier, later in pairwise(moments))
    assert second.over is None, "a stream that the client left was not ended by the server"


async def test_a_held_stream_is_over_only_when_the_client_leaves(hostile, web):
    hostile.script("/feed", in_turn(Reply((b"data: 1\n\n",))))
    async with web.stream("GET", f"{hostile.url}/feed") as response:
        await anext(response.aiter_raw())
        (visit,) = hostile.visits("/feed")
        assert (visit.over, visit.left) == (None, None)
    await until(lambda: visit.left is not None)


@pytest.mark.parametrize("sent", [b"", b"nonsense\r\n\r\n", b"GET /feed HTTP/1.1\r\n", b"\x16\x03\x01" * 100])
def test_who_says_no_request_is_let_go(hostile, sent):
    hostile.script("/feed", in_turn(Reply()))
    with socket.create_connection(("127.0.0.1", hostile.port), timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        while client.recv(1000):
            pass
    assert hostile.visits("/feed") == []


async def test_a_client_that_asks_without_a_pause_is_answered_no_more(hostile, web, monkeypatch):
    monkeypatch.setattr(module, "MOST_VISITS", 3)
    hostile.script("/feed", in_turn(Reply(status=503)))
    for _ in range(3):
        assert (await web.get(f"{hostile.url}/feed")).status_code == 503
    with pytest.raises(httpx.ReadTimeout):
        await web.get(f"{hostile.url}/feed", timeout=httpx.Timeout(10, read=0.2))


async def test_at_its_end_nothing_is_held_and_nobody_listens(web):
    with Hostile() as hostile:
        hostile.script("/feed", in_turn(Reply((b"data: 1\n\n",))))
        request = web.build_request("GET", f"{hostile.url}/feed")
        response = await web.send(request, stream=True)
    with pytest.raises(httpx.RemoteProtocolError):
        await response.aread()
    await response.aclose()
    with pytest.raises(OSError, match=r"refused|actively"):
        socket.create_connection(("127.0.0.1", hostile.port), timeout=10)
    assert hostile._tasks == set()
