"""Checks of exercise 14: a feed of several channels that can be drained, and that goes on when the drain is taken back.

Words are drawn anew on each run. Every check stands alone: it takes back what an earlier one may have begun, and bears
with what others look at. A drain is asked for only when every stream has shown that it is open.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, until
from labserver.stage.wire.sse import SseFields, sse_blocks

TITLE = "Production"
OBJECT = "app"

INTERVAL = 1.0  # as in the exercise: seconds of silence before a heartbeat
AT_ONCE = 0.7 * INTERVAL  # seconds: less than a stream takes that looks after each wait
SHORTEST, LONGEST = 1000, 5000  # milliseconds
CLIENTS = 6
SILENT = 0.3  # seconds that a client waits for a first byte, before it takes for granted that it is listened to

HINTS = (
    "Give each stream a queue, and remember it in `listeners` with its channels. Wait for it by "
    "`asyncio.wait_for(queue.get(), INTERVAL)`: a time-out is the moment for a heartbeat.",
    "How does a stream that waits for its queue hear of the drain, without looking at anything? What comes out of a "
    "queue does not have to be a text. And what does a stream have to look at once, when it begins?",
    "`POST /drain` sets `app.state.draining` and puts `None` into every queue; a stream that begins while it is set "
    "puts one into its own. On `None`, yield `event('drain', '...', random.randint(1000, 5000))` and return. "
    "`open_streams.inc()` before the `try`, `open_streams.dec()` in its `finally`.",
)

_SEE = "notebooks/14_production.ipynb#"
ONE = _SEE + "Mend-it:-one-stream,-many-names"
LIMITS = _SEE + "Who-hangs-up,-and-when"
GOODBYE = _SEE + "Mend-it:-hear-the-signal-first"
LIES = _SEE + "Break-it:-a-health-check-that-lies"
NUMBERS = _SEE + "Numbers-to-look-at"

MISCONCEPTIONS = {
    "everything_to_everyone": Misconception.of(
        "You look at a part of the names only. A stream is for every channel that was asked for, and for no other.",
        {"channels"},
        ONE,
    ),
    "no_heartbeat": Misconception.of(
        "You wait for a text, however long it takes. In the silence nothing is sent, and the first proxy with an idle "
        "limit hangs up.",
        {"heartbeat"},
        LIMITS,
    ),
    "looks_at_a_flag": Misconception.of(
        "Your streams look whether the server drains when their wait is over. A quiet stream hears of it one heartbeat "
        "late, which in the world outside is after 20 seconds: wake it up.",
        {"goodbye"},
        GOODBYE,
    ),
    "ends_without_a_word": Misconception.of(
        "You end the stream and say nothing. Every client takes that for a cut, and all come back after the same three "
        "seconds.",
        {"goodbye", "jitter", "latecomers"},
        GOODBYE,
    ),
    "says_goodbye_and_stays": Misconception.of(
        "You say goodbye and leave the stream open. The server waits for its open streams, and the client for events.",
        {"end"},
        GOODBYE,
    ),
    "the_same_for_all": Misconception.of(
        "Your goodbyes name a time that is the same for all, or none that a browser understands: `retry:` is in "
        "milliseconds, and a server's clients should not come back as one.",
        {"jitter"},
        GOODBYE,
    ),
    "refuses_latecomers": Misconception.of(
        "Who opens a stream while the server drains is refused, or is not told. After a 503 an EventSource never comes "
        "back; without a word it waits until it is cut.",
        {"latecomers"},
        GOODBYE,
    ),
    "ready_while_it_lives": Misconception.of(
        "You take ready for alive. While a server drains it lives, and no balancer should send it clients.",
        {"ready"},
        LIES,
    ),
    "counts_behind_the_loop": Misconception.of(
        "You count a stream down where your loop ends. A client that leaves ends the stream at its `yield` or in its "
        "wait: only `finally` is passed by all.",
        {"metrics"},
        NUMBERS,
    ),
}


class Listener:
    """One client of the feed: what it was sent so far."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._body = b""
        self._came = asyncio.Event()
        self.ended = False
        self.events: list[SseFields] = []
        self.comments = 0

    @property
    def goodbye(self) -> SseFields | None:
        """The event `drain`, when it is here."""
        return next((event for event in self.events if event.name == "drain"), None)

    @property
    def retries(self) -> list[str]:
        """The reconnection times that came with or after the goodbye, in the order in which they came."""
        text = self._body.decode(errors="replace")
        return re.findall(r"^retry: ?(.*?)\r?$", text[max(text.find("drain") - 40, 0) :], re.MULTILINE)

    async def run(self) -> None:
        """Read until the stream ends; take the body apart as it comes (WHATWG HTML, 9.2.6)."""
        with contextlib.suppress(httpx.HTTPError):
            async for piece in self._response.aiter_bytes():
                self._body += piece
                blocks = [block for block in sse_blocks(self._body) if block.whole]
                self.events = [block.fields for block in blocks if block.comment is None and block.fields.data]
                self.comments = sum(block.comment is not None for block in blocks)
                self._came.set()
        self.ended = True
        self._came.set()

    async def until(self, condition: Callable[[], bool], seconds: float = WAIT) -> bool:
        """Wait until a condition holds; False when it does not in time, or the stream has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and not self.ended:
                    self._came.clear()
                    await self._came.wait()
        return condition()

    async def comment(self, seconds: float) -> bool:
        """Wait until one more comment is here."""
        before = self.comments
        return await self.until(lambda: self.comments > before, seconds)

    async def told(self, seconds: float = WAIT) -> bool:
        """Wait for the goodbye."""
        return await self.until(lambda: self.goodbye is not None, seconds)


@points(10, hint="Which names does a client of several channels wait for?")
async def check_channels(answer: AnswerUnderTest) -> None:
    """One stream carries all channels that a client asked for, and no other; an event's name is its channel."""
    names = words(answer, 4)
    texts = words(answer, 4)
    async with at_work(answer), listening(answer, *names[:3]) as client:
        for name, text in zip((names[3], *names[:3]), texts, strict=True):
            await post(answer, name, text)
        await client.until(lambda: len(heard(client, names)) >= 3)
        if heard(client, names) != list(zip(names[:3], texts[1:], strict=True)):
            seen = ", ".join(f"{name}: {text}" for name, text in heard(client, names)) or "no event of a channel"
            expected = ", ".join(f"{name}: {text}" for name, text in zip(names[:3], texts[1:], strict=True))
            raise Failed(seen, f"{expected}, and nothing of {names[3]}")


