"""Checks of exercise 07: an export as NDJSON, in batches, by short loans of a connection, with an end that is told.

Each check sets up a ledger of its own through the given route: other ids, other words in it, another spoilt entry. It
judges one thing: lines that it does not ask about are left aside, so that one fault of an answer fails one check.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, until

TITLE = "NDJSON from a database"
OBJECT = "app"

HINTS = (
    "A place in the ledger is an id: the last one that you sent. Which lines of your loop read the next page, send it, "
    "and move on? And when does the loop end: there are two reasons.",
    "Keep the block `async with ledger.connect()` as short as the page: what stands in it while you `yield` stays lent "
    "for as long as the client does not read. Join a page's lines into one string, and yield that.",
    "`try:` around the whole loop; behind the loop, but inside, yield the line with `done` and the number you counted; "
    "in `except LedgerError:` yield the line with `error` and the last id that you sent.",
)

_SEE = "notebooks/07_ndjson.ipynb#"
LINES = _SEE + "A-line-is-a-value,-a-chunk-is-a-batch"
CHUNKS = _SEE + "How-many-rows-make-a-chunk"
HELD = _SEE + "Break-it:-a-session-held-for-the-stream"
SHORT = _SEE + "Mend-it:-short-sessions"
END = _SEE + "Break-it:-no-end-marker"
MARK = _SEE + "Mend-it:-a-last-line"

MISCONCEPTIONS = {
    "no_end_marker": Misconception.of(
        "Your stream stops when there is nothing more to send, and when an entry can't be read. The client sees the "
        "same in both cases: a body that ends.",
        {"last_line_is_done", "an_error_is_told"},
        END,
    ),
    "error_cuts_the_body": Misconception.of(
        "An entry that can't be read ends your generator by an exception. The 200 has left long ago, so the body is "
        "cut: the client can't tell that from a lost connection, nor where to go on.",
        {"an_error_is_told"},
        MARK,
    ),
    "connection_held": Misconception.of(
        "You borrow one connection for the whole stream. A client that does not read keeps it, and three of them keep "
        "everybody else out.",
        {"a_fourth_is_served"},
        HELD,
    ),
    "everything_first": Misconception.of(
        "You read all entries and send them afterwards. The first line waits for the last entry, and memory holds all "
        "of them for each client.",
        {"not_read_ahead"},
        CHUNKS,
    ),
    "row_by_row": Misconception.of(
        "You yield each line by itself. Every yield is a chunk with a way through all layers, which costs more than "
        "the line.",
        {"leaves_in_batches"},
        CHUNKS,
    ),
    "ids_counted": Misconception.of(
        "You go on after the number of entries that you sent. Ids have gaps, so they are not counted but taken from "
        "the last entry; yours come twice.",
        {"entries_are_lines", "last_line_is_done", "after_and_limit", "an_error_is_told"},
        SHORT,
    ),
    "bounds_forgotten": Misconception.of(
        "You take any number. A negative id or a limit of none is a mistake of whoever asks, and before the stream "
        "begins there is still a status to say so.",
        {"bad_numbers_are_422"},
        LINES,
    ),
    "json_media_type": Misconception.of(
        "You call your lines application/json. A body of many JSON values is none: a client that believes it waits for "
        "the end and then fails to read it.",
        {"entries_are_lines"},
        LINES,
    ),
}


@points(15, hint="What is the last id that you sent, and which media type do you name?")
async def check_entries_are_lines(answer: AnswerUnderTest) -> None:
    """`GET /export` gives each entry as a line of `application/x-ndjson`, in the order of their ids."""
    ledger = await set_up(answer)
    response = await ask(answer, f"limit={ledger.entries + 10}")
    kind = response.headers.get("content-type", "none")
    if kind.partition(";")[0].strip() != "application/x-ndjson":
        raise Failed(f"content type {kind}", "content type application/x-ndjson")
    compare(entries_of(response), ledger.after(0, ledger.entries))


@points(15, hint="What do you yield when the loop is over, and how many entries have you sent by then?")
async def check_last_line_is_done(answer: AnswerUnderTest) -> None:
    """The last line of a complete export is `{"done": true, "rows": n}`."""
    ledger = await set_up(answer)
    for limit in (ledger.entries + 10, answer.random.randrange(100, 300)):
        response = await ask(answer, f"limit={limit}")
        expected = {"done": True, "rows": min(limit, ledger.entries)}
        if (last := last_line(response)) != expected:
            raise Failed(f"the last line {json.dumps(last)}", f"the last line {json.dumps(expected)}")


@points(15, hint="What does `page` take as `after`, and how many entries are still wanted?")
async def check_after_and_limit(answer: AnswerUnderTest) -> None:
    """`?after=` and `?limit=` give up to `limit` entries with the next larger ids; by default the first 1000."""
    ledger = await set_up(answer)
    for limit in (1, answer.random.randrange(2, 90), answer.random.randrange(510, 700)):
        after = answer.random.randrange(1, ledger.entries * ledger.step // 3)
        compare(entries_of(await ask(answer, f"after={after}&limit={limit}")), ledger.after(after, limit))
    compare(entries_of(await ask(answer, "")), ledger.after(0, 1000))


@points(10, hint="Which numbers make no sense, and who says so before the response begins?")
async def check_bad_numbers_are_422(answer: AnswerUnderTest) -> None:
    """A negative `after`, or a `limit` that is not from 1 to 100,000, is answered by 422."""
    await set_up(answer)
    for query in (f"after=-{answer.random.randrange(1, 99)}", "limit=0", "limit=-5", "limit=100001", "limit=many"):
        async with client(answer.url) as http:
            status = (await get(http, f"/export?{query}")).status_code
        if status != 422:
            raise Failed(f"{status} for ?{query}", "422")


@points(15, hint="Who catches LedgerError, and what has the client got by then?")
async def check_an_error_is_told(answer: AnswerUnderTest) -> None:
    """When an entry can't be read, the last line is `{"error": ..., "after": id}` with the last id that was sent."""
    ledger = await set_up(answer, spoilt=True)
    expected = 'a last line with "error", and with the last id that was sent as "after"'
    response = await ask(answer, f"limit={ledger.entries}", expected)
    rows, last = entries_of(response), last_line(response)
    if not isinstance(last, dict) or not isinstance(last.get("error"), str) or not last["error"].strip():
        raise Failed(f"the last line {json.dumps(last)}", expected)
    if not rows or rows != ledger.after(0, len(rows)) or last.get("after") != rows[-1]["id"]:
        sent = rows[-1]["id"] if rows else "none"
        raise Failed(f"the last line {json.dumps(last)}, and {sent} as the last id that was sent", expected)


