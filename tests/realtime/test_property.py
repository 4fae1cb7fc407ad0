"""Whatever happens to readers, what they saw is what was published: nothing lost, doubled or swapped without a `gap`.

Schedules are drawn by a seed: publishes, joins, stalls, cuts, resumes and waits on a loop that moves in steps, against
connections of all kinds. One that fails is made short and shown. That they would notice is proved by breaking what they
drive, one thing at a time.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from realtime.stepped import DIRECT, PLAIN, Client, Clock, Endpoint, World, turns

from labserver.realtime import channels, connection, direct, hub
from labserver.realtime.engines import memory
from labserver.realtime.engines.base import History
from labserver.realtime.limits import Limits

LIMITS = Limits(
    outbox_bytes=1500,
    message_max_bytes=1500,
    history_messages=12,
    history_bytes=9000,
    history_seconds=100,
    write_deadline=10,
    ws_heartbeat=20,
    sse_keepalive=15,
)
SIZES = [3, 40, 300, 1498]  # characters of a message's text; the last is as large as a message may be
READERS = 8
SEEDS = 250
CLOCK = Clock()

Step = tuple[str, tuple[Any, ...]]
Schedule = list[Step]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each measure so small that a short schedule passes it, and each clock the world's."""
    monkeypatch.setattr(memory, "monotonic", CLOCK.monotonic)
    monkeypatch.setattr(hub, "SLICE", 2)
    for module in (hub, channels):
        monkeypatch.setattr(module, "JOIN_BYTES", 600)
    monkeypatch.setattr(channels, "PAGE", 3)


class Readers:
    """Readers of two channels, and everything that befalls them: each method is a step."""

    def __init__(self) -> None:
        CLOCK.now = 1000.0
        self.world = World(LIMITS, CLOCK)
        self.count = 0

    def clients(self, who: int, *, alive: bool) -> list[Client]:
        """Return the client of this number, if it is there and connected, or not connected."""
        return [each for each in self.world.clients[who : who + 1] if each.alive == alive]

    def do(self, step: Callable[[], Any], after: int = 0) -> None:
        """Run a step on the loop, and so many turns of it."""

        async def run() -> None:
            result = step()
            if asyncio.iscoroutine(result):
                await result
            await turns(after)

        self.world.run(run())

    def join(self, channel: str, kind: Any, slow: Any, high: int, after: int) -> None:
        if len(self.world.clients) < READERS:
            client = Client(self.world, f"client {len(self.world.clients)}", channel, kind, slow, high)
            self.world.clients.append(client)
            self.do(client.connect, after)

    def publish(self, channel: str, sizes: list[int], apart: int, key: str | None = None) -> None:
        self.do(lambda: self.published(channel, sizes, apart, key))

    async def published(self, channel: str, sizes: list[int], apart: int = 0, key: str | None = None) -> None:
        for size in sizes:
            self.count += 1
            await self.world.publish(channel, str(self.count).ljust(size, "x"), key)
            await turns(apart)

    def come_back(self, who: int, after: int) -> None:
        for client in self.clients(who, alive=False):
            self.do(client.connect, after)

    def come_back_amid(self, who: int, stalled: bool, after: int, channel: str, sizes: list[int]) -> None:
        """Come back while messages are under way, perhaps without reading at first."""
        for client in self.clients(who, alive=False):

            async def step() -> None:
                await self.published(channel, sizes[:1])
                client.connect()  # noqa: B023
                client.line.stall(stalled)  # noqa: B023
                await turns(after)
                await self.published(channel, sizes[1:])
                client.line.stall(False)  # noqa: B023

            self.do(step)

    def cut(self, who: int, noticed: bool, after: int) -> None:
        for client in self.clients(who, alive=True):
            self.do(lambda: client.line.break_off(noticed), after)  # noqa: B023

    def cancel(self, who: int, after: int) -> None:
        """Some servers cancel the task of a request whose reader is gone."""
        for client in self.clients(who, alive=True):
            self.do(client.session.cancel, after)

    def stall(self, who: int) -> None:
        for client in self.clients(who, alive=True):
            self.do(lambda: client.line.stall(True))  # noqa: B023

    def flow(self, who: int) -> None:
        for client in self.clients(who, alive=True):
            self.do(lambda: client.line.stall(False))  # noqa: B023

    def read(self, who: int, size: int, after: int) -> None:
        for client in self.clients(who, alive=True):
            self.do(lambda: client.line.read(size), after)  # noqa: B023

    def leave(self, who: int, goodbye: bool) -> None:
        """Let a reader go: what was delivered before goes out before."""
        for client in self.clients(who, alive=True):
            if client.line.fans and not client.line.broken:
                self.do(lambda: self.let_go(client, goodbye or client.kind in PLAIN))  # noqa: B023

    async def let_go(self, client: Client, goodbye: bool) -> None:
        owed, line = self.world.last(client.channel), client.line
        if goodbye:
            line.close((1012, "", 0.0))
        else:
            line.gone.set()
        line.stall(False)
        await turns(30)
        assert not client.alive
        assert client.cursor == owed or line.too_slow, "what was delivered before a goodbye goes out before it"

    def turn(self, number: int) -> None:
        self.do(lambda: turns(number))

    def wait(self, seconds: float) -> None:
        CLOCK.now += seconds
        self.do(lambda: turns(4))

    def restart(self) -> None:
        """Another process, another life of the engine: every cursor is of the past."""
        self.all_gone()
        self.do(self.world.begin)

    def all_gone(self) -> None:
        async def step() -> None:
            for client in self.world.clients:
                if client.alive:
                    client.line.break_off()
            await turns(30)
            assert self.world.gone()

        self.do(step)

    def settle(self) -> None:
        """Whoever comes back and reads has seen everything in the end, a message of the largest size included."""
        for channel in "ab":
            self.publish(channel, [SIZES[-1]], 0)
        self.do(self.all_read)
        behind = [(each.name, each.kind, each.cursor) for each in self.world.clients if not self.up_to_date(each)]
        assert not behind

    async def all_read(self) -> None:
        for _ in range(20):
            for client in self.world.clients:
                if client.alive:
                    client.line.stall(False)
                else:
                    client.connect()
            await turns(25)
            if all(map(self.up_to_date, self.world.clients)):
                return

    def up_to_date(self, client: Client) -> bool:
        return client.alive and client.cursor == self.world.last(client.channel)


