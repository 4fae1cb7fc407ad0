"""Chats over real sockets, by the real SDK, from an LLM of the stage: told from the start, to several, paid once."""

import asyncio
import gc
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service.watching import KINDS, client, names, serve, take, text, until, viewing, visitor, whole

from labserver.service import chat
from labserver.service.llm import Answer
from labserver.service.runs import Failed
from labserver.stage import LiveServer, Llm, fake_llm


@pytest.fixture(scope="module")
def llm() -> Iterator[Llm]:
    with fake_llm(name="chat-tests") as llm:
        yield llm


@pytest.fixture(autouse=True)
def _usual(llm: Llm) -> None:
    llm.set(tokens=8, delay=0.002, first=0.0)


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest, llm: Llm) -> Iterator[LiveServer]:
    with serve(request.param, name="chats", llm_url=llm.url) as live:
        yield live
        assert live.errors() == []


async def ask(web: httpx.AsyncClient, prompt: str = "rivers") -> str:
    answer = await web.post("/chat", json={"prompt": prompt})
    assert answer.status_code == 201, answer.text
    assert answer.json()["events"] == f"/chat/{answer.json()['id']}/events"
    return str(answer.json()["events"])


def running(live: LiveServer) -> int:
    return len(live.app.state.chats.runs)


# ---- an answer


async def test_an_answer_is_told_token_by_token_and_ends_by_itself(live: LiveServer, llm: Llm) -> None:
    async with client(live) as web:
        opening, first, *tokens, last = await whole(web, await ask(web))
    asked = llm.requests[-1]
    assert (opening.event, first.event, first.data) == ("resume", "snapshot", {"text": ""})
    assert {one.event for one in tokens} == {"token"}
    assert len(tokens) == asked.sent == 8
    usage = {"input_tokens": asked.input_tokens, "output_tokens": asked.output_tokens}
    assert (last.event, last.data) == ("done", {"stop_reason": "end_turn", "usage": usage})


async def test_tokens_come_while_the_llm_still_talks(live: LiveServer, llm: Llm) -> None:
    llm.set(tokens=40, delay=0.05)
    async with client(live) as web, viewing(web, await ask(web, "slowly")) as events:
        assert names(await take(events, 3)) == ["resume", "snapshot", "token"]
        assert llm.requests[-1].state == "running"
        assert names([one async for one in events])[-1] == "done"


async def test_several_see_it_from_the_beginning_and_it_is_asked_once(live: LiveServer, llm: Llm) -> None:
    llm.set(tokens=60, delay=0.01)
    before = len(llm.requests)
    async with client(live) as web:
        path = await ask(web, "several")
        async with viewing(web, path) as one:
            heard = await take(one, 20)
            second, third = await asyncio.gather(whole(web, path), whole(web, path))
            heard += [event async for event in one]
        late = await whole(web, path)
        assert heard == second == third == late
        assert (await web.get(path, params={"after": late[-1].id})).status_code == 204
        assert (await web.get(path, headers={"Last-Event-ID": late[-1].id})).status_code == 204
    assert len(llm.requests) == before + 1


async def test_who_comes_back_goes_on_where_it_was(live: LiveServer, llm: Llm) -> None:
    llm.set(tokens=60, delay=0.01)
    async with client(live) as web:
        path = await ask(web, "come back")
        async with viewing(web, path) as events:
            heard = await take(events, 10)
        _, *rest = await whole(web, path, heard[-1].id)
        assert heard + rest == await whole(web, path)
        assert len({one.id for one in heard[1:] + rest}) == 62
    assert llm.requests[-1].state == "done"


async def test_an_answer_longer_than_a_history_is_resumable_from_its_start(llm: Llm) -> None:
    llm.set(tokens=120, delay=0.005)
    with serve(name="long", llm_url=llm.url, history_messages=20) as live:
        async with client(live) as web:
            path = await ask(web, "a long one")
            async with viewing(web, path) as events:
                seen = await take(events, 2)
                cursor = seen[-1].id
                seen += await take(events, 60)
                during = await whole(web, path)
                seen += [one async for one in events]
            late, stale = await whole(web, path), await whole(web, path, cursor)
        said = text([one for one in seen if one.event == "token"])
        assert len([one for one in seen if one.event == "token"]) == 120
        assert {text(heard) for heard in (seen, during, late, stale)} == {said}
        assert names(during)[:2] == names(late)[:2] == ["resume", "snapshot"]
        assert stale[0].event == "gap"
        assert len(late) < 20


# ---- who leaves


