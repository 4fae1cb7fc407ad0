"""Whatever happens to readers, what they saw is what was published: nothing lost, doubled or swapped without a `gap`.

A machine publishes, joins, stalls, cuts and resumes at random on a loop that moves in steps, against connections of all
kinds. That it would notice is shown by breaking what it drives, one thing at a time.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from labserver.realtime import channels, connection, direct, hub
from labserver.realtime.engines import memory
from labserver.realtime.limits import Limits
from realtime.stepped import DIRECT, PLAIN, Client, Clock, World, turns

LIMITS = Limits(
    outbox_bytes=1500,
    message_max_bytes=1500,
    history_messages=8,
    history_bytes=6000,
    history_seconds=100,
    write_deadline=10,
    ws_heartbeat=20,
    sse_keepalive=15,
)
SIZES = [1, 40, 300, 1498]  # bytes of a message's text; the last is as large as a message may be
WHO = st.integers(0, 9)
CHANNEL = st.sampled_from(["a", "b"])
CLOCK = Clock()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each measure so small that a short schedule passes it, and each clock the world's."""
    monkeypatch.setattr(memory, "monotonic", CLOCK.monotonic)
    monkeypatch.setattr(hub, "SLICE", 2)
    for module in (hub, channels):
        monkeypatch.setattr(module, "JOIN_BYTES", 600)
    monkeypatch.setattr(channels, "PAGE", 3)


class Readers(RuleBasedStateMachine):
    """Readers of two channels, and everything that befalls them."""

    def __init__(self) -> None:
        super().__init__()
        CLOCK.now = 1000.0
        self.world = World(LIMITS, CLOCK)
        self.count = 0

    def client(self, who: int) -> Client | None:
        return self.world.clients[who % len(self.world.clients)] if self.world.clients else None

    def do(self, step: Callable[[], Any], after: int = 0) -> None:
        """Run a step on the loop, and so many turns of it."""

        async def run() -> None:
            result = step()
            if asyncio.iscoroutine(result):
                await result
            await turns(after)

        self.world.run(run())

    @initialize(number=st.integers(3, 5), after=st.integers(0, 6))
    def first(self, number: int, after: int) -> None:
        for who in range(number):
            self.join("a", (DIRECT + PLAIN)[who % 5], "close", 400, after)

    @rule(
        channel=CHANNEL,
        kind=st.sampled_from(DIRECT + PLAIN),
        slow=st.sampled_from(["close", "close", "drop_oldest"]),
        high=st.sampled_from([1, 400, 2000]),
        after=st.integers(0, 6),
    )
    def join(self, channel: str, kind: Any, slow: Any, high: int, after: int) -> None:
        if len(self.world.clients) < 8:
            client = Client(self.world, f"client {len(self.world.clients)}", channel, kind, slow, high)
            self.world.clients.append(client)
            self.do(client.connect, after)

    @rule(
        channel=CHANNEL,
        sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=12),
        key=st.sampled_from([None, None, "k1", "k2"]),
        apart=st.integers(0, 4),
    )
    def publish(self, channel: str, sizes: list[int], key: str | None, apart: int) -> None:
        async def step() -> None:
            for size in sizes:
                self.count += 1
                await self.world.publish(channel, f"{self.count}-".ljust(size - 2, "x"), key)
                await turns(apart)

        self.do(step)

    @rule(who=WHO, after=st.integers(0, 8))
    def come_back(self, who: int, after: int) -> None:
        client = self.client(who)
        if client is not None and not client.alive:
            self.do(client.connect, after)

    @rule(who=WHO, noticed=st.booleans(), after=st.integers(0, 3))
    def cut(self, who: int, noticed: bool, after: int) -> None:
        client = self.client(who)
        if client is not None and client.alive:
            self.do(lambda: client.line.break_off(noticed), after)

    @rule(who=WHO, after=st.integers(0, 3))
    def cancel(self, who: int, after: int) -> None:
        """Some servers cancel the task of a request whose reader is gone."""
        client = self.client(who)
        if client is not None and client.alive and client.session is not None:
            self.do(client.session.cancel, after)

    @rule(who=WHO, back=st.booleans())
    def leave(self, who: int, back: bool) -> None:
        """Let a reader go: what was delivered before goes out before."""
        client = self.client(who)
        if client is None or not client.alive or not client.entered:
            return
        line, channel = client.line, client.channel
        owed = self.world.last(channel) if client.slow == "close" and line.fans else None

        def step() -> None:
            line.close((1012, "", 0.0)) if client.kind in PLAIN or back else line.gone.set()

        async def end() -> None:
            step()
            line.stall(False)
            await turns(30)
            assert not client.alive
            if owed is not None and not line.too_slow:
                assert client.cursor == owed, "what was delivered before a goodbye goes out before it"

        self.do(end)

    @rule(who=WHO, stalled=st.booleans())
    def stall(self, who: int, stalled: bool) -> None:
        client = self.client(who)
        if client is not None and client.alive:
            self.do(lambda: client.line.stall(stalled))

    @rule(who=WHO, size=st.sampled_from([1, 100, 700]), after=st.integers(0, 3))
    def read(self, who: int, size: int, after: int) -> None:
        client = self.client(who)
        if client is not None and client.alive:
            self.do(lambda: client.line.read(size), after)

    @rule(number=st.integers(1, 20))
    def turn(self, number: int) -> None:
        self.do(lambda: turns(number))

    @rule(seconds=st.sampled_from([1.0, 9.0, 30.0, 101.0]))
    def wait(self, seconds: float) -> None:
        CLOCK.now += seconds
        self.do(lambda: turns(4))

    @rule()
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
        """Whoever comes back and reads has seen everything in the end."""

        def missing() -> list[Client]:
            behind = [each for each in clients if each.alive and each.cursor != world.last(each.channel)]
            return behind + [each for each in clients if not each.alive]

        async def step() -> None:
            for _ in range(20):
                for client in clients:
                    if client.alive:
                        client.line.stall(False)
                await turns(20)
                for client in missing():
                    if not client.alive:
                        client.connect()
                if not missing():
                    break
            assert not missing(), [(each.name, each.kind, each.cursor, each.alive) for each in missing()]

        world, clients = self.world, self.world.clients
        self.do(step)

    def teardown(self) -> None:
        try:
            self.settle()
            self.all_gone()
        finally:
            self.world.close()


def schedules(number: int, *phases: Phase) -> settings:
    return settings(
        max_examples=number,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=phases or tuple(Phase),
        suppress_health_check=list(HealthCheck),
    )


def test_nothing_is_lost_doubled_or_swapped_and_a_gap_has_a_reason() -> None:
    run_state_machine_as_test(Readers, settings=schedules(150))
