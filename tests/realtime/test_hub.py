"""The hub, turn by turn: order, joined bursts, slices, silence, who enters and leaves, what is held back."""

import asyncio

import pytest
from realtime.stepped import Clock, turns

from labserver.realtime.connection import Connection, Outbox
from labserver.realtime.hub import JOIN_BYTES, SLICE, Held, Hub
from labserver.realtime.limits import Limits
from labserver.realtime.message import Kind, Message, comment, control, forms, framed

LIMITS = Limits(ws_heartbeat=20, sse_keepalive=15, outbox_bytes=100)
CLOCK = Clock()


class Reader(Connection):
    """Keeps what is written to it."""

    def __init__(self, kind: Kind = "event", log: list["Reader"] | None = None) -> None:
        self.kind, self.limits = kind, LIMITS
        self.got: list[bytes] = []
        self.broken = self.is_cut = False
        self.log = log if log is not None else []

    def write(self, burst: bytes) -> None:
        if self.broken:
            raise ConnectionResetError
        self.got.append(burst)
        self.log.append(self)

    def cut(self) -> None:
        self.leave()
        self.is_cut = True


def message(number: int, size: int = 1) -> Message:
    return Message(f"e-{number}", "c", f'"{"x" * size}"')


def bytes_of(*numbers: int, kind: Kind = "event") -> bytes:
    burst = framed(kind, [forms(message(number)) for number in numbers])
    assert isinstance(burst, bytes)
    return burst


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub on a loop whose clock moves when told to."""
    monkeypatch.setattr(asyncio.get_running_loop(), "time", CLOCK.monotonic)
    return Hub(LIMITS)


def entered(hub: Hub, *readers: Reader) -> None:
    for reader in readers:
        hub.enter(reader, "c")


async def test_a_burst_is_one_write_in_order_in_each_form(hub: Hub) -> None:
    kinds: list[Kind] = ["ws", "sse", "event", 12]
    readers = [Reader(kind) for kind in kinds]
    entered(hub, *readers)
    for number in (1, 2, 3):
        hub.deliver(message(number))
    assert not any(reader.got for reader in readers)
    await turns(4)
    assert [reader.got for reader in readers] == [[bytes_of(1, 2, 3, kind=kind)] for kind in kinds]


async def test_a_large_burst_goes_out_at_once_in_pieces(hub: Hub) -> None:
    reader = Reader()
    entered(hub, reader)
    for number in range(4):
        hub.deliver(message(number, JOIN_BYTES // 2))
    assert len(reader.got) == 2, "what is enough for a write does not wait"
    await turns(4)
    assert b"".join(reader.got) == framed("event", [forms(message(number, JOIN_BYTES // 2)) for number in range(4)])


async def test_other_channels_hear_nothing(hub: Hub) -> None:
    reader = Reader()
    hub.enter(reader, "d")
    hub.deliver(message(1))
    await turns(6)
    assert reader.got == []
    assert (hub.channels(), hub.connections("d"), hub.connections("c")) == (["d"], 1, 0)


async def test_many_are_written_to_in_slices_and_in_order(hub: Hub) -> None:
    log: list[Reader] = []
    readers = [Reader(log=log) for _ in range(2 * SLICE + 5)]
    entered(hub, *readers)
    hub.deliver(message(1))
    counts = []
    for _ in range(8):
        await turns(1)
        counts.append(len(log))
    assert sorted({count for count in counts if count}) == [SLICE, 2 * SLICE, 2 * SLICE + 5]
    assert log == readers


async def test_the_next_burst_comes_behind_the_rest_of_the_last(hub: Hub) -> None:
    readers = [Reader() for _ in range(2 * SLICE)]
    entered(hub, *readers)
    hub.deliver(message(1))
    while not readers[0].got:
        await turns(1)
    assert not readers[-1].got
    late = Reader()
    entered(hub, late)
    hub.deliver(message(2))
    await turns(8)
    assert all(reader.got == [bytes_of(1), bytes_of(2)] for reader in readers)
    assert late.got == [bytes_of(2)]


async def test_who_leaves_has_got_the_whole_burst_and_nothing_after(hub: Hub) -> None:
    readers = [Reader() for _ in range(SLICE + 2)]
    entered(hub, *readers)
    hub.deliver(message(1))
    hub.leave(readers[-1], "c")
    hub.deliver(message(2))
    await turns(8)
    assert readers[-1].got == [bytes_of(1)]
    assert readers[-2].got == [bytes_of(1), bytes_of(2)]


async def test_who_is_cut_in_the_midst_of_a_slice_gets_nothing_more(hub: Hub) -> None:
    readers = [Reader() for _ in range(SLICE + 2)]
    entered(hub, *readers)
    hub.deliver(message(1))
    while not readers[0].got:
        await turns(1)
    readers[-1].cut()
    await turns(4)
    assert readers[-1].got == []
    assert readers[-2].got == [bytes_of(1)]


async def test_what_is_told_comes_behind_what_was_delivered(hub: Hub) -> None:
    readers = [Reader() for _ in range(SLICE + 2)]
    entered(hub, *readers)
    hub.deliver(message(1))
    readers[-1].tell(("", b"told"))
    assert readers[-1].got == [bytes_of(1), b"told"]


async def test_one_broken_write_is_not_the_others_affair(hub: Hub) -> None:
    readers = [Reader() for _ in range(3)]
    entered(hub, *readers)
    readers[1].broken = True
    hub.deliver(message(1))
    hub.deliver(message(2))
    await turns(4)
    assert [reader.got for reader in readers] == [[bytes_of(1, 2)], [], [bytes_of(1, 2)]]
    assert [reader.is_cut for reader in readers] == [False, True, False]
    assert hub.connections("c") == 2


async def test_who_enters_gets_what_is_delivered_afterwards(hub: Hub) -> None:
    first, second = Reader(), Reader()
    entered(hub, first)
    hub.deliver(message(1))
    entered(hub, second)
    assert first.got == [bytes_of(1)], "it went out before the other came"
    hub.deliver(message(2))
    await turns(4)
    assert (first.got[1:], second.got) == ([bytes_of(2)], [bytes_of(2)])


async def test_silence_is_broken_for_each_form_and_traffic_puts_it_off(hub: Hub) -> None:
    events, socket = Reader("event"), Reader("ws")
    entered(hub, events, socket)
    CLOCK.now += 15
    await turns(8)
    assert (events.got, socket.got) == ([comment()], [])
    CLOCK.now += 5
    await turns(8)
    assert socket.got == [framed("ws", [(control("ping"), b"")])]
    CLOCK.now += 9
    hub.deliver(message(1))
    await turns(8)
    CLOCK.now += 6
    await turns(8)
    assert events.got == [comment(), bytes_of(1)], "15 seconds since the comment, but 6 since a message"
    CLOCK.now += 9
    await turns(8)
    assert events.got == [comment(), bytes_of(1), comment()]


async def test_the_last_who_leaves_leaves_nothing(hub: Hub) -> None:
    reader = Reader()
    entered(hub, reader)
    for _ in range(2):
        hub.leave(reader, "c")
    hub.leave(reader, "never")
    assert (hub.channels(), reader.fans) == ([], ())
    CLOCK.now += 100
    await turns(8)
    assert reader.got == []


async def test_held_is_a_copy_in_order_until_it_is_too_much(hub: Hub) -> None:
    held, other = hub.hold("c"), hub.hold("c")
    for number in (1, 2):
        hub.deliver(message(number, 40))
    assert [each.id for each in held.messages] == ["e-1", "e-2"]
    hub.release("c", other)
    for number in (3, 4):
        hub.deliver(message(number, 40))
    assert (held.overflowed, list(held.messages)) == (True, [])
    assert len(other.messages) == 2
    for _ in range(2):
        hub.release("c", held)
    assert not hub._held


async def test_a_gap_is_told_to_all_and_whoever_replays_asks_again(hub: Hub) -> None:
    reader, held = Reader("ws"), hub.hold("c")
    entered(hub, reader)
    hub.deliver(message(1))
    hub.gap("c", "e-5")
    hub.deliver(message(6))
    await turns(4)
    assert reader.got == [framed("ws", [forms(message(1)), (control("gap", id="e-5"), b""), forms(message(6))])]
    assert held.overflowed


def test_held_messages_are_few_or_none() -> None:
    held = Held(10)
    held.add(message(1, 3))
    held.add(message(2, 8))
    held.add(message(3, 1))
    assert (held.overflowed, len(held.messages)) == (True, 0)


def test_an_outbox_drops_the_oldest_but_never_all_and_says_up_to_where() -> None:
    outbox = Outbox()
    outbox.put(b"large", 500, "e-1")
    assert (outbox.full(100), outbox.drop(100)) == (False, 0), "who reads, has to get the largest message"
    outbox.put(b"answer", 50, "")
    outbox.put(b"small", 80, "e-2")
    assert outbox.drop(100) == 2
    assert outbox.take() == ("e-1", [b"small"]), "an answer does not hide what was lost before it"
    assert (outbox.take(), outbox.size) == ((None, []), 0)
