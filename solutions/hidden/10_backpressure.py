"""Hidden checks of exercise 10: a client beside one that waits, one that leaves before another, and a second line."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import WAIT, AnswerUnderTest

VISIBLE = checks_module("10_backpressure")
SOME = 600  # lines of 16 kB: more than the buffers on the way take

MISCONCEPTIONS = {
    "one_after_the_other": Misconception.of(
        "You let one client listen at a time. The next one waits for the end of the first, which may not read at all. "
        "Each call of `listen` is a source of its own.",
        {"a_source_for_each"},
        VISIBLE.PUMP,
    ),
    "one_task_for_all": Misconception.of(
        "You keep the task in a name of the module. When the first of two clients leaves it cancels the task of the "
        "second, which waits for lines that nobody puts into its queue.",
        {"who_stays_reads_on"},
        VISIBLE.LEFT,
    ),
    "batches_after_the_first": Misconception.of(
        "Your first line leaves at once, and the others wait until there are enough for a batch. With a slow source "
        "they wait for each other.",
        {"no_line_waits"},
        VISIBLE.LIMIT,
    ),
}


@guards("slow_reader_misses_nothing", hint="What do two clients of yours have in common?", deadline=20)
async def check_a_source_for_each(answer: AnswerUnderTest) -> None:
    """While one client does not read, another one gets every line of its own; then the first gets all of its."""
    wanted = await VISIBLE.set_up(answer, lines=SOME, wide=True)
    expected = f"{len(wanted)} lines, in order, for a client that reads on when another one has come and gone"
    async with VISIBLE.listening(answer.direct_url, expected) as body:
        await VISIBLE.at_rest(answer)
        others = await VISIBLE.set_up(answer, lines=answer.random.randrange(30, 90))
        VISIBLE.compare(VISIBLE.lines_of((await VISIBLE.ask(answer)).text), others)
        text = await rest(body, expected)
    VISIBLE.compare(VISIBLE.lines_of(text), wanted)


@guards("source_is_left", hint="Whose task does the end of a stream end?", deadline=20)
async def check_who_stays_reads_on(answer: AnswerUnderTest) -> None:
    """When the first of two clients leaves, only its own `listen` ends: the second one gets every line."""
    wanted = await VISIBLE.set_up(answer, lines=SOME, wide=True)
    expected = f"{len(wanted)} lines, in order, for a client that reads on when another one has left"
    async with AsyncExitStack() as first:
        await first.enter_async_context(VISIBLE.listening(answer.direct_url, expected))
        async with VISIBLE.listening(answer.direct_url, expected) as body:
            await VISIBLE.at_rest(answer)
            await first.aclose()
            text = await rest(body, expected)
    VISIBLE.compare(VISIBLE.lines_of(text), wanted)


@guards("lines_come_at_once", hint="Do all lines go the way of the first?")
async def check_no_line_waits(answer: AnswerUnderTest) -> None:
    """Also the second line of a slow source leaves before the source has given the last."""
    wanted = await VISIBLE.set_up(answer, lines=6, pause=0.5)
    expected = "the second line before the source has given the last"
    text = b""
    async with VISIBLE.listening(answer.url, expected) as body:
        try:
            async with asyncio.timeout(WAIT):
                while text.count(b"\n") < 2:
                    text += await anext(body)
        except (TimeoutError, httpx.TimeoutException):
            raise Failed(f"no second line within {WAIT:g} s", expected) from None
        except (StopAsyncIteration, httpx.HTTPError):
            raise Failed("the body ended before its second line", expected) from None
        given = (await VISIBLE.look(answer))["given"]
    if given >= len(wanted):
        raise Failed(f"{given} of {len(wanted)} lines given when the second one came", expected)
    second = json.dumps(wanted[1])
    if VISIBLE.values_of(text.decode().rpartition("\n")[0])[1] != wanted[1]:
        raise Failed(f"another second line: {text.splitlines()[1][:60]!r}", second[:60])


async def rest(body: AsyncIterator[bytes], expected: str) -> str:
    """Read all that is left of a body.

    Raises:
        Failed: if it does not end in time, or is cut.
    """
    try:
        async with asyncio.timeout(3 * WAIT):
            return b"".join([piece async for piece in body]).decode()
    except (TimeoutError, httpx.TimeoutException):
        raise Failed("a body that does not go on", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"the body was cut ({type(error).__name__})", expected) from None
