"""Hidden checks of exercise 12: arms of clients that have left, news that are alike, and a listener who stays."""

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("12_what_blocks_what")

MISCONCEPTIONS = {
    "abandons_its_threads": Misconception.of(
        "You give up a thread when its client leaves, and its place is free. The thread still reads: an arm is busy "
        "until its page is there, whoever has asked for it.",
        {"who_left_still_reads"},
        VISIBLE.LEAVES,
    ),
    "the_same_is_not_sent_twice": Misconception.of(
        "You leave out a news with a text that was sent before. Two news may say the same, and each is one.",
        {"the_same_news_twice"},
        VISIBLE.QUEUE,
    ),
    "unsubscribes_everybody": Misconception.of(
        "When one client leaves you unsubscribe all callbacks. Those who stay hear nothing more: take off your own.",
        {"who_stays_hears_on"},
        VISIBLE.QUEUE,
    ),
}


@guards("five_at_a_time", hint="Who uses an arm when a client has left, and for how long?", deadline=20)
async def check_who_left_still_reads(answer: AnswerUnderTest) -> None:
    """Pages whose clients have left are still being read: with them there are never more than five."""
    await VISIBLE.set_up(answer, hold=VISIBLE.HOLD)
    expected = "five pages being read at a time, with those of clients that have left"
    async with VISIBLE.streams(answer, 5):
        await VISIBLE.count(answer, "reading", lambda number: number == 5, expected)
    async with VISIBLE.streams(answer, 5):
        await VISIBLE.settled(answer, "reading", expected)
        most = (await VISIBLE.state(answer, expected))["most"]
        await VISIBLE.release(answer)
    if most > 5:
        raise Failed(f"{most} pages were being read at a time", expected)


@guards("news_arrive", hint="When is a news another one?")
async def check_the_same_news_twice(answer: AnswerUnderTest) -> None:
    """News that say the same are sent as often as they come."""
    await VISIBLE.set_up(answer)
    one, other = (f"news {number}" for number in answer.random.sample(range(10**6), 2))
    texts = [one, one, other, one, other, other, one]
    async with VISIBLE.streams(answer, 2, path="/stream/news") as responses:
        await VISIBLE.count(answer, "listeners", lambda number: number >= 2, "two callbacks at the wire")
        await VISIBLE.send(answer, texts)
        for response in responses:
            await VISIBLE.expect_lines(response, texts)


@guards("listeners_unsubscribe", hint="Whose callback do you give to `wire.unsubscribe`?")
async def check_who_stays_hears_on(answer: AnswerUnderTest) -> None:
    """When some of those who listen leave, the others hear the next news."""
    await VISIBLE.set_up(answer)
    before = (await VISIBLE.state(answer, "the state of the archive"))["listeners"]
    texts = [f"news {answer.random.randrange(10**6)}" for _ in range(3)]
    async with VISIBLE.streams(answer, 1, path="/stream/news") as first:
        await VISIBLE.count(answer, "listeners", lambda number: number > before, "a callback for the first client")
        async with VISIBLE.streams(answer, 1, path="/stream/news") as last:
            async with VISIBLE.streams(answer, 2, path="/stream/news"):
                await VISIBLE.count(
                    answer, "listeners", lambda number: number >= before + 4, "a callback for each of four clients"
                )
            expected = "two callbacks fewer when two of four clients have left"
            await VISIBLE.count(answer, "listeners", lambda number: number <= before + 2, expected)
            await VISIBLE.send(answer, texts)
            for responses in (first, last):
                await VISIBLE.expect_lines(responses[0], texts)
