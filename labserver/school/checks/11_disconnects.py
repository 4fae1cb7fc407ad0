"""Checks of exercise 11: work that ends with its connection, and work that outlives it, judged by what goes on after.

Each check sets up a shop of its own: what is printed for an earlier client counts there and not here. A client that is
slow reads past the tape, since a tape would read for it.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, until

TITLE = "Disconnects"
OBJECT = "app"

HINTS = (
    "Two questions decide everything. Who closes the press when your generator is not asked for another page? And "
    "which of your tasks ends when a viewer leaves? Look for a `finally`, and for everything that is awaited.",
    "Let one generator own the press, by `try:` and `finally:`, and give the loop a turn after each page. Let the task "
    "that consumes it close it, by `async with aclosing(...)`. Start the job by `asyncio.create_task`; keep the task.",
    "The job's task appends each line to a list and sets an event that viewers wait for; then it takes a new event. A "
    "viewer sends what is in the list behind `after`, waits for the event, and looks again. DELETE cancels the task.",
)

_SEE = "notebooks/11_disconnects.ipynb#"
KINDS = _SEE + "Two-kinds-of-work"
SLOW = _SEE + "Break-it:-a-reader-who-is-slow,-and-leaves"
TIGHT = _SEE + "Break-it:-a-loop-that-never-awaits"
STATE = _SEE + "Break-it:-a-job-that-lives-in-a-request"
OWNED = _SEE + "Mend-it:-the-job-belongs-to-the-server"
BESIDE = _SEE + "Mend-it:-wait-beside-it"

MISCONCEPTIONS = {
    "left_to_the_collector": Misconception.of(
        "You have a `finally`, and trust that it runs. It does where the generator waits for a page. Where it stands "
        "at its `yield` before a full connection, FastAPI's own stream leaves it to the garbage collector.",
        {"slow_reader_leaves"},
        SLOW,
    ),
    "never_awaits": Misconception.of(
        "When a page takes no time, nothing in your loop waits. As soon as its reader has left, nothing holds it back "
        "any more, and nobody can tell it to stop.",
        {"nothing_for_nobody"},
        TIGHT,
    ),
    "no_finally": Misconception.of(
        "You close the press after the last page. A client that leaves ends your loop by an exception, so that line "
        "is never reached.",
        {"press_is_closed", "slow_reader_leaves"},
        KINDS,
    ),
    "closed_only_on_errors": Misconception.of(
        "You close the press when an exception ends your generator. One that comes to its last page gets none, and its "
        "press stays open. `finally` is for every end.",
        {"export_is_whole"},
        KINDS,
    ),
    "everything_first": Misconception.of(
        "You print all pages and send them afterwards: the first one waits for the last one, and who leaves early has "
        "them printed all the same.",
        {"stops_when_left", "press_is_closed", "nothing_for_nobody"},
        KINDS,
    ),
    "job_in_the_stream": Misconception.of(
        "You print a job in the stream that shows it. It does not begin before somebody watches, and each viewer has "
        "it printed anew.",
        {"job_goes_on", "viewers_come_back"},
        STATE,
    ),
    "viewer_ends_the_job": Misconception.of(
        "You await the job's task in the stream of a viewer. When that viewer leaves, its stream is cancelled, and so "
        "is what it awaits: the job of all others.",
        {"viewers_come_back"},
        BESIDE,
    ),
    "delete_only_forgets": Misconception.of(
        "You forget the job when somebody deletes it, and do not cancel its task: it goes on printing.",
        {"delete_ends_it"},
        OWNED,
    ),
}


@points(10, hint="When does a line leave, and when is the press closed?")
async def check_export_is_whole(answer: AnswerUnderTest) -> None:
    """`GET /export?pages=n` gives n pages as lines, and closes the press at the end."""
    text = await set_up(answer, pause=0.002)
    number = answer.random.randrange(8, 30)
    async with reading(answer.url, f"/export?pages={number}") as lines:
        compare([await next_line(lines) for _ in range(number)], text, 1)
        if (more := await anext(lines, None)) is not None:
            raise Failed(f"one more line: {more[:60]}", f"{number} lines")
    await expect_no_files(answer, "after a whole export")


@points(15, hint="Where does your code wait when the client leaves, and what is raised there?")
async def check_stops_when_left(answer: AnswerUnderTest) -> None:
    """When the client leaves in the middle, at most two more pages are printed."""
    await set_up(answer, pause=0.03)
    async with reading(answer.url, "/export?pages=200") as lines:
        for _ in range(answer.random.randrange(2, 6)):
            await next_line(lines)
        before = (await shop(answer))["printed"]
    await asyncio.sleep(0.3)  # ten pages' time
    after = (await shop(answer))["printed"]
    if after - before > 2 or before >= 200:
        raise Failed(f"{after - before} more pages, of 200 pages {after} in all", "two at most")


@points(15, hint="Which line closes the press when an exception ends your loop?")
async def check_press_is_closed(answer: AnswerUnderTest) -> None:
    """When the client leaves in the middle, the press is closed."""
    await set_up(answer, pause=0.5)  # long: the client leaves while a page is printed, and at no other moment
    async with reading(answer.url, "/export?pages=20") as lines:
        await next_line(lines)
        if not (await shop(answer))["files"]:
            raise Failed("no scratch file while pages are printed", "one press, open")
    await expect_no_files(answer, "after its client has left")


@points(15, hint="Who calls aclose() on a generator that stands at its yield?")
async def check_slow_reader_leaves(answer: AnswerUnderTest) -> None:
    """When a client that does not read leaves, the press is closed, though nobody collects garbage."""
    await set_up(answer, pause=0, text="x" * 200_000)
    async with reading(answer.direct_url, "/export?pages=200") as lines:
        await next_line(lines)
        await stands_still(answer)
    await expect_no_files(answer, "after a slow client has left")


@points(10, hint="What in your loop awaits when a page takes no time at all?")
async def check_nothing_for_nobody(answer: AnswerUnderTest) -> None:
    """When a client leaves, pages that take no time are not printed on and on."""
    await set_up(answer, pause=0, text="x" * 200_000)
    async with reading(answer.direct_url, "/export?pages=200") as lines:
        await next_line(lines)
        await stands_still(answer)
    await asyncio.sleep(0.1)
    printed = (await shop(answer))["printed"]
    if printed >= 200:
        raise Failed("all 200 pages were printed, most of them for nobody", "the few that fill the connection")


@points(10, hint="What starts the work: the order, or the first viewer?")
async def check_job_goes_on(answer: AnswerUnderTest) -> None:
    """A job is printed though nobody watches; its state says "running", then "done"."""
    await set_up(answer, pause=0.01)
    number = answer.random.randrange(20, 40)
    job = await begin(answer, number)
    await expect_state(answer, job, "running", at_once=True)
    await expect_state(answer, job, "done")
    if (printed := (await shop(answer))["printed"]) != number:
        raise Failed(f"{printed} pages were printed", f"{number}")
    await expect_no_files(answer, "after the job")


@points(15, hint="What of the job lives in the request, and what does a viewer's stream await?")
async def check_viewers_come_back(answer: AnswerUnderTest) -> None:
    """Viewers come and go; each gets the pages behind `after`, and every page is printed once."""
    text = await set_up(answer, pause=0.02)
    number, seen = answer.random.randrange(30, 40), answer.random.randrange(3, 9)
    job = await begin(answer, number)
    async with reading(answer.url, f"{job}/pages?after=0") as other:
        async with reading(answer.url, f"{job}/pages") as lines:
            compare([await next_line(lines) for _ in range(seen)], text, 1)
        await asyncio.sleep(0.05)
        async with reading(answer.url, f"{job}/pages?after={seen}") as lines:
            compare([await next_line(lines) async for _ in counted(number - seen)], text, seen + 1)
        compare([await next_line(other) async for _ in counted(number)], text, 1)
        if (more := await anext(other, None)) is not None:
            raise Failed(f"one more line: {more[:60]}", f"{number} lines")
    if (printed := (await shop(answer))["printed"]) != number:
        raise Failed(f"{printed} pages were printed", f"{number}, each once")


@points(10, hint="What has to be cancelled, and who holds it?")
async def check_delete_ends_it(answer: AnswerUnderTest) -> None:
    """`DELETE` ends a job: no more pages, the press closed, "cancelled", and its viewers' streams end."""
    await set_up(answer, pause=0.02)
    job = await begin(answer, 500)
    async with reading(answer.url, f"{job}/pages") as lines:
        await next_line(lines)
        await delete(answer, job)
        before = (await shop(answer))["printed"]
        await to_the_end(lines)
    await expect_state(answer, job, "cancelled")
    await expect_no_files(answer, "after DELETE")
    await asyncio.sleep(0.2)  # ten pages' time
    if (more := (await shop(answer))["printed"] - before) > 2:
        raise Failed(f"{more} more pages after DELETE", "two at most")


