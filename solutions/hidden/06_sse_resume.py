"""Hidden checks of exercise 06: values that are the same, a client that missed nothing, and a gap of one tick."""

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import WAIT, AnswerUnderTest

VISIBLE = checks_module("06_sse_resume")

MISCONCEPTIONS = {
    "only_what_changes": Misconception.of(
        "You send a tick when its value is another one. That it was measured again is news too: what tells two ticks "
        "apart is the number.",
        {"equal_values"},
        VISIBLE.QUIET,
    ),
    "something_is_always_missed": Misconception.of(
        "You take the last of what the store returned. Where a client has missed nothing there is none: IndexError, "
        "and the stream ends as often as the client comes back.",
        {"nothing_missed"},
        VISIBLE.LOG,
    ),
    "one_is_no_gap": Misconception.of(
        "You are one off: when the first tick that is left is n + 2, the tick n + 1 is gone. That is a gap too.",
        {"one_is_a_gap"},
        VISIBLE.GAP,
    ),
}


@guards("live", hint="How does your code tell one tick from another?")
async def check_equal_values(answer: AnswerUnderTest) -> None:
    """Every tick comes, also when its value is that of the one before, and when it is 0."""
    value, other = VISIBLE.values(answer, 2)
    new = [value, value, "0", "0", other, value]
    async with VISIBLE.listening(answer) as first, VISIBLE.listening(answer) as second:
        await VISIBLE.post(answer, *new)
        for client in (first, second):
            await client.ticks(len(new))
            if client.values != new:
                raise Failed(client.told(2 * WAIT), f"the ticks {VISIBLE.words(new)}, for each of two clients")


@guards("resume", hint="What does the store return for a client that has missed nothing?")
async def check_nothing_missed(answer: AnswerUnderTest) -> None:
    """Who comes back with the newest number gets what is posted from then on, and nothing else."""
    new = VISIBLE.values(answer, 4)
    last = (await VISIBLE.post(answer, *new[:2]))[-1]
    async with VISIBLE.listening(answer, last) as client:
        await client.comment(2 * VISIBLE.INTERVAL)  # by then the store has been read
        await VISIBLE.post(answer, *new[2:])
        await client.tick(new[3])
        if client.values != new[2:]:
            raise Failed(client.told(2 * WAIT), f"{VISIBLE.words(new[2:])}; {new[1]} was Last-Event-ID")


@guards("gap", hint="Which number does the first tick have when one is missing, and which when none is?")
async def check_one_is_a_gap(answer: AnswerUnderTest) -> None:
    """One tick that the store no longer has is a gap; where it has the next one there is none."""
    new = VISIBLE.values(answer, VISIBLE.KEEP + 2)
    numbers = await VISIBLE.post(answer, *new)
    async with VISIBLE.listening(answer, numbers[0]) as client:
        await client.tick(new[-1])
    if not client.events or client.events[0].name != "gap" or client.values != new[2:]:
        expected = f"gap, then the {VISIBLE.KEEP} ticks that are still there: {numbers[1]} is no longer"
        raise Failed(f"back with {numbers[0]}: {client.told(2 * WAIT)}", expected)
    async with VISIBLE.listening(answer, numbers[1]) as client:
        await client.tick(new[-1])
    if any(event.name == "gap" for event in client.events):
        raise Failed(f"back with {numbers[1]}: a gap", f"no gap: the store begins with {numbers[2]}")
