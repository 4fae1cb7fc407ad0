"""Checks of exercise 12: pages from a library that blocks, and news from a thread of another.

The archive is held by the checks: while no page comes, what else answers is a question of order and not of time. A hold
ends by itself, so that an answer that blocks its loop is not lost for the checks after it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, until

TITLE = "What blocks what"
OBJECT = "app"

HOLD = 3.0  # seconds for which no page comes, at most
STILL = 0.3  # seconds in which one more page would have begun to be read
MANY = 45  # clients: more than AnyIO has threads, and asyncio

HINTS = (
    "Which calls of the given cell may block, and for how long? One may take a while, and one may never return. The "
    "first belongs in a thread, the second in none.",
    "`anyio.to_thread.run_sync(call, argument, limiter=...)` runs a call in a thread and counts it by your limiter; "
    "make that once for the app. For the news make an `asyncio.Queue` for each client, and a callback that fills it.",
    "The callback runs in the wire's thread: `loop.call_soon_threadsafe(queue.put_nowait, text)`, with the loop from "
    "`asyncio.get_running_loop()`. Close the reader and unsubscribe in the `finally` of an async generator.",
)

_SEE = "notebooks/12_what_blocks_what.ipynb#"
WHERE = _SEE + "What-runs-where"
THREADS = _SEE + "Break-it:-forty-threads,-used-up"
OWN = _SEE + "Mend-it:-threads-of-their-own"
LEAVES = _SEE + "When-the-client-leaves"
SLEEP = _SEE + "Break-it:-sleep-in-an-async-generator"
GET = _SEE + "Break-it:-a-thread-for-each-client-that-listens"
QUEUE = _SEE + "Mend-it:-wait-on-the-loop,-not-in-a-thread"

MISCONCEPTIONS = {
    "async_before_def": Misconception.of(
        "You call the library inside an async generator. The word async moves nothing: the call runs on the loop, and "
        "until it returns nobody gets an answer.",
        {"the_loop_turns", "the_pool_is_free", "five_at_a_time", "readers_are_closed"},
        SLEEP,
    ),
    "sync_generator": Misconception.of(
        "You stream from a plain generator. It does not block the loop, but each client takes one of the forty threads "
        "that all `def` endpoints share; and when it leaves, nobody but the garbage collector closes it.",
        {"the_pool_is_free", "five_at_a_time", "readers_are_closed"},
        THREADS,
    ),
    "default_pool": Misconception.of(
        "You send the pages to the pool that everything else uses. Forty clients of a slow archive take all of it, "
        "and whoever needs a thread for a moment waits as long as they do.",
        {"the_pool_is_free", "five_at_a_time"},
        OWN,
    ),
    "limiter_for_each": Misconception.of(
        "You make a limiter inside the endpoint: one for each client, which never has to wait for anybody. A limit has "
        "to be shared by those whom it limits.",
        {"five_at_a_time"},
        OWN,
    ),
    "closed_at_the_end": Misconception.of(
        "You close the reader behind the loop. A client that leaves ends your generator at its `await` by an "
        "exception; what stands behind is not reached. `finally` is.",
        {"readers_are_closed"},
        LEAVES,
    ),
    "page_without_its_line": Misconception.of(
        "You yield what the library gives. A stream has no borders but those that you send: without a line break three "
        "pages are one line.",
        {"pages_are_lines"},
        WHERE,
    ),
    "get_in_a_thread": Misconception.of(
        "You wait for news with `queue.get` in a thread. When a client leaves its task is cancelled, and its thread is "
        "not: it waits for what nobody puts there any more. After some dozen clients no thread is left to wait in.",
        {"many_came_and_went"},
        GET,
    ),
    "still_subscribed": Misconception.of(
        "You subscribe, and never unsubscribe. The wire goes on calling for clients that have left, and each leaves a "
        "queue behind that grows.",
        {"listeners_unsubscribe"},
        QUEUE,
    ),
    "event_and_a_variable": Misconception.of(
        "You keep the newest text in a variable and wake the stream by an event. Two news that come at once wake it "
        "once, and the first one is overwritten: what must not be lost needs a queue.",
        {"news_arrive"},
        QUEUE,
    ),
}


@points(10, hint="What does `page` return, and what ends a line?")
async def check_pages_are_lines(answer: AnswerUnderTest) -> None:
    """`GET /stream/pages?count=n` streams the pages from 1 to n, each as a line."""
    for count in (1, answer.random.randrange(3, 9)):
        title = await set_up(answer)
        async with client(answer.url) as http:
            body = (await get(http, f"/stream/pages?count={count}")).text
        expected = "".join(f"{title} {number}\n" for number in range(1, count + 1))
        if body != expected:
            raise Failed(f"{body[:200]!r}", f"{expected[:200]!r}")


@points(20, hint="On which thread does `reader.page` run in your answer?")
async def check_the_loop_turns(answer: AnswerUnderTest) -> None:
    """While a page is being read, `GET /health` answers."""
    await set_up(answer, hold=HOLD)
    expected = "an answer of GET /health while a page is being read"
    async with streams(answer, 1):
        await count(answer, "reading", lambda number: number == 1, expected)
        await answer.get_json("/health", expected)
        await count(answer, "reading", lambda number: number == 1, expected)
        await release(answer)


@points(15, hint="Whose threads do your pages wait in, and who else needs one?")
async def check_the_pool_is_free(answer: AnswerUnderTest) -> None:
    """While 45 clients wait for pages, `GET /version`, a `def` endpoint, answers."""
    await set_up(answer, hold=HOLD)
    expected = f"an answer of GET /version while {MANY} clients wait for a page"
    async with streams(answer, MANY):
        await settled(answer, "reading", expected)
        asked = asyncio.create_task(answer.get_json("/version", expected))
        done, _ = await asyncio.wait([asked], timeout=HOLD / 2)
        await release(answer)
        with suppress(Failed):
            await asked
        if not done:
            raise Failed("no answer until a page came", expected)
    await asked


@points(15, hint="How many limiters does your app have, and who shares them?")
async def check_five_at_a_time(answer: AnswerUnderTest) -> None:
    """Of twelve clients five have a page read at a time, never more."""
    await set_up(answer, hold=HOLD)
    expected = "five pages being read at a time"
    async with streams(answer, 12, pages=2) as responses:
        await settled(answer, "reading", expected)
        await release(answer)
        async with deadline("the streams did not end", "twelve streams of two pages"):
            for response in responses:
                await response.aread()
    most = (await state(answer, expected))["most"]
    if most != 5:
        raise Failed(f"{most} pages were being read at a time", expected)


@points(10, hint="What runs in your generator when its client leaves?")
async def check_readers_are_closed(answer: AnswerUnderTest) -> None:
    """A client leaves while a page is read: when that page is read its reader is closed, without the collector."""
    await set_up(answer, hold=HOLD, collector=False)
    expected = "no reader more than before when its client has left and its page is read"
    before = (await state(answer, expected))["readers"]
    try:
        async with streams(answer, 3, pages=100):
            await count(answer, "reading", lambda number: number == 3, expected)
        await release(answer, collector=False)
        await count(answer, "readers", lambda number: number <= before, expected)
    finally:
        with suppress(Failed):
            await release(answer)


@points(10, hint="What happens in your answer when two news come before a client has read the first?")
async def check_news_arrive(answer: AnswerUnderTest) -> None:
    """Everyone who listens gets each news as a line, in order, also when several come at once."""
    await set_up(answer)
    async with streams(answer, 2, path="/stream/news") as responses:
        await count(answer, "listeners", lambda number: number >= 2, "two callbacks at the wire")
        texts = [f"news {answer.random.randrange(10**6)}" for _ in range(answer.random.randrange(4, 9))]
        await send(answer, texts)
        for response in responses:
            await expect_lines(response, texts)


@points(10, hint="Who calls `wire.unsubscribe`, and when?")
async def check_listeners_unsubscribe(answer: AnswerUnderTest) -> None:
    """When clients that listened leave, `wire.unsubscribe` is called for each."""
    await set_up(answer)
    before = (await state(answer, "the state of the archive"))["listeners"]
    expected = "no callback more than before when the clients have left"
    async with streams(answer, 4, path="/stream/news"):
        await count(answer, "listeners", lambda number: number >= before + 4, "a callback for each client")
    await count(answer, "listeners", lambda number: number <= before, expected)


@points(10, hint="What waits for the next news of a client that has left?")
async def check_many_came_and_went(answer: AnswerUnderTest) -> None:
    """When 45 clients have listened and left, one more hears the next news."""
    await set_up(answer)
    async with streams(answer, MANY, path="/stream/news"):
        await count(answer, "listeners", lambda number: number >= MANY, f"{MANY} callbacks at the wire")
    async with streams(answer, 1, path="/stream/news") as responses:
        await count(answer, "listeners", lambda number: number >= 1, "a callback for the last client")
        text = f"news {answer.random.randrange(10**6)}"
        await asyncio.sleep(STILL)
        await send(answer, [text])
        await expect_lines(responses[0], [text])


def client(url: str, timeout: float = WAIT) -> httpx.AsyncClient:
    """Return a client for plain HTTP, for any number of streams."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, verify=False, limits=limits)


