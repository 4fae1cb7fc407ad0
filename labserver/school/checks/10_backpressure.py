"""Checks of exercise 10: a relay from a source that calls back to readers of any speed.

Each check sets up the source through the given route: other lines, another text, another place where it breaks. It
judges one thing: the last line is left aside where it is not asked about, so that one fault of an answer fails one
check. Clients that do not read go past the tape, which would read for them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, until

TITLE = "Backpressure"
OBJECT = "app"
WIDE = 1 << 14  # bytes of a line where buffers are to be filled
MANY = 1500  # lines of such a source: 25 MB, and the buffers on the way take some five

HINTS = (
    "`listen` does not return before the source is at its end, and a generator must yield meanwhile. So `listen` runs "
    "in a task of its own. What stands between the task and the generator, and how much has room in it?",
    "`asyncio.Queue(16)`: its `put` is a fine callback, because it returns when there is room. The task then puts how "
    "the source ended, and None; the generator yields until it gets None. Who catches SourceError?",
    "In the generator: `task = asyncio.create_task(...)`, then `try:` with the loop around `await queue.get()`, then "
    '`finally: task.cancel()`. And the response: `headers={"X-Accel-Buffering": "no"}`.',
)

_SEE = "notebooks/10_backpressure.ipynb#"
LINES = "notebooks/07_ndjson.ipynb#A-line-is-a-value,-a-chunk-is-a-batch"
PUMP = _SEE + "The-bounded-pump"
BUFFER = _SEE + "Break-it:-a-queue-ahead-of-the-yield"
LIMIT = _SEE + "Mend-it:-a-limit"
LEFT = _SEE + "Break-it:-the-pump-is-left-running"
PROXY = _SEE + "Mend-it:-X-Accel-Buffering:-no"
DROPPED = _SEE + "Break-it:-dropped-in-silence"

MISCONCEPTIONS = {
    "queue_without_a_limit": Misconception.of(
        "Your source never waits: it is done long before a slow client is, and what was not sent stays in memory. A "
        "queue without a limit takes the backpressure away that a generator has by itself.",
        {"source_waits"},
        BUFFER,
    ),
    "task_never_ended": Misconception.of(
        "When the client leaves, your generator ends and your task does not: it waits for room in a queue that nobody "
        "empties, and the source stays open.",
        {"source_is_left"},
        LEFT,
    ),
    "dropped_when_full": Misconception.of(
        "What finds your queue full is dropped, and nobody is told. This source can wait: let the callback return when "
        "there is room.",
        {"source_waits", "slow_reader_misses_nothing"},
        DROPPED,
    ),
    "task_dies_silently": Misconception.of(
        "SourceError ends your task, and nobody awaits it. The generator goes on to wait for a line that will never "
        "come, and so does the client.",
        {"an_error_is_told"},
        PUMP,
    ),
    "end_without_a_word": Misconception.of(
        "Your stream stops when the source is at its end, and when it breaks. The client sees the same in both cases: "
        "a body that ends.",
        {"last_line_is_done", "an_error_is_told"},
        PUMP,
    ),
    "everything_first": Misconception.of(
        "You collect all lines and send them afterwards. The first line waits for the last one, and memory holds all "
        "of them for each client.",
        {"lines_come_at_once", "source_waits"},
        LIMIT,
    ),
    "json_media_type": Misconception.of(
        "You call your lines application/json. A body of many JSON values is none: a client that believes it waits for "
        "the end and then fails to read it.",
        {"lines_come_in_order"},
        LINES,
    ),
    "header_forgotten": Misconception.of(
        "Nothing tells nginx that this is a stream. It takes all that the source has, onto its disk, and your limit "
        "limits nothing.",
        {"proxies_are_told"},
        PROXY,
    ),
}


@points(15, hint="What does the callback get, and in which form does the client want it?")
async def check_lines_come_in_order(answer: AnswerUnderTest) -> None:
    """`GET /relay` gives each line of the source as a line of `application/x-ndjson`, in order."""
    wanted = await set_up(answer, lines=answer.random.randrange(60, 400))
    response = await ask(answer)
    kind = response.headers.get("content-type", "none")
    if kind.partition(";")[0].strip() != "application/x-ndjson":
        raise Failed(f"content type {kind}", "content type application/x-ndjson")
    compare(lines_of(response.text), wanted)


@points(15, hint="What do you put into the queue when `listen` has returned?")
async def check_last_line_is_done(answer: AnswerUnderTest) -> None:
    """When the source has given its last line, the last line of the answer is `{"done": true}`."""
    for count in (answer.random.randrange(20, 90), 1, 0):
        await set_up(answer, lines=count)
        last = last_line((await ask(answer)).text)
        if last != {"done": True}:
            raise Failed(f"the last line {json.dumps(last)}", 'the last line {"done": true}')


@points(15, hint="Where does SourceError go that `listen` raises, and who waits for a line meanwhile?")
async def check_an_error_is_told(answer: AnswerUnderTest) -> None:
    """When the source breaks, the last line is `{"error": ...}`, after all lines before it."""
    bad = answer.random.randrange(30, 90)
    wanted = (await set_up(answer, lines=100, bad=bad))[: bad - 1]
    expected = f'{bad - 1} lines, and a last one with "error"'
    response = await ask(answer, expected)
    last = last_line(response.text)
    if not isinstance(last, dict) or not isinstance(last.get("error"), str) or not last["error"].strip():
        raise Failed(f"the last line {json.dumps(last)}", expected)
    compare(lines_of(response.text), wanted)


@points(10, hint="When does the first line leave: when it comes, or when the last one has come?")
async def check_lines_come_at_once(answer: AnswerUnderTest) -> None:
    """A line of a slow source leaves when it comes, and does not wait for the next ones."""
    wanted = await set_up(answer, lines=8, pause=0.1)
    expected = "the first line before the source has given the last"
    async with listening(answer.url, expected) as body:
        first = await read_line(body, expected)
        given = (await look(answer))["given"]
    if given >= len(wanted):
        raise Failed(f"{given} of {len(wanted)} lines given when the first one came", expected)
    compare(lines_of(first), wanted[:1])


@points(15, hint="What makes the callback wait while the client does not read?")
async def check_source_waits(answer: AnswerUnderTest) -> None:
    """For a client that does not read on, the source gives less than half of many lines."""
    await set_up(answer, lines=MANY, wide=True)
    expected = f"some of {MANY} lines, less than half, given to a client that does not read on"
    async with listening(answer.direct_url, expected):
        given = await at_rest(answer)
    if not 0 < given < MANY // 2:
        raise Failed(f"{given} of {MANY} lines were given", expected)


@points(10, hint="What becomes of a line that finds no room?")
async def check_slow_reader_misses_nothing(answer: AnswerUnderTest) -> None:
    """A client that does not read for a while and then reads on gets every line, in order."""
    wanted = await set_up(answer, lines=MANY, wide=True)
    expected = f"{MANY} lines, in order"
    async with listening(answer.direct_url, expected) as body:
        await at_rest(answer)
        try:
            async with asyncio.timeout(2 * WAIT):
                text = b"".join([piece async for piece in body]).decode()
        except TimeoutError:
            raise Failed(f"the body did not end within {2 * WAIT:g} s", expected) from None
        except httpx.HTTPError as error:
            raise Failed(f"the body was cut ({type(error).__name__})", expected) from None
    compare(lines_of(text), wanted)


@points(15, hint="Who ends your task when the client is gone?")
async def check_source_is_left(answer: AnswerUnderTest) -> None:
    """When a client leaves before the end, `listen` ends."""
    await set_up(answer, lines=MANY, wide=True)
    expected = "nobody listening to the source when the client is gone"
    before = (await look(answer))["listening"]
    for reads_on in (False, True):
        async with listening(answer.direct_url, expected) as body:
            if reads_on:
                await read_line(body, expected)
            else:
                await at_rest(answer)

        async def left() -> bool:
            return (await look(answer))["listening"] <= before

        if not await until(left):
            raise Failed(f"the source was still listened to {WAIT:g} s later", expected)


@points(5, hint="Which header do you send for nginx?")
async def check_proxies_are_told(answer: AnswerUnderTest) -> None:
    """The answer tells nginx not to buffer it."""
    await set_up(answer, lines=3)
    told = (await ask(answer)).headers.get("x-accel-buffering", "none")
    if told.strip().lower() != "no":
        raise Failed(f"X-Accel-Buffering: {told}", "X-Accel-Buffering: no")


async def set_up(
    answer: AnswerUnderTest, *, lines: int, bad: int = 0, pause: float = 0, wide: bool = False
) -> list[dict[str, Any]]:
    """Set the source up anew; return the lines that it would give if it did not break.

    Raises:
        Failed: if the given routes are gone.
    """
    word = f'tick "{answer.random.randrange(10**6)}",\n naïve \U0001f30a'
    text = word + "x" * WIDE if wide else word
    async with client(answer.direct_url) as http:
        try:
            setup = {"lines": lines, "bad": bad, "text": text, "pause": pause}
            response = await http.post("/source", json=setup)
        except httpx.HTTPError as error:
            raise Failed(f"POST /source failed ({type(error).__name__})", "a source to set up") from None
    if response.status_code != 200:
        raise Failed(f"POST /source answered {response.status_code}", "the `app` of the given cell, and its /source")
    return [{"n": number, "text": text} for number in range(1, lines + 1)]


async def look(answer: AnswerUnderTest) -> dict[str, int]:
    """Return what the source says of itself."""
    seen: dict[str, int] = await answer.get_json("/source", "the given route /source", taped=False)
    return seen


async def at_rest(answer: AnswerUnderTest) -> int:
    """Return how many lines were given, once that has not changed for a while, or all are; 0 if none is in time."""
    seen = [0]

    async def stands() -> bool:
        seen.append((await look(answer))["given"])
        return seen[-1] >= MANY or (seen[-1] > 0 and len(seen) > 12 and len(set(seen[-12:])) == 1)

    await until(stands, deadline=2 * WAIT)
    return seen[-1]


def client(url: str) -> httpx.AsyncClient:
    """Return a client for plain HTTP, without the certificates that take longer to load than a request."""
    return httpx.AsyncClient(base_url=url, timeout=WAIT, trust_env=False, verify=False)


async def ask(answer: AnswerUnderTest, expected: str = "200, and a body that ends") -> httpx.Response:
    """Ask for the relay and read all of it.

    Raises:
        Failed: if there is no whole answer, or it is not 200.
    """
    async with client(answer.url) as http:
        try:
            async with asyncio.timeout(2 * WAIT):
                response = await http.get("/relay")
        except (TimeoutError, httpx.TimeoutException):
            raise Failed(f"the body of GET /relay did not go on for {WAIT:g} s", expected) from None
        except httpx.HTTPError as error:
            raise Failed(f"GET /relay failed or was cut ({type(error).__name__})", expected) from None
    if response.status_code != 200:
        raise Failed(f"{response.status_code} for GET /relay", expected)
    return response


@asynccontextmanager
async def listening(url: str, expected: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """Ask for the relay, and read nothing of its body but what the block reads; leave at its end.

    Raises:
        Failed: if there is no answer, or it is not 200.
    """
    async with client(url) as http, AsyncExitStack() as stack:
        try:
            response = await stack.enter_async_context(http.stream("GET", "/relay"))
        except httpx.HTTPError as error:
            raise Failed(f"no answer came ({type(error).__name__})", expected) from None
        if response.status_code != 200:
            raise Failed(f"{response.status_code} for GET /relay", expected)
        yield response.aiter_raw()


async def read_line(body: AsyncIterator[bytes], expected: str) -> str:
    """Return the first line of a body.

    Raises:
        Failed: if none comes in time.
    """
    text = b""
    try:
        async with asyncio.timeout(WAIT):
            while b"\n" not in text:
                text += await anext(body)
    except (StopAsyncIteration, httpx.HTTPError):
        raise Failed("the body ended before its first line", expected) from None
    except TimeoutError:
        raise Failed(f"no line came within {WAIT:g} s", expected) from None
    return text.partition(b"\n")[0].decode()


def values_of(text: str) -> list[Any]:
    """Return what the lines hold.

    Raises:
        Failed: if a line is not JSON.
    """
    values = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            values.append(json.loads(line))
        except ValueError:
            raise Failed(f"line {number} is {line[:60]!r}", "a JSON value in each line") from None
    return values


def lines_of(text: str) -> list[dict[str, Any]]:
    """Return the lines that came from the source."""
    return [value for value in values_of(text) if isinstance(value, dict) and "n" in value] if text.strip() else []


def last_line(text: str) -> Any:
    """Return what the last line holds; nothing for an empty body."""
    return values_of(text)[-1] if text.strip() else None


def compare(came: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Compare lines.

    Raises:
        Failed: with the first that differs.
    """
    for number, (one, other) in enumerate(zip(came, wanted, strict=False), start=1):
        if one != other:
            raise Failed(f"line {number} is {json.dumps(one)[:60]}", f"{json.dumps(other)[:60]}")
    if len(came) != len(wanted):
        raise Failed(f"{len(came)} lines of the source", f"{len(wanted)} lines of the source")
