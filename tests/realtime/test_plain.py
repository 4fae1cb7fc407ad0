"""Plain connections, as under any ASGI server: a bounded outbox and one task, which ends; without the collector."""

import asyncio
from typing import Any

import pytest
from realtime.wire import SMALL, WIRES, Lab, Newer, Raw, on, publish, raw, served, until, wrapped

from labserver.realtime.limits import Limits
from labserver.stage import LiveServer

pytestmark = pytest.mark.usefixtures("no_collector")
PIECE = "x" * 1000


def many(first: int, last: int) -> list[dict[str, Any]]:
    return [{"n": n, "pad": PIECE} for n in range(first, last)]


async def tasks(live: LiveServer) -> set[str]:
    """Return the names of what the server's tasks run, but for what asks."""

    async def names() -> set[str]:
        mine = asyncio.current_task()
        return {each.get_coro().__qualname__ for each in asyncio.all_tasks() if each is not mine}  # type: ignore[union-attr]

    return await on(live, names())


async def stall(live: LiveServer, lab: Lab, client: Raw, count: int = 0) -> int:
    """Publish until the writer of a reader waits for it; return how many messages that took."""
    await client.opened()
    (connection,) = lab.channels.open
    full = 1 << 16
    while connection.outbox is None or connection.outbox.size < full:
        await publish(live, lab, *many(count, count + 20))
        count += 20
        await asyncio.sleep(0)
    return count


@pytest.mark.parametrize("wire", WIRES)
async def test_the_task_of_a_stalled_reader_ends_by_the_bytes_that_wait_and_the_others_are_served(wire: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 17, write_deadline=60))
    with served(lab, "plain", socket_options=SMALL) as live:
        before = await tasks(live)
        async with raw(live, f"/{wire}/c", small=True) as deaf:
            count = await stall(live, lab, deaf)
            async with raw(live, f"/{wire}/c") as other:
                await other.opened()
                while lab.left == 0:
                    await publish(live, lab, *many(count, count + 20))
                    count += 20
                    assert lab.metric("outbox_bytes") <= 2 * ((1 << 17) + (1 << 16))
                await other.read_until(lambda raw: raw.numbers()[-1:] == [count - 1])
                numbers = other.numbers()
                assert numbers == list(range(numbers[0], count))
                assert lab.metric("cut") == 1
        await until(lab.empty)
        async with asyncio.timeout(10):
            while await tasks(live) != before:
                await asyncio.sleep(0.01)
    assert live.errors() == []


