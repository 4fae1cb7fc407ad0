"""Checks of exercise 06: a feed of ticks with a keepalive and ids, from which a client resumes while more are posted.

Values are drawn anew on each run and never twice, so that a value says which tick it is. Every check stands alone: ids,
silence, delay, loss, doubles and gaps are each looked at in one of them, and the others bear with what is wrong there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest
from labserver.stage.wire.sse import SseFields, sse_blocks

TITLE = "SSE keepalive and resume"
OBJECT = "app"

INTERVAL, KEEP = 0.5, 20  # as in the exercise: seconds of silence before a comment, ticks that the store keeps
RUSH, AFTERWARDS = 12, 6  # ticks posted while the store is read, and when it surely was: no more than it keeps
FIRST = 0.3  # seconds that a client waits for a first byte, before it takes for granted that it is listened to

HINTS = (
    "Give each client a queue of its own, and let `post` put every tick into all of them. In the stream, wait for the "
    "queue by `asyncio.wait_for(queue.get(), INTERVAL)`: a time-out is the moment for a comment.",
    "For a client that comes back, two things have to be joined: what `store.since(n)` returns, and what is posted "
    "meanwhile. Which of the two do you have to begin with, so that no moment is left out? What comes in both then?",
    "Put the queue into a set first, then await `store.since(n)`, send that, and remember the last number sent. From "
    "the queue, send only what has a higher number. A first tick that is not n + 1 means a gap. Discard the queue in "
    "`finally`.",
)

_SEE = "notebooks/06_sse_resume.ipynb#"
QUIET = _SEE + "A-feed-that-is-quiet-most-of-the-time"
SILENCE = _SEE + "Break-it:-silence"
COMMENT = _SEE + "Mend-it:-a-comment-in-the-silence"
DELAY = _SEE + "Break-it:-a-keepalive-that-delays-events"
TUNNEL = _SEE + "Break-it:-what-happened-in-the-tunnel"
LOG = _SEE + "Mend-it:-a-log,-and-where-to-go-on"
GAP = _SEE + "What-the-log-no-longer-has"

MISCONCEPTIONS = {
    "no_keepalive": Misconception.of(
        "You wait for the next tick, however long it takes. In the silence nothing is sent, and the first proxy with "
        "an idle limit hangs up.",
        {"keepalive"},
        SILENCE,
    ),
    "keepalive_delays_events": Misconception.of(
        "You look for a tick, send it or a comment, and then sleep. A tick that is posted meanwhile waits for the end "
        "of the sleep, and of four at once the last one waits for four.",
        {"at_once", "nothing_lost"},
        DELAY,
    ),
    "time_out_around_anext": Misconception.of(
        "Your time-out stands around the next step of a generator. The first one that runs out ends the generator, and "
        "with it the stream: put it around `queue.get()` alone.",
        {"keepalive", "at_once"},
        COMMENT,
    ),
    "no_ids": Misconception.of(
        "Your events have no id. A browser then has nothing to say when it comes back.",
        {"ids"},
        TUNNEL,
    ),
    "ignores_the_header": Misconception.of(
        "You treat everyone as a new client. Who comes back with Last-Event-ID misses what was posted meanwhile, and "
        "is not told.",
        {"resume", "gap", "nothing_lost"},
        TUNNEL,
    ),
    "repeats_the_last": Misconception.of(
        "You begin with the tick that the client named. It has that one: Last-Event-ID is what it saw last, so go on "
        "behind it.",
        {"resume"},
        LOG,
    ),
    "reads_before_it_listens": Misconception.of(
        "You read the store and listen afterwards. What is posted while its answer is on its way is in neither.",
        {"nothing_lost"},
        LOG,
    ),
    "sends_what_it_has_sent": Misconception.of(
        "You listen and then read the store, which is the right order. But a tick that was posted meanwhile is in "
        "both, and you send it twice: compare numbers.",
        {"nothing_twice"},
        LOG,
    ),
    "a_silent_gap": Misconception.of(
        "You send what is left, and nobody learns that something is missing before it.",
        {"gap"},
        GAP,
    ),
    "everyone_gets_the_past": Misconception.of(
        "You send the store's ticks to new clients too. A client without Last-Event-ID has missed nothing.",
        {"live"},
        QUIET,
    ),
    "one_queue_for_all": Misconception.of(
        "All your clients read from one queue, so each tick reaches one of them only. Each needs a queue of its own.",
        {"live", "ids"},
        QUIET,
    ),
}


class Listener:
    """One client of the feed: what it was sent so far, and when."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._body = b""
        self._came = asyncio.Event()
        self.ended = False
        self.events: list[SseFields] = []
        self.comments = 0

    @property
    def values(self) -> list[str]:
        """The data of the ticks: of events without a name."""
        return [event.text for event in self.events if event.name == "message"]

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

    async def ticks(self, count: int, seconds: float = 2 * WAIT) -> bool:
        """Wait until so many ticks are here."""
        return await self.until(lambda: len(self.values) >= count, seconds)

    async def tick(self, value: str) -> bool:
        """Wait until this tick is here."""
        return await self.until(lambda: value in self.values, 2 * WAIT)

    async def comment(self, seconds: float) -> bool:
        """Wait until one more comment is here."""
        before = self.comments
        return await self.until(lambda: self.comments > before, seconds)

    def told(self, seconds: float = WAIT) -> str:
        """What came, as words."""
        how = "the stream ended" if self.ended else f"within {seconds:g} s"
        return f"{', '.join(map(named, self.events)) or 'no event'} ({how})"