# --- what the checks share


def client(url: str) -> httpx.AsyncClient:
    """Return a client for plain HTTP, without the certificates that take longer to load than a request."""
    return httpx.AsyncClient(base_url=url, timeout=WAIT, trust_env=False, verify=False)


async def set_up(answer: AnswerUnderTest, *, pause: float, text: str = "") -> str:
    """Open a new shop; return what stands on its pages.

    Raises:
        Failed: if the given routes are gone.
    """
    text = text or f"{answer.random.choice(['rent', 'wages', 'postage'])} {answer.random.randrange(1000)}"
    async with client(answer.direct_url) as http:
        try:
            status = (await http.post("/shop", json={"pause": pause, "text": text})).status_code
        except httpx.HTTPError as error:
            raise Failed(f"POST /shop failed ({type(error).__name__})", "a shop to set up") from None
    if status != 200:
        raise Failed(f"POST /shop answered {status}", "the `app` of the given cell, and its /shop")
    return text


async def shop(answer: AnswerUnderTest) -> dict[str, int]:
    """Return how many pages were printed, and how many scratch files there are."""
    found: dict[str, int] = await answer.get_json("/shop", "how many pages were printed", taped=False)
    return found


@asynccontextmanager
async def reading(url: str, path: str) -> AsyncIterator[AsyncIterator[str]]:
    """Open a stream and yield its lines; at the end of the block its client leaves.

    Raises:
        Failed: if it does not begin, or is not 200.
    """
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client(url))
        try:
            response = await stack.enter_async_context(http.stream("GET", path))
        except httpx.TimeoutException:
            raise Failed(f"GET {path} did not begin within {WAIT:g} s", "a stream") from None
        except httpx.HTTPError as error:
            raise Failed(f"GET {path} failed ({type(error).__name__})", "a stream") from None
        if response.status_code != 200:
            raise Failed(f"{response.status_code} for GET {path}", "200 and lines of JSON")
        yield await stack.enter_async_context(aclosing(lines_of(response, path)))


