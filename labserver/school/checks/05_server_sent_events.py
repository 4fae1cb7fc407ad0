"""Checks of exercise 05: a feed of prices whose events no text can break, and which says how it ended.

Notes are drawn anew on each run. Every check stands alone: line breaks, names, headers and endings are each looked at
in one of them, and the others bear with whatever is wrong there.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest
from labserver.stage.wire.sse import sse_blocks

TITLE = "Server-Sent Events"
OBJECT = "app"

HINTS = (
    "Three things go wrong in most feeds: a note with a line break ends its own event, a source that breaks ends the "
    "body without a word, and an exception inside the generator comes after the 200. Which of them are yours?",
    "Write a function that makes one event: `id:`, `event:`, a `data:` line for each line of the text, a blank line. "
    "Split the text where the format does, and nowhere else: `re.split(r'\\r\\n|\\r|\\n', text)`.",
    "In the endpoint: `raise HTTPException(404, ...)` for an unknown market, then return a StreamingResponse with "
    "`media_type='text/event-stream'` and both headers. In its generator: `try:`, the loop, an event `done`; "
    "`except ConnectionError:`, an event `error`.",
)

_SEE = "notebooks/05_server_sent_events.ipynb#"
FORMAT = _SEE + "An-event-is-lines-and-a-blank-line"
FORMS = _SEE + "Three-ways-to-write-it"
LINES = _SEE + "Break-it:-text-with-line-breaks"
SPLIT = _SEE + "Mend-it:-a-data:-line-for-each-line"
HELD = _SEE + "Break-it:-compression-that-waits"
HEADERS = _SEE + "What-the-two-headers-do"
ENDS = _SEE + "Break-it:-half-a-feed-that-looks-whole"
TELLS = _SEE + "Mend-it:-the-last-event-says-how-it-ended"
LATE = _SEE + "Break-it:-a-refusal-that-comes-too-late"

MISCONCEPTIONS = {
    "raw_text": Misconception.of(
        "You put the text behind `data:` as it is. Its first line break ends the line: the rest is lost, and after a "
        "blank line it is an event of its own, with whatever name the note gives it.",
        {"line_breaks"},
        LINES,
    ),
    "splitlines": Misconception.of(
        "You split the text by `splitlines()`. It breaks at separators that are no line breaks here, gives no line at "
        "all for an empty text, and drops a line break at the end.",
        {"line_breaks", "any_text"},
        SPLIT,
    ),
    "tutorial_feed": Misconception.of(
        "You send a text as it came, and the body ends when the source does, or when it breaks. No client can tell one "
        "end from the other, and a line break in a note cuts its event.",
        {"line_breaks", "done", "error"},
        TELLS,
    ),
    "no_blank_line": Misconception.of(
        "Your events end with one line break. It is the blank line that dispatches an event: two line breaks in a row.",
        {"events_in_order", "line_breaks", "any_text", "one_by_one", "done", "error"},
        FORMAT,
    ),
    "names_missing": Misconception.of(
        "You send no `event:` line, so each event has the name `message`.", {"events_in_order"}, FORMAT
    ),
    "json_in_place_of_text": Misconception.of(
        "You send the text as JSON: with quotes around it, and a line break as two characters. That is a good format, "
        "but not the one that was asked for. In FastAPI `data=` does this, and `raw_data=` does not.",
        {"events_in_order", "line_breaks", "any_text"},
        FORMS,
    ),
    "no_media_type": Misconception.of(
        "Your answer does not say `text/event-stream`, or lacks the headers beside it. EventSource closes for good "
        "when the type is another one.",
        {"headers"},
        HEADERS,
    ),
    "collected_first": Misconception.of(
        "You collect the whole feed before you send it, or let something else collect it, such as a compressor. The "
        "first event then arrives with the last.",
        {"one_by_one"},
        HELD,
    ),
    "no_done": Misconception.of(
        "Your feed just ends. A client can't tell a closed market from a lost connection.", {"done"}, TELLS
    ),
    "failure_not_told": Misconception.of(
        "Your feed does not tell that its source broke: it goes on to `done`, ends, or is cut. Half a feed then looks "
        "like the whole.",
        {"error"},
        ENDS,
    ),
    "refused_in_the_stream": Misconception.of(
        "You refuse an unknown market inside the generator. By then the 200 is sent: whatever can be refused belongs "
        "before the response is made.",
        {"unknown_market"},
        LATE,
    ),
}


@dataclass(frozen=True, slots=True)
class Event:
    """An event that a browser would dispatch; `at` is the loop's time when it was whole."""

    name: str
    data: str
    id: str | None
    at: float

    def __str__(self) -> str:
        return f"{self.name} {self.data!r}"