@points(15, hint="How many queues are there, and who gets what was posted before it came?")
async def check_live(answer: AnswerUnderTest) -> None:
    """Each client gets every tick that is posted from then on, and no older one."""
    await post(answer, *values(answer, 2))
    new = values(answer, 3)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(listening(answer)) for _ in range(3)]
        await post(answer, *new)
        for client in clients:
            await client.ticks(3)
            if client.values != new:
                raise Failed(client.told(2 * WAIT), f"the ticks posted since, {words(new)}, for each of three clients")


@points(10, hint="Which line of an event does a browser remember?")
async def check_ids(answer: AnswerUnderTest) -> None:
    """Each event has the tick's number as its id, whoever listens."""
    new = values(answer, 4)
    async with listening(answer) as first:
        numbers = await post(answer, *new[:2])
        async with listening(answer) as second:
            numbers += await post(answer, *new[2:])
            await first.tick(new[3])
            await second.tick(new[3])
    expected = dict(zip(new, map(str, numbers), strict=True))
    for client, posted in ((first, new), (second, new[2:])):
        ids = {event.text: event.id for event in client.events}
        for value in posted:
            if ids.get(value) != expected[value]:
                seen = f"the id {ids[value]}" if value in ids else "no event"
                raise Failed(
                    f"{seen} for the tick {value}", f"the id {expected[value]}, as was answered to who posted it"
                )


@points(15, hint="What does your stream do while it waits for a tick?")
async def check_keepalive(answer: AnswerUnderTest) -> None:
    """In the silence a comment is sent at least every INTERVAL seconds."""
    async with listening(answer) as client:
        await post(answer, *values(answer, 1))
        await client.ticks(1)
        for _ in range(2):
            if not await client.comment(3 * INTERVAL):
                seen = "the end of the stream" if client.ended else f"{3 * INTERVAL:g} s without a comment"
                raise Failed(seen, f"a comment after {INTERVAL:g} s, and another one after as many")


@points(15, hint="What wakes up your stream, the tick or a clock?")
async def check_at_once(answer: AnswerUnderTest) -> None:
    """A tick that is posted into the silence leaves at once, and so do four in a row."""
    async with listening(answer) as client:
        await client.until(lambda: client.ended, 1.5 * INTERVAL)  # by then a keepalive has been due
        new = values(answer, 4)
        await post(answer, *new)
        if not await client.ticks(4, 2 * INTERVAL):
            raise Failed(client.told(2 * INTERVAL), f"four ticks in a row, {words(new)}, without a wait")


@points(15, hint="Does Last-Event-ID name the first tick that is missing, or the last that is there?")
async def check_resume(answer: AnswerUnderTest) -> None:
    """Who comes back gets the ticks after Last-Event-ID, and then those that are posted."""
    new = values(answer, 5)
    numbers = await post(answer, *new[:4])
    async with listening(answer, numbers[1]) as client:
        await client.ticks(2)
        await post(answer, new[4])
        await client.tick(new[4])
        if client.values != new[2:]:
            expected = f"{words(new[2:4])} from the store, then {new[4]}; {new[1]} was Last-Event-ID"
            raise Failed(client.told(2 * WAIT), expected)


@points(10, repeat=2, hint="From which moment on does your stream hear what is posted?")
async def check_nothing_lost(answer: AnswerUnderTest) -> None:
    """What is posted while the store is being read is not lost."""
    new, client = await come_back_in_the_rush(answer)
    missing = [value for value in new if value not in client.values]
    if missing:
        raise Failed(f"{words(missing)} never came", f"all of {words(new)}")


@points(10, repeat=2, hint="What is in the store's answer and in the queue as well?")
async def check_nothing_twice(answer: AnswerUnderTest) -> None:
    """What is posted while the store is being read does not come twice, and what comes is in order."""
    new, client = await come_back_in_the_rush(answer)
    came = [value for value in client.values if value in new]
    doubled = sorted({value for value in came if came.count(value) > 1}, key=new.index)
    if doubled:
        raise Failed(f"{words(doubled)} came twice", "each tick once")
    if came != sorted(came, key=new.index):
        raise Failed(f"the order {words(came)}", words(new))


