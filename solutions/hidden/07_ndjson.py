"""Hidden checks of exercise 07: an export of nothing, one beside another that stands, and the largest limit."""

import httpx

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("07_ndjson")
LONG = 10_000  # entries of 2 kB: more than the buffers on the way take

MISCONCEPTIONS = {
    "nothing_is_not_found": Misconception.of(
        "You answer 404 where no entry is left. The client has everything, and is told of a mistake: an export of "
        "nothing is a whole one, and its last line says so.",
        {"nothing_is_left"},
        VISIBLE.MARK,
    ),
    "one_place_for_all": Misconception.of(
        "You keep the place in the ledger outside of the endpoint. There it is one for all clients, and each export "
        "that begins moves those that run.",
        {"each_has_its_place"},
        VISIBLE.SHORT,
    ),
    "less_than_the_limit": Misconception.of(
        "You refuse the largest limit that is allowed: from 1 to 100,000 has both of them in it. It is `le=`, and not "
        "`lt=`.",
        {"bounds_are_included"},
        VISIBLE.LINES,
    ),
}


@guards("last_line_is_done", hint="What does your stream still say when the first page is an empty one?")
async def check_nothing_is_left(answer: AnswerUnderTest) -> None:
    """Where no entry is left, `{"done": true, "rows": 0}` is the only line."""
    ledger = await VISIBLE.set_up(answer)
    last = ledger.entries * ledger.step
    for after in (last, last + answer.random.randrange(1, 10**6)):
        query = f"after={after}&limit={answer.random.randrange(1, 900)}"
        expected = 'the line {"done": true, "rows": 0} alone'
        lines = VISIBLE.values_of(await VISIBLE.ask(answer, query, expected))
        if lines != [{"done": True, "rows": 0}]:
            raise Failed(f"the lines {lines[:2]}", expected)


@guards("after_and_limit", hint="Where do your numbers live, and how many clients move them?", deadline=20)
async def check_each_has_its_place(answer: AnswerUnderTest) -> None:
    """While one export waits for its client, others begin elsewhere, and each gets its own entries."""
    ledger = await VISIBLE.set_up(answer, wide=True)
    path, expected = f"/export?limit={LONG}", f"{LONG} entries, while others are asked for"
    async with VISIBLE.client(answer.direct_url) as http:
        try:
            async with http.stream("GET", path) as response:
                body = response.aiter_raw()
                text = [await anext(body, b"")]
                for _ in range(3):
                    after, limit = answer.random.randrange(10**4), answer.random.randrange(2, 40)
                    other = await VISIBLE.ask(answer, f"after={after}&limit={limit}")
                    VISIBLE.compare(VISIBLE.entries_of(other), ledger.after(after, limit))
                text += [piece async for piece in body]
        except httpx.HTTPError as error:
            raise Failed(f"GET {path} did not end well ({type(error).__name__})", expected) from None
    whole = httpx.Response(200, content=b"".join(text))
    VISIBLE.compare(VISIBLE.entries_of(whole), ledger.after(0, LONG))


@guards("bad_numbers_are_422", hint="Are the bounds themselves allowed?")
async def check_bounds_are_included(answer: AnswerUnderTest) -> None:
    """The smallest `after` and the smallest and largest `limit` that are allowed are answered by 200."""
    ledger = await VISIBLE.set_up(answer)
    for limit in (1, 100_000):
        response = await VISIBLE.ask(answer, f"after=0&limit={limit}")
        VISIBLE.compare(VISIBLE.entries_of(response), ledger.after(0, limit))
