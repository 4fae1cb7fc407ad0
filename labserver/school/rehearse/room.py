"""The room: lets people in over some seconds, watches the machine, and sends all home; nothing of it stays.

It ends when everybody is through, when less memory is free than should be, at the deadline, or when it is interrupted:
always with every kernel ended, every process that bears its mark killed, and its folder removed.
"""

import asyncio
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Literal

import zmq.asyncio

from labserver.school.rehearse import host
from labserver.school.rehearse.findings import Findings, Host
from labserver.school.rehearse.kernel import end_marked
from labserver.school.rehearse.person import Person
from labserver.school.rehearse.plan import Plan

__all__ = ["Room", "rehearse"]

_LOOK = 1.0  # seconds between two looks at the machine; a look takes milliseconds for each process
_CLOSE_TIMEOUT = 30.0  # seconds until kernels that do not end are left to `end_marked`

Tell = Callable[["Room"], None]


def rehearse(plan: Plan, tell: Tell) -> Findings:
    """Simulate the room; blocks until it is over.

    Args:
        plan: who comes and what they do.
        tell: called with the room after each look at the machine.
    """
    with _private_place() as (folder, mark):
        return asyncio.run(Room(plan, folder, mark).run(tell))


@contextmanager
def _private_place() -> Iterator[tuple[Path, str]]:
    """Yield a folder and a mark; remove the one and kill what bears the other, however the block ends."""
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="labserver-rehearsal-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder), mark
        finally:
            end_marked(mark)


class Room:
    """One rehearsal while it runs.

    Attributes:
        plan: who comes and what they do.
        people: all of them, by number.
        free: bytes of memory that the machine has left.
        peak: most bytes that all kernels took together.
        stopped: why it was ended early, "" if it was not.
    """

    def __init__(self, plan: Plan, folder: Path, mark: str) -> None:
        self.plan = plan
        self._context = zmq.asyncio.Context()
        numbers = range(1, plan.people + 1)
        self.people = [Person(number, plan, folder, mark, self._context) for number in numbers]
        self.peak = 0
        self.free = host.memory_free()
        self.stopped: Literal["", "memory", "deadline"] = ""
        self._host = Host(host.cores(), host.memory_total(), self.free, host.memory_kind())

    async def run(self, tell: Tell) -> Findings:
        """Let everybody in, wait until it is over, send all home."""
        began = perf_counter()
        host.busy()
        tasks = [
            asyncio.create_task(person.work(arrival))
            for person, arrival in zip(self.people, self._arrivals(), strict=True)
        ]
        try:
            await self._until_over(tasks, began + self.plan.seconds, tell)
            took, busy = perf_counter() - began, host.busy()
        finally:
            await self._send_home(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()  # a fault of ours is no finding
        outcomes = tuple(person.outcome for person in self.people)
        return Findings(self.plan, self._host, outcomes, self.stopped, took, self.peak, busy)

    async def _until_over(self, tasks: "Sequence[asyncio.Task[None]]", deadline: float, tell: Tell) -> None:
        while True:
            _, working = await asyncio.wait(tasks, timeout=min(_LOOK, max(0.0, deadline - perf_counter())))
            await self._look()
            if working and self.free < self.plan.keep_free:
                self.stopped = "memory"
            elif working and perf_counter() > deadline:
                self.stopped = "deadline"
            tell(self)
            if self.stopped or not working:
                return

    async def _look(self) -> None:
        kernels = {pid: person.number for person in self.people for pid in person.kernels}
        sample = await asyncio.to_thread(host.take_sample, kernels, self._host.kind)
        self.free, self.peak = sample.free, max(self.peak, sample.total)
        for person in self.people:
            outcome, number = person.outcome, person.number
            outcome.peak = max(outcome.peak, sample.memory.get(number, 0))
            outcome.cpu = max(outcome.cpu, sample.cpu.get(number, 0.0))

    def _arrivals(self) -> list[float]:
        """Seconds until each arrives: at random within the window, the first at once; the same on every run."""
        chance = Random(self.plan.people)
        return [0.0, *sorted(chance.uniform(0, self.plan.window) for _ in self.people[1:])]

    async def _send_home(self, tasks: "Sequence[asyncio.Task[None]]") -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = [asyncio.create_task(person.close()) for person in self.people]
        await asyncio.wait(closing, timeout=_CLOSE_TIMEOUT)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        self._context.destroy(linger=0)