def schedule(seed: int, length: int = 80) -> Schedule:
    """Draw a schedule."""
    draw = random.Random(seed)

    def amid() -> tuple[Any, ...]:
        return (
            draw.random() < 0.5,
            draw.choice([0, 2, 5]),
            draw.choice("aab"),
            [draw.choice(SIZES)] * draw.choice([1, 4, 15]),
        )

    kinds = {
        "publish": (
            8,
            lambda: (
                draw.choice("aab"),
                draw.choices(SIZES, (6, 6, 3, 1), k=draw.randint(1, 6)),
                draw.choice([0, 0, 1, 4]),
            ),
        ),
        "publish_once": (1, lambda: (draw.choice("ab"), [40, 40], 1, draw.choice(["k1", "k2"]))),
        "join": (3, lambda: (draw.choice("aab"), draw.choice(DIRECT + PLAIN), *draw.choice(TEMPERS))),
        "come_back": (8, lambda: (draw.randrange(READERS), draw.randint(0, 8))),
        "come_back_amid": (4, lambda: (draw.randrange(READERS), *amid())),
        "cut": (2, lambda: (draw.randrange(READERS), draw.random() < 0.5, draw.randint(0, 3))),
        "cancel": (1, lambda: (draw.randrange(READERS), draw.randint(0, 3))),
        "leave": (1, lambda: (draw.randrange(READERS), draw.random() < 0.5)),
        "stall": (3, lambda: (draw.randrange(READERS),)),
        "flow": (3, lambda: (draw.randrange(READERS),)),
        "read": (6, lambda: (draw.randrange(READERS), draw.choice([1, 100, 700]), draw.randint(0, 3))),
        "turn": (4, lambda: (draw.randint(1, 20),)),
        "wait": (1, lambda: (draw.choice([1.0, 1.0, 9.0, 30.0, 101.0]),)),
        "restart": (0.1, lambda: ()),
    }
    names = draw.choices(list(kinds), [weight for weight, _ in kinds.values()], k=length)
    return [(name, kinds[name][1]()) for name in names]


