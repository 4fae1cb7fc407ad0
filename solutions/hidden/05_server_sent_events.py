"""Hidden checks of exercise 05: the other markets, line breaks in another order, and a feed after one that broke."""

import asyncio

import httpx

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import WAIT, AnswerUnderTest

VISIBLE = checks_module("05_server_sent_events")

MISCONCEPTIONS = {
    "lisbon_only": Misconception.of(
        "You read the market of the example, whatever the path says. The other markets have prices of their own.",
        {"other_markets"},
        VISIBLE.FORMAT,
    ),
    "four_line_breaks": Misconception.of(
        "You take `\\n\\r` for one line break. The format has three, `\\r\\n`, `\\r` and `\\n`: this is two of them, "
        "with an empty line between.",
        {"three_line_breaks"},
        VISIBLE.SPLIT,
    ),
    "broken_for_all": Misconception.of(
        "You remember outside of the endpoint that a market broke. The next client's feed is whole, and is never told "
        "so: how a feed ended is a fact about that feed.",
        {"done_after_a_break"},
        VISIBLE.TELLS,
    ),
}


@guards("events_in_order", hint="Which market does your app read when the path names another one?")
async def check_other_markets(answer: AnswerUnderTest) -> None:
    """Each market sends its own prices."""
    for market, stock in (("nairobi", "ZEBU"), ("osaka", "KOI"), ("lisbon", "ACME")):
        note = VISIBLE.word(answer)
        expected = [("price", "1", f"{stock} 12.50"), ("note", "2", note), ("price", "3", f"{stock} 12.75")]
        seen = [(event.name, event.id, event.data) for event in await listen(answer, market, note)]
        if seen != expected:
            raise Failed(f"{market} sent {seen}", f"{expected}")


@guards("line_breaks", hint="How many line breaks are a line feed and then a carriage return?")
async def check_three_line_breaks(answer: AnswerUnderTest) -> None:
    """Line breaks in any order, and at the begin of a note, are the lines that the format makes of them."""
    a, b = VISIBLE.word(answer), VISIBLE.word(answer)
    notes = {
        f"{a}\n\r{b}": f"{a}\n\n{b}",
        f"\n{a}\r\r\n{b}": f"\n{a}\n\n{b}",
        f"\r\n\n{b}": f"\n\n{b}",
        f"{a}\n\n\n\n{b}\r": f"{a}\n\n\n\n{b}\n",
        "\r": "\n",
    }
    VISIBLE.expect_texts((await VISIBLE.listen(answer, list(notes))).lines, list(notes.values()))


@guards("done", hint="What does your app remember of a feed that broke, and for how long?")
async def check_done_after_a_break(answer: AnswerUnderTest) -> None:
    """A feed that is whole ends with `done`, also after and beside one that broke."""
    await VISIBLE.listen(answer, [], fail_after=1)
    async with asyncio.TaskGroup() as group:
        whole = group.create_task(VISIBLE.listen(answer, [VISIBLE.word(answer) for _ in range(4)]))
        group.create_task(VISIBLE.listen(answer, [], fail_after=1))
    feed = whole.result()
    if not feed.events or feed.events[-1].name != "done":
        raise Failed(feed.last, "an event done as the last one: another client's feed broke, and not this one")


async def listen(answer: AnswerUnderTest, market: str, note: str) -> list:
    """Read a market's feed; return its events without the last, which says how it ended.

    Raises:
        Failed: if there is none.
    """
    path = f"/prices/{market}"
    expected = f"a feed from GET {path}"
    try:
        async with (
            asyncio.timeout(2 * WAIT),
            VISIBLE.client() as http,
            http.stream("GET", answer.url + path, params={"note": note}) as response,
        ):
            if response.status_code != 200:
                raise Failed(f"GET {path} answered {response.status_code}", expected)
            return (await VISIBLE.read(response)).lines
    except (httpx.TimeoutException, TimeoutError):
        raise Failed(f"it went on, or stayed silent, for {2 * WAIT:g} s", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"no answer ({type(error).__name__})", expected) from None
