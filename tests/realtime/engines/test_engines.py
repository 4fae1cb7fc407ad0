"""What every engine promises, asked of each in the same way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from itertools import pairwise
from typing import Any

import pytest

from labserver.realtime.engines.base import Engine, since
from labserver.realtime.engines.memory import PER_MESSAGE, MemoryEngine
from labserver.realtime.limits import Limits
from labserver.realtime.message import Message

SECONDS = 20.0  # for what has to come, on a machine that does much else
ENGINES: dict[str, Callable[[Limits], Engine]] = {"memory": MemoryEngine}


class Sink:
    """Keeps what an engine hands over."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gaps: list[tuple[str, str]] = []

    def deliver(self, message: Message) -> None:
        self.messages.append(message)

    def gap(self, channel: str, cursor: str) -> None:
        self.gaps.append((channel, cursor))


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something holds; the condition may be asked of the engine."""
    async with asyncio.timeout(SECONDS):
        while not await waited(condition()):
            await asyncio.sleep(0.01)


async def waited(result: Any) -> Any:
    return await result if isawaitable(result) else result


Started = Callable[..., Awaitable[tuple[Any, Sink]]]


@pytest.fixture(params=ENGINES)
async def started(request: pytest.FixtureRequest) -> AsyncIterator[Started]:
    """Return `started(**limits)`: a running engine and its sink."""
    engines: list[Engine] = []

    async def start(**limits: Any) -> tuple[Any, Sink]:
        engine, sink = ENGINES[request.param](Limits(**limits)), Sink()
        await engine.start(sink)
        engines.append(engine)
        return engine, sink

    yield start
    for engine in engines:
        await engine.stop()


async def publish(engine: Any, *data: str, channel: str = "c") -> list[str]:
    return [await engine.publish(channel, "message", each) for each in data]


def data_of(messages: list[Message]) -> list[str]:
    return [message.data for message in messages]


@asynccontextmanager
async def attached(engine: Any, channel: str = "c") -> AsyncIterator[None]:
    await engine.attach(channel)
    try:
        yield
    finally:
        engine.detach(channel)


async def test_what_is_published_is_handed_over_in_order(started: Started) -> None:
    engine, sink = await started()
    async with attached(engine):
        ids = await publish(engine, *map(str, range(50)))
        await until(lambda: len(sink.messages) == 50)
    assert data_of(sink.messages) == [str(number) for number in range(50)]
    assert [message.id for message in sink.messages] == ids
    assert all(since(earlier, later) for earlier, later in pairwise(ids))
    assert not any(since(later, earlier) for earlier, later in pairwise(ids))


async def test_a_message_keeps_its_event_channel_and_text(started: Started) -> None:
    engine, sink = await started()
    async with attached(engine, "räum/1"):
        id = await engine.publish("räum/1", "moved", '{"to": "\u2028é\U0001f600", "n": 123456789012345678901234567890}')
        await until(lambda: sink.messages)
    assert sink.messages == [
        Message(id, "räum/1", '{"to": "\u2028é\U0001f600", "n": 123456789012345678901234567890}', "moved")
    ]


async def test_the_same_key_is_the_same_message_within_a_channel(started: Started) -> None:
    engine, sink = await started()
    async with attached(engine):
        first = await engine.publish("c", "message", "1", "key")
        assert await engine.publish("c", "message", "2", "key") == first
        await engine.publish("c", "message", "3", "other")
        await until(lambda: len(sink.messages) == 2)
        await engine.publish("d", "message", "4", "key")
    assert data_of(sink.messages) == ["1", "3"]
    assert data_of((await engine.history("d", None, None, 10)).messages) == ["4"]


async def test_only_attached_channels_are_handed_over_and_each_attach_has_its_detach(started: Started) -> None:
    engine, sink = await started()
    async with attached(engine), attached(engine):
        engine.detach("c")
        await engine.attach("c")
        async with attached(engine):
            pass
        await publish(engine, "1")
        await publish(engine, "2", channel="d")
        await until(lambda: sink.messages)
    await publish(engine, "3")
    async with attached(engine):
        await publish(engine, "4")
        await until(lambda: data_of(sink.messages)[-1] == "4")
    assert data_of(sink.messages) == ["1", "4"]


async def test_history_after_a_cursor_in_pages_up_to_and_with_until(started: Started) -> None:
    engine, sink = await started()
    async with attached(engine):
        ids = await publish(engine, *map(str, range(10)))
        await until(lambda: len(sink.messages) == 10)
        page = await engine.history("c", ids[1], ids[7], 4)
        assert (data_of(page.messages), page.gap, page.cursor, page.start) == (list("2345"), False, ids[5], ids[1])
        page = await engine.history("c", page.cursor, ids[7], 4)
        assert (data_of(page.messages), page.gap, page.cursor) == (list("67"), False, ids[7])
        page = await engine.history("c", ids[9], None, 4)
        assert (page.messages, page.gap, page.cursor) == ([], False, ids[9])
        assert data_of((await engine.history("c", None, None, 3)).messages) == list("012")


async def test_the_position_is_the_newest_message_handed_over(started: Started) -> None:
    engine, sink = await started()
    before = await publish(engine, "1")
    async with attached(engine):
        assert engine.position("c") == before[0], "the tail, before anything is handed over"
        ids = await publish(engine, "2", "3")
        await until(lambda: len(sink.messages) == 2)
        assert engine.position("c") == ids[-1]


@pytest.mark.parametrize(
    "limits",
    [{"history_messages": 4}, {"history_bytes": 4 * (PER_MESSAGE + 1)}],
    ids=["messages", "bytes"],
)
async def test_what_is_trimmed_is_a_gap_and_nothing_else_is(started: Started, limits: dict[str, int]) -> None:
    engine, sink = await started(**limits)
    async with attached(engine):
        ids = await publish(engine, *"0123456789")
        await until(lambda: len(sink.messages) == 10)
        kept = data_of((await engine.history("c", None, None, 100)).messages)
        assert kept
        assert kept == list("0123456789")[-len(kept) :]
        oldest = 10 - len(kept)
        for cursor, id in enumerate(ids):
            page = await engine.history("c", id, None, 100)
            assert page.gap == (cursor + 1 < oldest), "the cursor just before the oldest kept is no gap"
            assert data_of(page.messages) == (kept if page.gap else list("0123456789")[cursor + 1 :])
            assert page.start == (ids[oldest - 1] if page.gap else id)


async def test_what_is_too_old_is_forgotten_with_its_key(started: Started) -> None:
    engine, _ = await started(history_seconds=0.1)
    async with attached(engine):
        first, *_ = await publish(engine, "1", "2")
        keyed = await engine.publish("c", "message", "3", "key")

        async def trimmed() -> bool:
            return (await engine.history("c", first, None, 10)).gap

        await until(trimmed)
        assert (await engine.history("c", keyed, None, 10)).gap is False, "nothing came after it"
        await until(lambda: _again(engine, keyed))


async def _again(engine: Any, id: str) -> bool:
    return await engine.publish("c", "message", "4", "key") != id


@pytest.mark.parametrize("cursor", ["other-1", "other-99999", "other-1-1"])
async def test_a_cursor_of_another_epoch_is_a_gap_from_the_oldest(started: Started, cursor: str) -> None:
    engine, sink = await started()
    async with attached(engine):
        await publish(engine, "1", "2")
        await until(lambda: len(sink.messages) == 2)
        page = await engine.history("c", cursor, engine.position("c"), 10)
    assert (page.gap, data_of(page.messages)) == (True, ["1", "2"])


async def test_who_is_present_is_counted_by_user(started: Started) -> None:
    engine, _ = await started()
    for member, user in [("m1", "ann"), ("m2", "bob"), ("m3", "ann")]:
        await waited(engine.join("c", member, user))
    await until(lambda: _present(engine, {"ann": 2, "bob": 1}))
    assert await engine.presence("d") == {}
    for member in ("m1", "m2", "m2"):
        await waited(engine.leave("c", member))
    await until(lambda: _present(engine, {"ann": 1}))
    await waited(engine.leave("c", "m3"))
    await until(lambda: _present(engine, {}))


async def _present(engine: Any, users: dict[str, int]) -> bool:
    return await engine.presence("c") == users


async def test_a_claim_is_won_once_until_it_ends(started: Started) -> None:
    engine, _ = await started()
    won = await asyncio.gather(*(engine.claim("ticket", 60) for _ in range(10)))
    assert sorted(won) == [False] * 9 + [True]
    assert await engine.claim("another", 0.05)
    await until(lambda: engine.claim("another", 0.05))
    assert not await engine.claim("ticket", 60)


async def test_nothing_is_handed_over_after_stop(started: Started) -> None:
    engine, sink = await started()
    await engine.attach("c")
    await engine.stop()
    before = len(sink.messages)
    if engine.name == "memory":
        await publish(engine, "1")
    assert len(sink.messages) == before