@asynccontextmanager
async def deadline(seen: str, expected: str, seconds: float = WAIT + HOLD) -> AsyncIterator[None]:
    """Turn what takes too long, or is cut, into a failure."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, httpx.TimeoutException):
        raise Failed(f"{seen} within {seconds:g} s", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"{seen} ({type(error).__name__})", expected) from None


async def get(http: httpx.AsyncClient, path: str) -> httpx.Response:
    """GET a whole answer.

    Raises:
        Failed: if none comes, or its status is not 200.
    """
    async with deadline(f"GET {path} did not end", "a whole answer"):
        response = await http.get(path)
    if response.status_code != 200:
        raise Failed(f"{response.status_code} for GET {path}", "200")
    return response


@asynccontextmanager
async def streams(
    answer: AnswerUnderTest, number: int, *, pages: int = 1, path: str = "/stream/pages"
) -> AsyncIterator[list[httpx.Response]]:
    """Open streams at once; their clients leave at the end of the block. More than a dozen go past the tape."""
    query = f"?count={pages}" if path == "/stream/pages" else ""
    async with client(answer.url if number < 12 else answer.direct_url, WAIT + HOLD) as http:
        asked = [http.send(http.build_request("GET", path + query), stream=True) for _ in range(number)]
        async with deadline(f"GET {path} had no answer", f"{number} streams"):
            responses = await asyncio.gather(*asked)
        if any(response.status_code != 200 for response in responses):
            raise Failed(f"{responses[0].status_code} for GET {path}", "200")
        yield responses


async def post(answer: AnswerUnderTest, path: str, body: Any) -> None:
    """POST to a given route, which may have to wait for the end of a hold.

    Raises:
        Failed: if it does not answer.
    """
    waiting = deadline(f"POST {path} had no answer", "the given routes, and a loop that turns")
    async with client(answer.direct_url, WAIT + HOLD) as http, waiting:
        response = await http.post(path, json=body)
    if response.status_code != 200:
        raise Failed(f"POST {path} answered {response.status_code}", "the `app` of the given cell, with its routes")


async def set_up(answer: AnswerUnderTest, *, hold: float = 0, collector: bool = True) -> str:
    """Give the archive another title, and hold it; wait until nothing is left of the check before. Return the title."""
    await release(answer)
    await count(answer, "reading", lambda number: number == 0, "an archive at rest")
    title = f"p{answer.random.randrange(10**6)}"
    await post(answer, "/archive", {"title": title, "hold": hold, "collector": collector})
    return title


async def release(answer: AnswerUnderTest, *, collector: bool = True) -> None:
    """Let the archive go on."""
    await post(answer, "/archive", {"hold": 0, "collector": collector})


async def send(answer: AnswerUnderTest, texts: list[str]) -> None:
    """Have the wire call back with each text."""
    await post(answer, "/news", texts)


async def state(answer: AnswerUnderTest, expected: str) -> dict[str, int]:
    """Return the archive's counts."""
    found = await answer.get_json("/archive", expected, taped=False)
    if not isinstance(found, dict):
        raise Failed(f"GET /archive answered {found!r}", "the `app` of the given cell, with its routes")
    return found