@points(15, hint="What does your stream do while it waits for a text?")
async def check_heartbeat(answer: AnswerUnderTest) -> None:
    """In the silence a comment is sent at least every INTERVAL seconds."""
    async with at_work(answer), listening(answer, *words(answer, 1)) as client:
        for _ in range(2):
            if not await client.comment(2.5 * INTERVAL):
                seen = "the end of the stream" if client.ended else f"{2.5 * INTERVAL:g} s without a comment"
                raise Failed(seen, f"a comment after {INTERVAL:g} s, and another one after as many")


@points(20, hint="What wakes up a stream that waits: the drain, or a clock?")
async def check_goodbye(answer: AnswerUnderTest) -> None:
    """At a drain, every open stream gets an event `drain` at once, however quiet it is."""
    async with at_work(answer), several(answer, 3) as clients:
        await clients[0].comment(1.5 * INTERVAL)  # the next heartbeat is far away
        await drain(answer)
        told = await asyncio.gather(*(client.told(AT_ONCE) for client in clients))
        if not all(told):
            seen = f"{told.count(True)} of {len(told)} streams had one within {AT_ONCE:g} s"
            raise Failed(seen, "an event named drain, with data, on every open stream at once")


@points(10, hint="What happens behind your last yield?")
async def check_end(answer: AnswerUnderTest) -> None:
    """At a drain the streams end."""
    async with at_work(answer), several(answer, 2) as clients:
        await drain(answer)
        await asyncio.gather(*(client.until(lambda: False) for client in clients))
        ended = [client.ended for client in clients]
        if not all(ended):
            raise Failed(f"{ended.count(False)} of {len(ended)} streams are still open {WAIT:g} s later", "the end")


@points(15, hint="Does retry: have a unit, and when does a thousandth client come back?")
async def check_jitter(answer: AnswerUnderTest) -> None:
    """The goodbyes name times to come back of one to five seconds, and not all the same."""
    async with at_work(answer), several(answer, CLIENTS) as clients:
        await drain(answer)
        await asyncio.gather(*(client.told() for client in clients))
        await asyncio.gather(*(client.until(lambda: False, 0.1) for client in clients))
        named = [client.retries[-1] if client.retries else "" for client in clients]
        expected = f"retry: with milliseconds from {SHORTEST} to {LONGEST}, and not the same for all {CLIENTS} clients"
        for value in named:
            if not value.isdecimal() or not SHORTEST <= int(value) <= LONGEST:
                raise Failed(f"retry: {value}" if value else "a goodbye without retry:", expected)
        if len(set(named)) == 1:
            raise Failed(f"retry: {named[0]} for every one of them", expected)


@points(10, hint="What does a stream have to look at when it begins, and what does EventSource do after a 503?")
async def check_latecomers(answer: AnswerUnderTest) -> None:
    """Who opens a stream while the server drains gets the event `drain` at once."""
    async with at_work(answer):
        await drain(answer)
        async with listening(answer, *words(answer, 1)) as client:
            if not await client.told():
                seen = "the end of the stream" if client.ended else f"nothing of the kind within {WAIT:g} s"
                raise Failed(seen, "an event named drain for one who comes while the server drains")


@points(10, hint="Which of the two decides whether a process is killed, and which whether it gets clients?")
async def check_ready(answer: AnswerUnderTest) -> None:
    """`/readyz` is 503 while the server drains and 200 before and after; `/healthz` is 200 all the time."""
    async with at_work(answer):
        for when, ask, ready in (
            ("before", None, 200),
            ("while it drains", "POST", 503),
            ("after DELETE /drain", "DELETE", 200),
        ):
            if ask is not None:
                await request(answer, ask, "/drain")
            seen = [(await request(answer, "GET", path, None)).status_code for path in ("/readyz", "/healthz")]
            if seen != [ready, 200]:
                raise Failed(
                    f"{when}: /readyz answers {seen[0]}, /healthz {seen[1]}", f"{ready} from /readyz, 200 from /healthz"
                )


