"""Jobs over real sockets: they run whether or not anybody watches, are told from the beginning, and end in-band."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service.watching import KINDS, client, names, serve, take, until, viewing, visitor, whole

from labserver.stage import LiveServer


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with serve(request.param, name="jobs", work_step=0.002) as live:
        yield live
        assert live.errors() == []


async def order(web: httpx.AsyncClient, steps: int = 3, key: str | None = None) -> str:
    headers = {"Idempotency-Key": key} if key else {}
    answer = await web.post("/jobs", json={"steps": steps}, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (202, answer.json()["events"])
    assert answer.json()["events"] == f"/jobs/{answer.json()['id']}/events"
    return str(answer.json()["events"])


def running(live: LiveServer) -> int:
    return len(live.app.state.jobs)


async def test_a_job_is_told_step_by_step_and_its_stream_ends_by_itself(live: LiveServer) -> None:
    async with client(live) as web:
        heard = await whole(web, await order(web))
    opening, *told, last = heard
    assert opening.event == "resume"
    assert [(one.event, one.data) for one in told] == [("progress", {"step": n, "of": 3}) for n in range(4)]
    assert (last.event, last.data) == ("done", {"steps": 3})


async def test_who_comes_late_gets_the_same_and_who_has_all_is_sent_away_for_good(live: LiveServer) -> None:
    async with client(live) as web:
        path = await order(web)
        await until(lambda: not running(live))
        first, second = await whole(web, path), await whole(web, path)
        assert first == second
        assert names(first) == ["resume", "progress", "done"]
        for cursor in ({"headers": {"Last-Event-ID": first[-1].id}}, {"params": {"after": first[-1].id}}):
            assert (await web.get(path, **cursor)).status_code == 204  # type: ignore[arg-type]


async def test_who_leaves_and_comes_back_misses_nothing_and_the_work_is_done_once(live: LiveServer) -> None:
    async with client(live) as web:
        path = await order(web, 60)
        async with viewing(web, path) as other:
            async with viewing(web, path) as events:
                before = await take(events, 5)
            _, *after = await whole(web, path, before[-1].id)
            seen = [one async for one in other]
    assert before + after == seen
    assert [one.data["step"] for one in seen if one.event == "progress"] == list(range(61))


async def test_a_job_runs_though_nobody_watches(live: LiveServer) -> None:
    async with client(live) as web:
        path = await order(web, 20)
        await until(lambda: not running(live))
        assert (await whole(web, path))[-1].data == {"steps": 20}


async def test_the_same_key_is_the_same_job_for_the_same_owner(live: LiveServer) -> None:
    async with client(live) as ana, client(live, "ben") as ben:
        begun = {await order(ana, 3, "once") for _ in range(3)}
        others = {await order(ben, 3, "once"), await order(ana, 3, "twice"), await order(ana), await order(ana)}
        assert (len(begun), len(begun | others)) == (1, 5)
        progress = [one.data["step"] for one in await whole(ana, begun.pop()) if one.event == "progress"]
        assert progress == [0, 1, 2, 3]


async def test_a_key_that_comes_many_times_at_once_begins_one(live: LiveServer) -> None:
    async with client(live) as web:
        paths = await asyncio.gather(*(order(web, 5, "a race") for _ in range(8)))
        assert len(set(paths)) == 1
        assert names(await whole(web, paths[0])) == ["resume", "progress", "done"]


async def test_nobody_else_finds_it(live: LiveServer) -> None:
    async with client(live) as ana, client(live, "ben") as ben:
        path = await order(ana, 100)
        assert (await ben.get(path)).status_code == 404
        assert (await ana.get("/jobs/there-is-none/events")).status_code == 404
        assert (await ana.get(path.replace("/events", ""))).status_code == 404
    async with visitor(live) as nobody:
        for url in (path, "/jobs/there-is-none/events"):
            assert (await nobody.get(url)).status_code == 401
        assert (await nobody.post("/jobs", json={"steps": 1})).status_code == 401


@pytest.mark.parametrize("body", [{}, {"steps": 0}, {"steps": 501}, {"steps": "many"}, [1], "x"])
async def test_an_order_that_makes_no_sense_is_refused(live: LiveServer, body: Any) -> None:
    async with client(live) as web:
        assert (await web.post("/jobs", json=body)).status_code == 422
        assert (await web.post("/jobs", json={"steps": 1}, headers={"Idempotency-Key": "x" * 200})).status_code == 422
        assert (await web.post("/jobs", json={"steps": 1, "x": "y" * 2000})).status_code == 413
        assert (await web.get("/jobs/x/events", params={"after": "nonsense"})).status_code == 422


async def test_only_so_many_run_and_a_known_key_is_answered_all_the_same() -> None:
    with serve(name="few", jobs_max=2, work_step=60) as live:
        async with client(live) as web:
            first = await order(web, 1, "first")
            await order(web, 1)
            full = await web.post("/jobs", json={"steps": 1})
            assert (full.status_code, full.headers["retry-after"]) == (503, "10")
            assert "2" in full.json()["detail"]
            assert await order(web, 1, "first") == first
            assert running(live) == 2
        assert live.errors() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drain_lets_viewers_go_and_they_resume_while_the_job_goes_on(kind: str) -> None:
    with serve(kind, name="drained", work_step=0.01, drain_seconds=0.0, sse_retry=0.01) as live:
        async with client(live) as web:
            path = await order(web, 50)
            async with viewing(web, path) as events:
                seen = await take(events, 3)
                draining = live.submit(live.app.state.channels.drain.run())
                seen += [one async for one in events]
                draining.result(10)
            assert seen[-1].event == "drain"
            live.app.state.channels.drain.begun = False
            _, *rest = await whole(web, path, seen[-2].id)
        steps = [one.data["step"] for one in seen + rest if one.event == "progress"]
        assert steps == list(range(51))


async def test_the_end_of_the_server_is_told_and_nothing_is_left() -> None:
    with serve(name="ends", work_step=60) as live:
        channels = live.app.state.channels
        async with client(live) as web:
            await order(web, 1)
        (name,) = [name for name in channels.engine._logs if name.startswith("jobs/")]
        assert live.stop()
    page = await channels.engine.history(name, None, None, 10)
    assert [(one.event, one.data) for one in page.messages][1:] == [("error", '{"reason":"the server stopped"}')]
    assert running(live) == 0


async def test_a_step_that_fails_is_told_without_its_secrets_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*of: Any) -> None:
        raise ConnectionError("the disk is full of secrets")

    monkeypatch.setattr("labserver.service.jobs.step", fail)
    with serve(name="fails") as live:
        async with client(live) as web:
            last = (await whole(web, await order(web)))[-1]
        assert (last.event, list(last.data)) == ("error", ["reason"])
        assert "secrets" not in last.data["reason"]
        assert live.errors() == ["ConnectionError: the disk is full of secrets"]


async def test_viewers_who_leave_leave_nothing_behind(live: LiveServer) -> None:
    channels = live.app.state.channels
    await until(lambda: not running(live) and not channels.open)
    gc.disable()
    try:
        async with client(live) as web:
            path = await order(web, 300)
            for _ in range(3):
                async with viewing(web, path) as one, viewing(web, path) as two:
                    await take(one, 2)
                    await take(two, 2)
                    assert running(live) == 1
            await until(lambda: not channels.open)
            assert channels.hub.channels() == []
            assert channels.engine._members == {}
            assert running(live) == 1
    finally:
        gc.enable()
    await until(lambda: not running(live))