@pytest.mark.parametrize("kind", KINDS)
async def test_the_llm_is_left_when_the_last_viewer_is_gone_for_a_while(kind: str, llm: Llm) -> None:
    llm.set(tokens=10_000, delay=0.01)
    gc.disable()
    try:
        with serve(kind, name="left", llm_url=llm.url, llm_max_tokens=10_000, chat_grace=0.5) as live:
            async with client(live) as web:
                path = await ask(web, f"long, {kind}")
                async with viewing(web, path) as one:
                    async with viewing(web, path) as two:
                        await take(two, 5)
                    await asyncio.sleep(1.0)  # twice the grace, and one viewer is still there
                    assert llm.requests[-1].state == "running"
                    await take(one, 5)
                await until(lambda: llm.requests[-1].state == "cancelled")
                await until(lambda: not running(live))
                last = (await whole(web, path))[-1]
            assert (last.event, last.data) == ("error", {"reason": "nobody was there"})
            assert live.errors() == []
    finally:
        gc.enable()


async def test_who_comes_back_within_the_grace_keeps_it(llm: Llm) -> None:
    llm.set(tokens=100, delay=0.02)
    with serve(name="grace", llm_url=llm.url, chat_grace=30) as live:
        async with client(live) as web:
            path = await ask(web, "back soon")
            async with viewing(web, path) as events:
                seen = await take(events, 5)
            assert (await whole(web, path, seen[-1].id))[-1].event == "done"


async def test_the_llm_is_left_when_nobody_ever_comes(llm: Llm) -> None:
    llm.set(first=30)
    with serve(name="nobody", llm_url=llm.url, chat_grace=0.3) as live:
        async with client(live) as web:
            path = await ask(web, "nobody")
            await until(lambda: llm.requests[-1].state == "cancelled" and not running(live))
            assert (await whole(web, path))[-1].data == {"reason": "nobody was there"}


async def test_the_end_of_the_server_ends_the_upstream_and_says_so(llm: Llm) -> None:
    llm.set(first=30)
    with serve(name="ends", llm_url=llm.url) as live:
        engine = live.app.state.channels.engine
        async with client(live) as web:
            before = len(llm.requests)
            await ask(web, "the server ends")
            await until(lambda: len(llm.requests) > before)
        (name,) = [name for name in engine._logs if name.startswith("chat/")]
        assert live.stop()
    await llm.settled()
    assert llm.requests[-1].state == "cancelled"
    page = await engine.history(name, None, None, 10)
    assert [(one.event, one.data) for one in page.messages][1:] == [("error", '{"reason":"the server stopped"}')]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drain_lets_viewers_go_and_they_resume(kind: str, llm: Llm) -> None:
    llm.set(tokens=80, delay=0.02)
    with serve(kind, name="drained", llm_url=llm.url, drain_seconds=0.0, sse_retry=0.01) as live:
        drain = live.app.state.channels.drain
        async with client(live) as web:
            path = await ask(web, "drain")
            async with viewing(web, path) as events:
                seen = await take(events, 5)
                live.submit(drain.run())
                seen += [one async for one in events]
            assert seen[-1].event == "drain"
            drain.begun = False
            _, *rest = await whole(web, path, seen[-2].id)
            assert seen[:-1] + rest == await whole(web, path)
            assert rest[-1].event == "done"


async def test_viewers_leave_nothing_behind(live: LiveServer, llm: Llm) -> None:
    channels = live.app.state.channels
    async with client(live) as web:
        await whole(web, await ask(web))
    await until(lambda: not channels.open and not running(live))
    assert channels.hub.channels() == []
    assert channels.engine._members == {}
    assert not live.submit(_tasks("look")).result(10)


async def _tasks(name: str) -> list[str]:
    return [str(task) for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == name]


# ---- what goes wrong is told in-band


@pytest.mark.parametrize(
    ("fault", "reason", "tokens"),
    [
        ("overloaded", "the LLM is busy: ask again later", 0),
        ("rate_limited", "the LLM is busy: ask again later", 0),
        ("bad_request", "the LLM does not take this prompt", 0),
        ("error:0", "the LLM is busy: ask again later", 0),
        ("error:3", "the LLM is busy: ask again later", 3),
        ("truncated:0", "the answer is truncated", 0),
        ("truncated:3", "the answer is truncated", 3),
        ("cut:3", "the answer broke off", 3),
    ],
)
async def test_what_fails_is_the_last_event(live: LiveServer, fault: str, reason: str, tokens: int) -> None:
    async with client(live) as web:
        path = await ask(web, f"PRIVATE #{fault}")
        heard = await whole(web, path)
        assert (heard[-1].event, heard[-1].data) == ("error", {"reason": reason})
        assert len([one for one in heard if one.event == "token"]) == tokens
        assert (await web.get(path, params={"after": heard[-1].id})).status_code == 204


async def test_silence_is_not_waited_for_in_vain(llm: Llm) -> None:
    with serve(name="patience", llm_url=llm.url, llm_timeout=0.3) as live:
        async with client(live) as web:
            heard = await whole(web, await ask(web, "hello #silent:2"))
        assert names(heard) == ["resume", "snapshot", "token", "error"]
        assert heard[-1].data == {"reason": "the LLM does not answer in time"}


