"""Hidden checks of exercise 01: sums with zero, numbers on either side, and wrong messages after right ones."""

import json

from labserver.school.catalogue import checks_module
from labserver.school.checking import Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("01_websocket_basics")

MISCONCEPTIONS = {
    "zero_is_missing": Misconception.of(
        "You ask whether a and b are there by `not a`. Zero is a whole number too, and falsy: its sender is told that "
        "the message was wrong. Ask for what you mean, the type.",
        {"zero_is_a_number"},
        VISIBLE.CODES,
    ),
    "addition_judges_b": Misconception.of(
        "You look at the type of a, and let the addition judge b. Python adds a float and true to a whole number "
        "without a word: both numbers have to be looked at.",
        {"whole_on_either_side"},
        VISIBLE.CODES,
    ),
    "looks_at_the_first_only": Misconception.of(
        "You judge the first message, and trust all that follow. A client may send a wrong one at any time: what "
        "judges a message belongs into the loop.",
        {"wrong_after_right"},
        VISIBLE.CODES,
    ),
}


@guards("one_sum", hint="How does your code find out that a number is missing, and what does it make of 0?")
async def check_zero_is_a_number(answer: AnswerUnderTest) -> None:
    """Zero is a whole number: on either side, on both, and as the sum."""
    number = answer.random.randrange(1, 10**6)
    async with answer.websocket("/ws/sum") as peer:
        for a, b in ((0, number), (number, 0), (number, -number), (0, 0)):
            await VISIBLE.ask(peer, a, b)


@guards("only_whole_numbers", hint="Which of the two numbers does your code look at?")
async def check_whole_on_either_side(answer: AnswerUnderTest) -> None:
    """`2.5`, `"2"` or `true` closes 1007 with a reason, whether it stands in a, in b or in both."""
    number, _ = VISIBLE.numbers(answer)
    for wrong in (number + 0.5, str(number), True):
        for value in ({"a": wrong, "b": number}, {"a": number, "b": wrong}, {"b": wrong, "a": wrong}):
            async with answer.websocket("/ws/sum") as peer:
                await peer.send_json(value)
                await peer.expect_close(1007, f"{json.dumps(value)} has not two whole numbers")


@guards("wrong_shape_closes_1007", hint="Which messages does your code look at, the first or each?")
async def check_wrong_after_right(answer: AnswerUnderTest) -> None:
    """JSON of another shape closes 1007 with a reason, also after messages that were right."""
    number, word = VISIBLE.numbers(answer)[0], f"x{answer.random.randrange(10**6)}"
    for value in ({"b": number}, {"a": None, "b": number}, {"a": [number], "b": number}, None, word, [], {}):
        async with answer.websocket("/ws/sum") as peer:
            for _ in range(answer.random.randrange(1, 4)):
                await VISIBLE.ask(peer, *VISIBLE.numbers(answer))
            await peer.send_json(value)
            await peer.expect_close(1007, f"{json.dumps(value)} has not that shape")