@points(10, hint="How many lines are in what you yield at once?")
async def check_leaves_in_batches(answer: AnswerUnderTest) -> None:
    """Many entries leave in batches: at least ten lines to a chunk, on average."""
    ledger = await set_up(answer)
    expected = f"at most {ledger.entries // 10} chunks for {ledger.entries} entries"
    chunks = await count_chunks(answer, f"/export?limit={ledger.entries}", expected)
    if chunks > ledger.entries // 10:
        raise Failed(f"{chunks} chunks for {ledger.entries} entries", expected)


@points(10, hint="What is lent while your generator stands at its `yield`?")
async def check_a_fourth_is_served(answer: AnswerUnderTest) -> None:
    """Three clients that don't read on keep nobody else out."""
    await set_up(answer, wide=True)
    expected = "an entry for a fourth client, while three others have stopped reading"
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(no_reader(answer))
        response = await ask(answer, "limit=1", expected)
    if response.status_code != 200 or not response.content.strip():
        raise Failed(f"{response.status_code} and {len(response.content)} bytes for the fourth client", expected)


@points(10, hint="How much of the ledger do you hold when the first line leaves?")
async def check_not_read_ahead(answer: AnswerUnderTest) -> None:
    """For a client that does not read on the ledger is not read much further."""
    ledger = await set_up(answer, wide=True)
    expected = f"less than half of {ledger.entries} entries read for a client that does not read on"
    async with no_reader(answer):
        seen = [-1]

        async def stands() -> bool:
            seen.append((await answer.get_json("/ledger", expected, taped=False))["read"])
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        await until(stands)
    if seen[-1] > ledger.entries // 2:
        raise Failed(f"{seen[-1]} of {ledger.entries} entries were read", expected)