async def lines_of(response: httpx.Response, path: str) -> AsyncGenerator[str]:
    """Yield the lines of a stream.

    Raises:
        Failed: if it is cut, or none comes in time.
    """
    try:
        async with aclosing(response.aiter_lines()) as lines:  # type: ignore[type-var]  # it is a generator
            async for line in lines:
                yield line
    except httpx.TimeoutException:
        raise Failed(f"no line from {path} within {WAIT:g} s", "each page as soon as it is printed") from None
    except httpx.HTTPError:
        raise Failed(f"the stream of {path} was cut", "lines, and then the end") from None


async def next_line(lines: AsyncIterator[str]) -> Any:
    """Return what the next line holds.

    Raises:
        Failed: if the stream ends, or the line is not JSON.
    """
    line = await anext(lines, None)
    if line is None:
        raise Failed("the end of the stream", "one more page")
    try:
        return json.loads(line)
    except ValueError:
        raise Failed(f"the line {line[:60]!r}", "a page as JSON") from None


async def counted(number: int) -> AsyncIterator[int]:
    """Count, for comprehensions that await."""
    for each in range(number):
        yield each


async def to_the_end(lines: AsyncIterator[str]) -> None:
    """Read what is left of a stream.

    Raises:
        Failed: if it goes on for too long.
    """
    try:
        async with asyncio.timeout(WAIT):
            async for _ in lines:
                pass
    except TimeoutError:
        raise Failed("the viewer's stream went on", "its end, since the job is over") from None


def compare(came: list[Any], text: str, first: int) -> None:
    """Compare pages with those from number `first` on.

    Raises:
        Failed: with the first that differs.
    """
    for number, page in enumerate(came, start=first):
        wanted = {"page": number, "text": text}
        if page != wanted:
            raise Failed(f"the line {json.dumps(page)[:80]}", json.dumps(wanted)[:80])


async def stands_still(answer: AnswerUnderTest) -> None:
    """Wait until no more pages are printed: the connection is full."""
    before = -1
    for _ in range(12):
        now = (await shop(answer))["printed"]
        if now == before:
            return
        before = now
        await asyncio.sleep(0.2)


async def expect_no_files(answer: AnswerUnderTest, when: str) -> None:
    """Wait until every press is closed.

    Raises:
        Failed: if a scratch file stays.
    """

    async def closed() -> bool:
        return not (await shop(answer))["files"]

    if not await until(closed):
        raise Failed(f"a scratch file {WAIT:g} s {when}", "none: the press is closed")


async def begin(answer: AnswerUnderTest, pages: int) -> str:
    """Order a job; return its path.

    Raises:
        Failed: if the answer is not 202, or takes as long as the job.
    """
    path = f"/jobs/{answer.random.randrange(10**9):09}"
    async with client(answer.url) as http:
        try:
            status = (await http.post(path, params={"pages": pages})).status_code
        except httpx.HTTPError as error:
            raise Failed(f"POST {path} failed ({type(error).__name__})", "202 at once") from None
    if status != 202:
        raise Failed(f"{status} for POST {path}", "202")
    return path


async def delete(answer: AnswerUnderTest, job: str) -> None:
    """Stop a job.

    Raises:
        Failed: if there is no answer in time, or it is none of success.
    """
    async with client(answer.url) as http:
        try:
            status = (await http.delete(job)).status_code
        except httpx.HTTPError as error:
            raise Failed(f"DELETE {job} failed ({type(error).__name__})", "200") from None
    if status >= 300:
        raise Failed(f"{status} for DELETE {job}", "200")


async def expect_state(answer: AnswerUnderTest, job: str, state: str, *, at_once: bool = False) -> None:
    """Wait until a job has a state.

    Raises:
        Failed: with the state that it has.
    """
    seen = None

    async def reached() -> bool:
        nonlocal seen
        seen = (await answer.get_json(job, f'"{state}" as its state', taped=False)).get("state")
        return bool(seen == state)

    if not await until(reached, deadline=0 if at_once else WAIT):
        raise Failed(f"the state {json.dumps(seen)}", f'"{state}"')