@points(10, hint="Which line of your stream is passed however it ends?")
async def check_metrics(answer: AnswerUnderTest) -> None:
    """`open_streams` counts the streams that are open, and those no more whose client has left."""
    async with at_work(answer):
        if not await settles(answer, 0):
            raise Failed(f"open_streams is {await opened(answer):g} after all clients have left", "0")
        async with several(answer, 3):
            if not await settles(answer, 3):
                raise Failed(f"open_streams is {await opened(answer):g} with three clients", "3")
        if not await settles(answer, 0):
            raise Failed(f"open_streams is {await opened(answer):g} after three clients have left", "0")


def words(answer: AnswerUnderTest, count: int) -> list[str]:
    """Words that no other part of this run has."""
    return [f"{word:x}" for word in answer.random.sample(range(0xA0000, 0xFFFFF), count)]


def heard(client: Listener, names: list[str]) -> list[tuple[str, str]]:
    """Name and text of the events that have a channel's name."""
    return [(event.name, event.text) for event in client.events if event.name in names]


def web() -> httpx.AsyncClient:
    """Plain HTTP on this machine; loading certificates would take longer than a request."""
    return httpx.AsyncClient(timeout=2 * WAIT, trust_env=False, verify=False)


async def request(
    answer: AnswerUnderTest, method: str, path: str, expected: str | None = "a 2xx", *, taped: bool = True
) -> httpx.Response:
    """Ask for something; `expected` says what is wanted of it, None is any answer.

    Raises:
        Failed: if there is no answer, or it is no 2xx.
    """
    try:
        async with web() as client:
            response = await client.request(method, (answer.url if taped else answer.direct_url) + path)
    except httpx.HTTPError as error:
        raise Failed(f"{method} {path} failed ({type(error).__name__})", expected or "an answer") from None
    if expected is not None and not response.is_success:
        raise Failed(f"{method} {path} answered {response.status_code}", expected)
    return response


async def drain(answer: AnswerUnderTest) -> None:
    await request(answer, "POST", "/drain")


async def post(answer: AnswerUnderTest, channel: str, text: str) -> None:
    """Post a text; its endpoint is given."""
    try:
        async with web() as client:
            response = await client.post(f"{answer.url}/news/{channel}", json={"text": text})
    except httpx.HTTPError as error:
        raise Failed(f"POST /news/{channel} failed ({type(error).__name__})", "a 2xx") from None
    if not response.is_success:
        raise Failed(f"POST /news/{channel} answered {response.status_code}", "a 2xx")


async def opened(answer: AnswerUnderTest) -> float:
    """Return what /metrics says of open streams."""
    text = (await request(answer, "GET", "/metrics", "the metrics", taped=False)).text
    found = re.search(r"^open_streams (\S+)$", text, re.MULTILINE)
    if found is None:
        raise Failed("no line open_streams in /metrics", "the gauge that is given")
    return float(found[1])


async def settles(answer: AnswerUnderTest, wanted: int) -> bool:
    """Wait until so many streams are counted."""

    async def counted() -> bool:
        return await opened(answer) == wanted

    return await until(counted)


@asynccontextmanager
async def at_work(answer: AnswerUnderTest) -> AsyncIterator[None]:
    """A server that does not drain: take back what was begun, before and after."""
    await request(answer, "DELETE", "/drain", None, taped=False)
    try:
        yield
    finally:
        await request(answer, "DELETE", "/drain", None, taped=False)


@asynccontextmanager
async def several(answer: AnswerUnderTest, count: int) -> AsyncIterator[list[Listener]]:
    """So many clients, each with a channel of its own, all of them heard."""
    async with AsyncExitStack() as stack:
        names = words(answer, count)
        yield [await stack.enter_async_context(listening(answer, name)) for name in names]


@asynccontextmanager
async def listening(answer: AnswerUnderTest, *channels: str) -> AsyncIterator[Listener]:
    """Listen as a browser does, from the first byte on, or soon.

    Raises:
        Failed: if there is no stream.
    """
    path = f"/news?channels={','.join(channels)}"
    expected = f"a stream from GET {path}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(web())
        try:
            response = await stack.enter_async_context(client.stream("GET", answer.url + path))
        except httpx.TimeoutException:
            raise Failed(f"no answer within {2 * WAIT:g} s", expected) from None
        except httpx.HTTPError as error:
            raise Failed(f"no answer ({type(error).__name__})", expected) from None
        if response.status_code != 200:
            raise Failed(f"{response.status_code} {response.reason_phrase}", expected)
        listener = Listener(response)
        reading = asyncio.create_task(listener.run())
        try:
            await listener.until(lambda: bool(listener.events or listener.comments), SILENT)
            yield listener
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
