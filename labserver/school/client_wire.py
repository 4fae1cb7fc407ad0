"""What checks of a client are written with: the answer run against a hostile server, and what it yields, waited for.

The tape lies between the answer and the hostile server, so a picture shows the answer's own requests. Whatever the
answer does ends as `Failed(seen, expected)`; anything else that is raised is a fault of the check.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import httpx

from labserver.school.checking import Failed
from labserver.school.hostile import Hostile, Script, Visit
from labserver.school.wire import WAIT

__all__ = ["ClientUnderTest", "Event", "Run", "encoded"]

Event = tuple[str, str, str]
"""Name, data and id."""

_POLL = 0.01  # seconds between two looks at the visits, which another thread keeps


class Run:
    """One call of the answer: what it yielded so far, and how it ended.

    Attributes:
        events: what it yielded.
        odd: the first thing that it yielded and that is no event, "" if there is none.
        ended: "" while it runs, "done" when it returned, else "raised".
        raised: the names of the exception's class and of those it is derived from.
        text: the exception's text.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._came = asyncio.Event()
        self.events: list[Event] = []
        self.odd = ""
        self.ended = ""
        self.raised: list[str] = []
        self.text = ""

    async def read(self) -> None:
        """Take in lines until the answer ends."""
        with contextlib.suppress(httpx.HTTPError):
            async for line in self._response.aiter_lines():
                self._take(json.loads(line))
                self._came.set()
        self.ended = self.ended or "lost"
        self._came.set()

    def _take(self, line: dict[str, list[str] | str]) -> None:
        match line:
            case {"event": [str(name), str(data), str(id)]}:
                self.events.append((name, data, id))
            case {"odd": str(odd)}:
                self.odd = self.odd or odd
            case {"end": str(end), "raised": list(raised), "text": str(text)}:
                self.ended, self.raised, self.text = end, raised, text

    async def until(self, condition: Callable[[], bool], seconds: float = 2 * WAIT) -> bool:
        """Wait until a condition holds; False when it does not in time, or the answer has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and not self.ended:
                    self._came.clear()
                    await self._came.wait()
        return condition()

    async def expect(self, events: list[Event], because: str = "", seconds: float = 2 * WAIT) -> None:
        """Wait for these events and for no others.

        Raises:
            Failed: if others come, or too few within `seconds`, or the answer ends before.
        """
        expected = f"{words(events)}{because}"
        await self.until(lambda: len(self.events) >= len(events) or bool(self.odd), seconds)
        if self.odd:
            raise Failed(f"it yielded {self.odd}", "an Event, which is its name, its data and its id")
        if self.events != events:
            raise Failed(f"{words(self.events)} ({self.how() or f'within {seconds:g} s'})", expected)

    async def end(self, seconds: float = WAIT) -> str:
        """Wait until the answer ends; return how, in words, "" when it does not in time."""
        await self.until(lambda: bool(self.ended), seconds)
        return self.how()

    def how(self) -> str:
        """How it ended, in words, "" while it runs."""
        told = {"": "", "done": "it returned", "lost": "its process ended"}
        return told.get(self.ended, f"it raised {': '.join(filter(None, [*self.raised[:1], self.text]))}")


class ClientUnderTest:
    """The answer as a check of a client sees it.

    Attributes:
        random: the payloads of this run of this check.
    """

    def __init__(self, answer_url: str, hostile: Hostile, taped_url: str, random: Random) -> None:
        self._answer_url = answer_url
        self._hostile = hostile
        self._taped_url = taped_url
        self.random = random

    def script(self, path: str, script: Script) -> None:
        """Say what the hostile server does at a path."""
        self._hostile.script(path, script)

    def visits(self, path: str) -> list[Visit]:
        """The requests of a path so far."""
        return self._hostile.visits(path)

    async def visited(self, path: str, condition: Callable[[list[Visit]], bool], seconds: float = WAIT) -> bool:
        """Wait until the visits of a path are as wanted; False when they are not in time."""
        clock = asyncio.get_running_loop().time
        ends = clock() + seconds
        while not condition(self.visits(path)):
            if clock() > ends:
                return False
            await asyncio.sleep(_POLL)
        return True

    async def expect_gone(self, path: str, when: str) -> None:
        """Wait until the last visitor of a path has closed its connection.

        Raises:
            Failed: if it does not in time; `when` says since when it should.
        """
        if not await self.visited(path, lambda visits: visits[-1].left is not None):
            raise Failed(f"{when}: the connection stays open", f"{when}: the connection is closed")

    def labels(self, count: int) -> list[str]:
        """Return words that say nothing, also not which comes first, and that come only once."""
        return [f"{self.random.getrandbits(40):010x}" for _ in range(count)]

    def feed(self, count: int) -> list[Event]:
        """Return events without a name, whose data and ids come only once."""
        return [("message", word, id) for word, id in zip(self.labels(count), self.labels(count), strict=True)]

    @asynccontextmanager
    async def follow(self, path: str, *, taped: bool = True) -> AsyncIterator[Run]:
        """Have the answer follow a path, through the tape or past it; at the end of the block its caller stops.

        Raises:
            Failed: if the answer can't be called.
        """
        url = (self._taped_url if taped else self._hostile.url) + path
        async with AsyncExitStack() as stack:
            web = await stack.enter_async_context(httpx.AsyncClient(timeout=None, trust_env=False, verify=False))
            try:
                asked = web.stream("POST", self._answer_url, json={"url": url})
                response = await stack.enter_async_context(asked)
            except httpx.HTTPError as error:
                raise Failed(f"no answer ({type(error).__name__})", f"follow(client, url) of {path}") from None
            run = Run(response)
            reading = asyncio.create_task(run.read())
            try:
                yield run
            finally:
                reading.cancel()
                await asyncio.wait({reading})


def encoded(event: Event) -> bytes:
    """Return an event as it is sent."""
    name, data, id = event
    first = "" if name == "message" else f"event: {name}\n"
    return f"{first}id: {id}\ndata: {data}\n\n".encode()


def words(events: list[Event]) -> str:
    """At most six events in words: their data, and the name of those that have one."""
    shown = [data[:24] if name == "message" else f"{name}: {data[:24]}" for name, data, _ in events[:6]]
    more = f" and {len(events) - 6} more" if len(events) > 6 else ""
    return (", ".join(repr(each) for each in shown) or "no event") + more