TEMPERS = [
    (slow, high, after) for slow in ("close", "close", "drop_oldest") for high in (1, 400, 2000) for after in (0, 5)
]


TRIMMED_AMID: Schedule = [  # history is trimmed beyond where a replay ends, but what is held back has it
    ("join", ("a", "event", "close", 400, 5)),
    ("cut", (0, True, 3)),
    ("publish", ("a", [3] * 8, 0)),
    ("come_back_amid", (0, True, 5, "a", [3] * 15)),
    ("turn", (20,)),
]


def play(steps: Schedule) -> None:
    """Take the steps, and see that all is well in the end.

    Raises:
        Exception: it is not.
    """
    readers = Readers()
    try:
        for name, args in steps:
            getattr(readers, name.removesuffix("_once"))(*args)
        readers.settle()
        readers.all_gone()
    finally:
        readers.world.close()


def failure(steps: Schedule) -> Exception | None:
    try:
        play(steps)
    except Exception as error:
        return error
    return None


def shortened(steps: Schedule) -> Schedule:
    """Leave out of a schedule that fails all that it fails without."""
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            shorter = steps[:at] + steps[at + size :]
            if failure(shorter):
                steps = shorter
            else:
                at += size
        size //= 2
    return steps


def failing() -> Iterator[tuple[str, Schedule]]:
    """Yield what fails, each with its name."""
    schedules = [("by hand", TRIMMED_AMID), *((f"seed {seed}", schedule(seed)) for seed in range(SEEDS))]
    return ((name, steps) for name, steps in schedules if failure(steps))


def test_nothing_is_lost_doubled_or_swapped_and_a_gap_has_a_reason() -> None:
    for name, steps in failing():
        short = shortened(steps)
        pytest.fail("\n    ".join([f"{name}: {failure(short)!r}", *map(str, short)]))


# ---- that it would notice


def _never_flushed(self: Any, connection: Any, channel: str) -> None:
    """Enter without writing first what was delivered to the others."""
    kinds = self._fans.setdefault(channel, {})
    fan = kinds.get(connection.kind) or kinds.setdefault(connection.kind, hub.Fan(connection.kind, self.limits))
    connection.enter(fan)


def _dropped_unsaid(self: Any) -> tuple[None, list[Any]]:
    _, bursts = TAKE(self)
    return None, bursts


def _resumed_backwards(self: Any) -> None:
    """Write what waited only after what comes next."""
    self.place(False)
    Endpoint.resume_writing(self)
    self.loop.call_soon(lambda: [self.transport.write(burst) for burst in self.waiting()])


def _always(changed: Callable[[History], History]) -> Callable[..., Any]:
    async def history(self: Any, *args: Any) -> History:
        return changed(await HISTORY(self, *args))

    return history


TAKE, HISTORY = connection.Outbox.take, memory.MemoryEngine.history
BREAKS: dict[str, tuple[Any, str, Any]] = {
    "enters behind a burst that is pending": (hub.Hub, "enter", _never_flushed),
    "holds nothing back": (hub.Held, "add", lambda self, message: None),
    "forgets that too much was held": (hub.Held, "overflow", lambda self: self.messages.clear()),
    "replays what was held twice": (channels, "since", lambda cursor, id: True),
    "never says gap": (memory.MemoryEngine, "history", _always(lambda page: replace(page, gap=False))),
    "always says gap": (memory.MemoryEngine, "history", _always(lambda page: replace(page, gap=True))),
    "leaves out a message": (
        memory.MemoryEngine,
        "history",
        _always(lambda page: replace(page, messages=page.messages[1:])),
    ),
    "does not say what it dropped": (connection.Outbox, "take", _dropped_unsaid),
    "leaves before what was delivered": (hub.Fan, "flush_to", lambda self, first: None),
    "overtakes what waits": (direct.Direct, "resume_writing", _resumed_backwards),
    "forgets the rest of a slice": (hub.Fan, "_more", lambda self: self._rest.clear()),
    "trims too early": (memory.MemoryEngine, "_trim", lambda self, log: log.kept and log.kept.popleft()),
}


@pytest.mark.parametrize("what", BREAKS)
def test_it_would_notice_a_hub_that(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken = BREAKS[what]
    monkeypatch.setattr(owner, name, broken)
    assert next(failing(), None) is not None