@dataclass(frozen=True, slots=True)
class Feed:
    """What came, and whether the body ended as HTTP says it should."""

    headers: httpx.Headers
    events: list[Event]
    whole: bool

    @property
    def lines(self) -> list[Event]:
        """The events without a `done` or `error` at the end."""
        ends = bool(self.events) and self.events[-1].name in ("done", "error")
        return self.events[:-1] if ends else self.events

    @property
    def last(self) -> str:
        """The last event, in words."""
        return f"the last event is {self.events[-1]}" if self.events else "no event came"


@points(10, hint="Which lines does one event have, and what ends it?")
async def check_events_in_order(answer: AnswerUnderTest) -> None:
    """Each line is an event with its name, its id and its text, in their order."""
    notes = [word(answer) for _ in range(3)]
    expected = [("price", "1"), *(("note", str(number)) for number in (2, 3, 4)), ("price", "5")]
    lines = (await listen(answer, notes)).lines
    expect_texts(lines, notes)
    seen = [(event.name, event.id) for event in lines]
    if seen != expected:
        raise Failed(f"the names and ids are {seen}", f"{expected}")


@points(10, hint="What does StreamingResponse take beside the generator?")
async def check_headers(answer: AnswerUnderTest) -> None:
    """The headers say `text/event-stream`, `no-cache`, and that nginx is not to buffer."""
    headers = (await listen(answer, [])).headers
    kind = headers.get("content-type", "no Content-Type")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        raise Failed(f"Content-Type: {kind}", "Content-Type: text/event-stream")
    if "no-cache" not in headers.get("cache-control", ""):
        raise Failed(f"Cache-Control: {headers.get('cache-control', 'none')}", "Cache-Control: no-cache")
    if headers.get("x-accel-buffering", "").strip().lower() != "no":
        raise Failed(f"X-Accel-Buffering: {headers.get('x-accel-buffering', 'none')}", "X-Accel-Buffering: no")


@points(15, hint="What does a client make of a line that has no `data:` before it?")
async def check_line_breaks(answer: AnswerUnderTest) -> None:
    """A note with line breaks is one event, and a client reads the same lines."""
    a, b, c = (word(answer) for _ in range(3))
    notes = [f"{a}\n{b}", f"{a}\n\nevent: done\ndata: {b}", f"{a}\r\n{b}\r\n\r\n{c}", f"{a}\r{b}\r\r", f"{a}\n", "\n"]
    expect_texts(
        (await listen(answer, notes)).lines, [note.replace("\r\n", "\n").replace("\r", "\n") for note in notes]
    )


@points(10, hint="Which characters does your code look at, and which of them mean something in this format?")
async def check_any_text(answer: AnswerUnderTest) -> None:
    """A note of any other text arrives as it is, also an empty one."""
    a, b = word(answer), word(answer)
    notes = ["", f"  {a}", f"data: {a}", f": {b}", f"{a}\u2028{b}\x0b\x85{a}", f"naïve {a} 🌊 東京", f"{b} \t"]
    expect_texts((await listen(answer, notes)).lines, notes)


@points(15, hint="Is anything between the market and the client that waits for all lines?")
async def check_one_by_one(answer: AnswerUnderTest) -> None:
    """Each event leaves when its line is there."""
    lines = (await listen(answer, [word(answer) for _ in range(8)])).lines
    if len(lines) < 2:
        raise Failed(f"{len(lines)} events", "ten events, one after the other")
    if lines[-1].at - lines[0].at < 0.2:  # seconds; the market takes 0.45 from its first line to its last
        raise Failed("the first event arrived with the last", "the first event while the market is still talking")