class Ledger:
    """What a check put into the ledger."""

    def __init__(self, answer: AnswerUnderTest, *, spoilt: bool, wide: bool) -> None:
        random = answer.random
        self.entries = 30_000 if wide else random.randrange(1300, 1800)
        self.step = random.randrange(2, 9)
        self.bad = self.step * random.randrange(1010, 1290) if spoilt else 0  # behind the first two full pages
        self.memo = "x" * 2000 if wide else f'rent "{random.randrange(10**6)}",\n naïve \U0001f30a'

    def after(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return the entries that an export has to give."""
        first = after // self.step + 1
        ids = [number * self.step for number in range(first, min(first + limit, self.entries + 1))]
        return [{"id": id, "cents": id * 7 % 10_007, "memo": self.memo} for id in ids]


async def set_up(answer: AnswerUnderTest, *, spoilt: bool = False, wide: bool = False) -> Ledger:
    """Fill the ledger anew: spoilt, with an entry that can't be read; wide, so that buffers are full soon.

    Raises:
        Failed: if the given routes are gone.
    """
    ledger = Ledger(answer, spoilt=spoilt, wide=wide)
    async with client(answer.direct_url) as http:
        try:
            response = await http.post("/ledger", json=vars(ledger))
        except httpx.HTTPError as error:
            raise Failed(f"POST /ledger failed ({type(error).__name__})", "a ledger to set up") from None
    if response.status_code != 200:
        raise Failed(f"POST /ledger answered {response.status_code}", "the `app` of the given cell, and its /ledger")
    return ledger


def client(url: str) -> httpx.AsyncClient:
    """Return a client for plain HTTP, without the certificates that take longer to load than a request."""
    return httpx.AsyncClient(base_url=url, timeout=WAIT, trust_env=False, verify=False)


async def get(http: httpx.AsyncClient, path: str, expected: str = "a whole answer") -> httpx.Response:
    """GET and read the whole body.

    Raises:
        Failed: if it is cut, or does not come in time.
    """
    try:
        return await http.get(path)
    except httpx.TimeoutException:
        raise Failed(f"GET {path} did not go on for {WAIT:g} s", expected) from None
    except httpx.RemoteProtocolError:
        raise Failed(f"the body of GET {path} was cut", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"GET {path} failed ({type(error).__name__})", expected) from None


async def ask(answer: AnswerUnderTest, query: str, expected: str = "200 and lines of JSON") -> httpx.Response:
    """Ask for an export.

    Raises:
        Failed: if there is no whole answer, or it is not 200.
    """
    async with client(answer.url) as http:
        response = await get(http, f"/export?{query}", expected)
    if response.status_code != 200:
        raise Failed(f"{response.status_code} for GET /export?{query}", expected)
    return response


def values_of(response: httpx.Response) -> list[Any]:
    """Return what the lines hold.

    Raises:
        Failed: if a line is not JSON.
    """
    values = []
    for number, line in enumerate(response.text.removesuffix("\n").split("\n"), start=1):
        try:
            values.append(json.loads(line))
        except ValueError:
            raise Failed(f"line {number} is {line[:60]!r}", "a JSON value in each line") from None
    return values


def entries_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the lines that hold an entry."""
    return [value for value in values_of(response) if isinstance(value, dict) and "id" in value]


def last_line(response: httpx.Response) -> Any:
    """Return what the last line holds."""
    return values_of(response)[-1]


def compare(came: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Compare entries.

    Raises:
        Failed: with the first that differs.
    """
    for number, (one, other) in enumerate(zip(came, wanted, strict=False), start=1):
        if one != other:
            raise Failed(f"entry {number} is {json.dumps(one)[:80]}", f"{json.dumps(other)[:80]}")
    if len(came) != len(wanted):
        raise Failed(f"{len(came)} entries", f"{len(wanted)} entries")


@asynccontextmanager
async def no_reader(answer: AnswerUnderTest) -> AsyncIterator[None]:
    """Ask for the whole ledger, read the first bytes, and nothing more until the block ends."""
    expected = "the first lines of a long export"
    async with client(answer.direct_url) as http, AsyncExitStack() as stack:
        try:
            response = await stack.enter_async_context(http.stream("GET", "/export?limit=100000"))
            body = response.aiter_raw()  # kept: it closes the connection when nobody has it any more
            await anext(body, b"")
        except httpx.HTTPError as error:
            raise Failed(f"no bytes came ({type(error).__name__})", expected) from None
        yield
        del body


async def count_chunks(answer: AnswerUnderTest, path: str, expected: str) -> int:
    """Return how many chunks with something in them the body has; one for a body without chunks.

    Raises:
        Failed: if the body does not end in time, or is cut.
    """
    address = urlsplit(answer.url)
    try:
        async with asyncio.timeout(2 * WAIT):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if b"transfer-encoding: chunked" not in head.lower():
                    return 1
                count = 0
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    await reader.readexactly(size + 2)
                    count += 1
                return count
            finally:
                writer.close()
    except TimeoutError:
        raise Failed(f"the body did not end within {2 * WAIT:g} s", expected) from None
    except (asyncio.IncompleteReadError, OSError, ValueError):
        raise Failed("the body was cut", expected) from None
