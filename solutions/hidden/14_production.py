"""Hidden checks of exercise 14: names within names, the same channels twice, and when a latecomer shall come back."""

import asyncio

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("14_production")

MISCONCEPTIONS = {
    "a_text_for_a_list": Misconception.of(
        "You keep the channels as the text in which they came. `in` then looks for a part of it: who listens to sports "
        "gets what is posted to port.",
        {"names_within_names"},
        VISIBLE.ONE,
    ),
    "one_queue_for_the_same": Misconception.of(
        "You keep queues by the channels that they are for. The second client that asks for the same takes the place "
        "of the first, and nobody says goodbye to that one.",
        {"the_same_channels_twice"},
        VISIBLE.GOODBYE,
    ),
    "no_time_for_latecomers": Misconception.of(
        "Your latecomers get a goodbye that names no time. They all come back after the browser's own three seconds, "
        "and those are who came at the same moment.",
        {"latecomers_get_a_time"},
        VISIBLE.GOODBYE,
    ),
}


@guards("channels", hint="What does `in` ask of a text, and what of a list?")
async def check_names_within_names(answer: AnswerUnderTest) -> None:
    """A channel whose name is a part of another one's is another channel."""
    start, middle, end = VISIBLE.words(answer, 3)
    longer = [f"{start}-{middle}", f"x{end}"]
    texts = VISIBLE.words(answer, 6)
    async with VISIBLE.at_work(answer), VISIBLE.listening(answer, *longer) as client:
        for name, text in zip((start, middle, end, middle[1:-1], *longer), texts, strict=True):
            await VISIBLE.post(answer, name, text)
        names = [start, middle, end, middle[1:-1], *longer]
        await client.until(lambda: len(VISIBLE.heard(client, longer)) >= 2)
        if VISIBLE.heard(client, names) != list(zip(longer, texts[4:], strict=True)):
            seen = ", ".join(f"{name}: {text}" for name, text in VISIBLE.heard(client, names)) or "no event"
            raise Failed(seen, f"{longer[0]}: {texts[4]}, {longer[1]}: {texts[5]}, and nothing of parts of the names")


@guards("goodbye", hint="How many streams can be for the same channels?")
async def check_the_same_channels_twice(answer: AnswerUnderTest) -> None:
    """At a drain each of several streams for the same channels gets the event `drain`."""
    names = VISIBLE.words(answer, 2)
    async with (
        VISIBLE.at_work(answer),
        VISIBLE.listening(answer, *names) as one,
        VISIBLE.listening(answer, *names) as two,
        VISIBLE.listening(answer, *names) as three,
    ):
        await VISIBLE.drain(answer)
        told = await asyncio.gather(*(client.told() for client in (one, two, three)))
    if not all(told):
        raise Failed(f"{told.count(True)} of 3 streams for the same channels had one", "an event named drain on each")


@guards("latecomers", hint="What does the same event have in it?")
async def check_latecomers_get_a_time(answer: AnswerUnderTest) -> None:
    """Who comes while the server drains gets the same event: with a time to come back that is not the same for all."""
    expected = f"retry: with milliseconds from {VISIBLE.SHORTEST} to {VISIBLE.LONGEST}, and not the same for all"
    async with VISIBLE.at_work(answer):
        await VISIBLE.drain(answer)
        async with VISIBLE.several(answer, VISIBLE.CLIENTS) as clients:
            await asyncio.gather(*(client.told() for client in clients))
            await asyncio.gather(*(client.until(lambda: False, 0.1) for client in clients))
            named = [client.retries[-1] if client.retries else "" for client in clients]
    for value in named:
        if not value.isdecimal() or not VISIBLE.SHORTEST <= int(value) <= VISIBLE.LONGEST:
            raise Failed(f"retry: {value}" if value else "a goodbye without retry:", expected)
    if len(set(named)) == 1:
        raise Failed(f"retry: {named[0]} for every one of {len(named)}", expected)