@points(10, hint="What does your generator do when the market has nothing more to say?")
async def check_done(answer: AnswerUnderTest) -> None:
    """The last event of a complete feed is `done`."""
    feed = await listen(answer, [word(answer)])
    if not feed.events or feed.events[-1].name != "done":
        raise Failed(feed.last, "an event done, with some data, as the last one")


@points(15, hint="Which line of yours runs when `read_market` raises?")
async def check_error(answer: AnswerUnderTest) -> None:
    """When the market breaks, the events so far stand and the last one is `error`."""
    notes = [word(answer) for _ in range(4)]
    for after in (answer.random.randrange(2, 5), 0):
        feed = await listen(answer, notes, fail_after=after)
        expected = f"{after} lines, then an event error, with some data, as the last one"
        if not feed.whole:
            raise Failed("the body was cut", expected)
        if not feed.events or feed.events[-1].name != "error":
            raise Failed(feed.last, expected)
        if len(feed.lines) != after or any(event.name == "done" for event in feed.lines):
            raise Failed(f"{len(feed.lines)} events before it", expected)


@points(15, hint="When is the status sent: before your generator runs, or after?")
async def check_unknown_market(answer: AnswerUnderTest) -> None:
    """An unknown market is a 404, and no stream."""
    expected = "a 404 before any stream begins"
    try:
        async with client() as asking:
            response = await asking.get(f"{answer.url}/prices/{word(answer)}")
    except httpx.RemoteProtocolError:
        raise Failed("a status of success, and then a cut body", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"no answer ({type(error).__name__})", expected) from None
    if response.status_code != 404:
        raise Failed(f"{response.status_code} {response.reason_phrase}", expected)


def word(answer: AnswerUnderTest) -> str:
    """Some letters, other ones each time."""
    return "".join(answer.random.choices("abcdefghijklmnopqrstuvwxyz", k=6))


def expect_texts(lines: Sequence[Event], notes: Sequence[str]) -> None:
    """Compare the data of all events with what the market said."""
    texts = ["ACME 12.50", *notes, "ACME 12.75"]
    for number, (event, text) in enumerate(zip(lines, texts, strict=False), start=1):
        if event.data != text:
            raise Failed(f"event {number} has the data {event.data!r}", f"{text!r}")
    if len(lines) != len(texts):
        raise Failed(f"{len(lines)} events", f"{len(texts)}, one for each line of the market")


def client() -> httpx.AsyncClient:
    """Plain HTTP on this machine; loading certificates would take longer than a request."""
    return httpx.AsyncClient(timeout=WAIT, trust_env=False, verify=False)


async def listen(answer: AnswerUnderTest, notes: Sequence[str], fail_after: int | None = None) -> Feed:
    """Read a whole feed, as a browser does.

    Raises:
        Failed: if it is no 200, or does not end.
    """
    query = {"note": list(notes)} | ({"fail_after": [str(fail_after)]} if fail_after is not None else {})
    expected = "a feed from GET /prices/lisbon that ends with the market's last line"
    try:
        async with (
            asyncio.timeout(2 * WAIT),
            client() as asking,
            asking.stream("GET", f"{answer.url}/prices/lisbon", params=query) as response,
        ):
            if response.status_code != 200:
                raise Failed(f"GET /prices/lisbon answered {response.status_code}", expected)
            return await read(response)
    except (httpx.TimeoutException, TimeoutError):
        raise Failed(f"it went on, or stayed silent, for {2 * WAIT:g} s", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"no answer ({type(error).__name__})", expected) from None


async def read(response: httpx.Response) -> Feed:
    """Take the body apart as it comes."""
    body, whole = b"", True
    events: list[Event] = []
    clock = asyncio.get_running_loop().time
    try:
        async for piece in response.aiter_bytes():
            body += piece
            events += dispatched(body, clock())[len(events) :]
    except httpx.RemoteProtocolError:
        whole = False
    return Feed(response.headers, events, whole)


def dispatched(body: bytes, now: float) -> list[Event]:
    """Return the events that are whole (WHATWG HTML, 9.2.6)."""
    fields = [block.fields for block in sse_blocks(body) if block.whole and block.comment is None]
    return [Event(each.name, each.text, each.id, now) for each in fields if each.data]