@points(10, hint="How can you tell from the numbers that something is missing?")
async def check_gap(answer: AnswerUnderTest) -> None:
    """Who comes back too late is told by an event `gap`, and then gets what is still there; nobody else is."""
    new = values(answer, KEEP + 3)
    numbers = await post(answer, *new)
    kept = new[-KEEP:]
    for number, gap in ((numbers[0], True), (numbers[2], False), (numbers[-2], False)):
        async with listening(answer, number) as client:
            await client.tick(new[-1])
        seen = [event.name for event in client.events]
        first = f"the first event is {seen[0]}" if seen else "there is no event"
        if gap and (seen[:1] != ["gap"] or client.values[-KEEP:] != kept):
            expected = f"gap, then the {KEEP} ticks that are still there: the store begins with {numbers[3]}"
            raise Failed(f"back with {number}: {first}, with {len(client.values)} ticks", expected)
        if not gap and "gap" in seen:
            raise Failed(f"back with {number}: {first}", f"no gap: the store begins with {numbers[3]}")


async def come_back_in_the_rush(answer: AnswerUnderTest) -> tuple[list[str], Listener]:
    """Come back while ticks are posted all the time; return those posted since, and the client that heard them."""
    new = values(answer, 1 + RUSH + AFTERWARDS)
    number, _ = await post(answer, *values(answer, 1), new[0])

    async def rush() -> None:
        async with web() as posting:
            for value in new[1:-AFTERWARDS]:
                await put(answer, posting, value)
                await asyncio.sleep(0.016)  # the store takes 0.2 s

    rushing = asyncio.create_task(rush())
    try:
        async with listening(answer, number) as client:
            await rushing
            await post(answer, *new[-AFTERWARDS:])
            await client.tick(new[-1])
    finally:
        rushing.cancel()
    return new, client


def values(answer: AnswerUnderTest, count: int) -> list[str]:
    """Values that no other tick of this run has."""
    return [str(value) for value in answer.random.sample(range(10_000, 10_000_000), count)]


def words(found: list[str]) -> str:
    """At most six of them, in words."""
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")


def named(event: SseFields) -> str:
    """An event in a word or two."""
    return event.text[:20] if event.name == "message" else event.name


def web() -> httpx.AsyncClient:
    """Plain HTTP on this machine; loading certificates would take longer than a request."""
    return httpx.AsyncClient(timeout=2 * WAIT, trust_env=False, verify=False)


async def post(answer: AnswerUnderTest, *new: str) -> list[int]:
    """Post ticks, one after the other; return the numbers that were answered.

    Raises:
        Failed: if an answer is no 2xx with a number.
    """
    async with web() as posting:
        return [await put(answer, posting, value) for value in new]


async def put(answer: AnswerUnderTest, posting: httpx.AsyncClient, value: str) -> int:
    expected = 'POST /ticks is answered {"id": n}, a whole number'
    try:
        response = await posting.post(f"{answer.url}/ticks", json={"value": int(value)})
        number = response.json()["id"] if response.is_success else None
    except httpx.HTTPError as error:
        raise Failed(f"POST /ticks failed ({type(error).__name__})", expected) from None
    except (ValueError, KeyError, TypeError):
        raise Failed(f"POST /ticks answered {response.text[:60]!r}", expected) from None
    if type(number) is not int:
        raise Failed(f"POST /ticks answered {response.status_code} {response.text[:60]!r}", expected)
    return number


@asynccontextmanager
async def listening(answer: AnswerUnderTest, last: int | None = None) -> AsyncIterator[Listener]:
    """Listen as a browser does, from the first byte on, or soon.

    Raises:
        Failed: if there is no stream.
    """
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last is not None else {})
    expected = "a stream from GET /ticks" + (f" with Last-Event-ID: {last}" if last is not None else "")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(web())
        try:
            response = await stack.enter_async_context(client.stream("GET", f"{answer.url}/ticks", headers=headers))
        except httpx.TimeoutException:
            raise Failed(f"no answer within {2 * WAIT:g} s", expected) from None
        except httpx.HTTPError as error:
            raise Failed(f"no answer ({type(error).__name__})", expected) from None
        if response.status_code != 200:
            raise Failed(f"{response.status_code} {response.reason_phrase}", expected)
        listener = Listener(response)
        reading = asyncio.create_task(listener.run())
        try:
            await listener.until(lambda: bool(listener.events or listener.comments), FIRST)
            yield listener
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