@pytest.mark.parametrize("wire", WIRES)
async def test_the_task_of_a_stalled_reader_ends_by_the_deadline_as_soon_as_there_is_something_to_say(
    wire: str,
) -> None:
    """No timer for each write: the next delivery looks, and a heartbeat is one."""
    lab = Lab(Limits(write_deadline=0.3, ws_heartbeat=0.1, sse_keepalive=0.1))
    with served(lab, "plain", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c", small=True) as deaf:
            await stall(live, lab, deaf)
            await until(lab.empty)
            assert lab.metric("cut") == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_who_is_sent_away_while_stalled_is_not_waited_for(wire: str) -> None:
    """Nothing is delivered to it any more, so that no delivery finds it late."""
    lab = Lab(Limits(write_deadline=600, goodbye_timeout=0.2))
    with served(lab, "plain", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c", small=True) as deaf:
            await stall(live, lab, deaf)
            (connection,) = lab.channels.open

            async def close() -> None:
                connection.close((1012, "retry=1", 1.0))

            await on(live, close())
            await until(lab.empty)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_goodbye_follows_what_was_delivered_before(wire: str) -> None:
    lab = Lab()
    with served(lab, "plain") as live:
        async with raw(live, f"/{wire}/c") as client:
            await client.opened()
            (connection,) = lab.channels.open

            async def close() -> None:
                for value in many(0, 50):
                    await lab.channels.publish("c", value)
                connection.close((1012, "retry=1500", 1.5))
                await lab.channels.publish("c", {"n": 99})

            await on(live, close())
            if wire == "ws":
                await client.read_until(lambda raw: raw.frames[-1].opcode == 8)
                assert client.frames[-1].data == b"\x03\xf4retry=1500"
            else:
                await client.read_until(lambda raw: raw.data.endswith(b"0\r\n\r\n"))
                assert client.said()[-1] == {"type": "drain", "retry": 1500}
            assert client.numbers() == list(range(50))
        await until(lab.empty)


@pytest.mark.parametrize("wire", WIRES)
async def test_dropping_the_oldest_leaves_a_gap_and_then_the_newest_in_order(wire: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 17, write_deadline=60))
    with served(lab, "plain", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c?slow=drop_oldest", small=True) as slow:
            count = await stall(live, lab, slow)
            for first in range(count, count + 600, 20):
                await publish(live, lab, *many(first, first + 20))
            await slow.read_until(lambda raw: raw.numbers()[-1:] == [count + 599])
            said = slow.said()
            (gap,) = [at for at, each in enumerate(said) if each.get("type") == "gap"]
            before = [each["data"]["n"] for each in said[:gap] if "data" in each]
            after = [each["data"]["n"] for each in said[gap:] if "data" in each]
            assert before == list(range(len(before)))
            assert after == list(range(after[0], count + 600))
            assert after[0] > len(before)
            assert said[gap]["id"] == f"e-{after[0]}"
        await until(lab.empty)
    assert lab.metric("dropped") > 0
    assert lab.metric("cut") == 0


@pytest.mark.parametrize("spec", ["2.3", "2.4", "2.4 silent"])
@pytest.mark.parametrize("middleware", ["none", "base", "gzip", "both"])
@pytest.mark.parametrize("kind", ["plain", "direct"])
async def test_an_event_stream_is_right_under_each_spec_and_middleware(kind: str, middleware: str, spec: str) -> None:
    """It replays, delivers, says goodbye, and leaves nothing when its reader leaves: idle or stalled."""
    lab = Lab(Limits(outbox_bytes=1 << 22, write_deadline=60))
    app = wrapped(lab.app, middleware, Newer.SPECS[spec])
    zipped = {"Accept-Encoding": "gzip"}
    with served(lab, kind, app, socket_options=SMALL) as live:
        await publish(live, lab, *({"n": n} for n in range(5)))
        async with raw(live, "/sse/c?after=e-2", head=zipped) as client:
            await client.read_until(lambda raw: raw.numbers() == [2, 3, 4])
            await until(lambda: lab.channels.open)
            await publish(live, lab, {"n": 5})
            await client.read_until(lambda raw: raw.numbers() == [2, 3, 4, 5])
            assert client.said()[0] == {"type": "resume", "retry": "3000", "id": "e-2"}
        await until(lab.empty)
        async with raw(live, "/sse/c", head=zipped) as client:
            await client.opened()
            await until(lambda: lab.channels.open)
            (connection,) = lab.channels.open

            async def close() -> None:
                connection.close((1012, "retry=1500", 1.5))

            await on(live, close())
            await client.read_until(lambda raw: raw.data.endswith(b"0\r\n\r\n"))
            assert client.said()[-1]["type"] == "drain"
        await until(lab.empty)
        async with raw(live, "/sse/c", head=zipped, small=True) as client:
            await client.opened()
            await until(lambda: lab.channels.open)
            await publish(live, lab, *many(0, 1000))
        await until(lab.empty)
    assert live.errors() == []


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("when", ["replay", "burst", "idle", "stalled"])
async def test_who_leaves_leaves_nothing_behind(wire: str, when: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 22, write_deadline=60))
    with served(lab, "plain", socket_options=SMALL) as live:
        before = await tasks(live)
        if when == "replay":
            await publish(live, lab, *many(0, 900))
        path = f"/{wire}/c" + ("?after=e-0&user=u" if when == "replay" else "?user=u")
        async with raw(live, path, small=True) as client:
            await client.opened()
            if when == "replay":
                await until(lambda: lab.channels.hub._held)
                assert lab.channels.open == set()
            elif when == "burst":
                await publish(live, lab, *many(0, 2000))
                await client.read_until(lambda raw: len(raw.numbers()) > 100)
            elif when == "stalled":
                await stall(live, lab, client)
        await until(lab.empty)
        async with asyncio.timeout(10):
            while await tasks(live) != before:
                await asyncio.sleep(0.01)
    assert live.errors() == []