async def count(answer: AnswerUnderTest, what: str, fits: Callable[[int], bool], expected: str) -> None:
    """Wait until one of the archive's counts fits.

    Raises:
        Failed: if it does not in time; says what it was.
    """
    seen = {what: -1}

    async def probe() -> bool:
        seen.update(await state(answer, expected))
        return fits(seen[what])

    if not await until(probe):
        raise Failed(f"{seen[what]} {_WORDS[what]}", expected)


async def settled(answer: AnswerUnderTest, what: str, expected: str) -> None:
    """Wait until one of the archive's counts has grown, and grows no more."""
    await count(answer, what, lambda number: number > 0, expected)
    seen: list[int] = []

    async def stands() -> bool:
        seen.append((await state(answer, expected))[what])
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    await until(stands)


_WORDS = {"reading": "pages being read", "readers": "readers open", "listeners": "callbacks at the wire"}


async def expect_lines(response: httpx.Response, texts: list[str]) -> None:
    """Read as many lines from a stream as there are texts.

    Raises:
        Failed: if others come, or too few in time.
    """
    lines: list[str] = []
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(WAIT):
            async for line in response.aiter_lines():
                lines.append(line)
                if len(lines) == len(texts):
                    break
    if lines != texts:
        raise Failed(f"the lines {lines}", f"the lines {texts}")