async def test_an_llm_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with serve(name="away", llm_url=url) as live:
        async with client(live) as web:
            heard = await whole(web, await ask(web))
        assert (heard[-1].event, heard[-1].data) == ("error", {"reason": "the LLM can't be asked"})
        assert live.errors() == []


async def test_without_an_address_it_says_what_to_set() -> None:
    with serve(name="unset") as live:
        async with client(live) as web:
            answer = await web.post("/chat", json={"prompt": "x"})
        assert (answer.status_code, "LABSERVER_LLM_URL" in answer.text) == (503, True)


# ---- who may, and how many


async def test_nobody_else_finds_it(live: LiveServer) -> None:
    async with client(live) as ana, client(live, "ben") as ben, visitor(live) as nobody:
        path = await ask(ana)
        for web, url, status in ((ben, path, 404), (ana, "/chat/x/events", 404), (nobody, path, 401)):
            assert (await web.get(url)).status_code == status
        assert (await nobody.post("/chat", json={"prompt": "x"})).status_code == 401
        name = next(name for name in live.app.state.channels.engine._logs if name.startswith("chat/"))
        for way in (name, name.replace("/", "%2F")):
            assert (await ana.get(f"/channels/{way}/history")).status_code in (404, 422)
        assert (await whole(ana, path))[-1].event == "done"


async def test_a_token_of_its_own_end_ends_its_stream(live: LiveServer, llm: Llm) -> None:
    llm.set(first=5)
    auth = live.app.state.auth
    async with client(live) as web:
        path = await ask(web, "until the token ends")
        web.headers["Authorization"] = f"Bearer {auth.mint('ana', 1.0)}"
        heard = await whole(web, path)
    assert (heard[-1].event, heard[-1].data["code"]) == ("error", 4401)


async def test_only_so_many_answers_are_under_way(llm: Llm) -> None:
    llm.set(first=30)
    with serve(name="few", llm_url=llm.url, chats_max=2) as live:
        async with client(live) as web:
            await ask(web, "one")
            await ask(web, "two")
            full = await web.post("/chat", json={"prompt": "three"})
        assert (full.status_code, full.headers["retry-after"]) == (503, "10")
        assert running(live) == 2


@pytest.mark.parametrize("prompt", ["", "  \n ", None, 5, ["x"], {"a": "b"}, "x" * (chat.PROMPT_MAX + 1)])
async def test_a_prompt_is_a_text_with_something_in_it_and_not_too_long(live: LiveServer, prompt: Any) -> None:
    async with client(live) as web:
        assert (await web.post("/chat", json={"prompt": prompt})).status_code == 422


async def test_a_body_that_makes_no_sense_is_refused(live: LiveServer, llm: Llm) -> None:
    before = len(llm.requests)
    async with client(live) as web:
        for body in (b"", b"{}", b"[]", b"no JSON", b"\xff\xfe", b'{"prompt": "\xff"}', rb'{"prompt": "a\ud83d"}'):
            answer = await web.post("/chat", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422), body
        assert (await web.post("/chat", json={"prompt": "x" * 2 * chat.BODY_MAX})).status_code == 413
        assert (await web.get("/chat/x/events", params={"after": "nonsense"})).status_code == 422
    assert len(llm.requests) == before


# ---- reading, without any I/O


def frame(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


WIRE = b"".join(
    [
        frame("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}}),
        frame("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        b": a comment\n\n",
        frame("ping"),
        *(
            frame("content_block_delta", index=0, delta={"type": "text_delta", "text": each})
            for each in ("a\n\nb", "🌊")
        ),
        frame("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{"}),
        frame("content_block_stop", index=0),
        frame("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        frame("message_stop"),
    ]
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_answer_is_understood_wherever_it_is_cut(size: int, end: bytes) -> None:
    answer, wire = Answer(), WIRE.replace(b"\n", end)
    texts = [text for at in range(0, len(wire), size) for text in answer.feed(wire[at : at + size])]
    assert texts == ["a\n\nb", "🌊"]
    assert answer.end() == {"stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}


def test_what_came_before_an_error_comes_before_it() -> None:
    error = frame("error", error={"type": "overloaded_error", "message": "PRIVATE"})
    texts = Answer().feed(WIRE[: WIRE.index(b"event: content_block_stop")] + error)
    assert [next(texts), next(texts)] == ["a\n\nb", "🌊"]
    with pytest.raises(Failed, match="busy"):
        next(texts)


def test_an_answer_without_its_end_is_truncated_and_one_without_a_blank_line_is_bounded() -> None:
    answer = Answer()
    list(answer.feed(WIRE[: WIRE.index(b"event: message_delta")]))
    with pytest.raises(Failed, match="truncated"):
        answer.end()
    assert not list(answer.feed(b"x" * 1_000_000))
    with pytest.raises(ValueError, match="event of more than"):
        list(answer.feed(b"x" * 100_000))
