"""Hidden checks of exercise 09: a refusal of another kind, an LLM that falls silent, and a second reader meanwhile."""

import asyncio
from contextlib import suppress

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import WAIT, AnswerUnderTest, until

VISIBLE = checks_module("09_llm_tokens")

MISCONCEPTIONS = {
    "only_when_busy": Misconception.of(
        "You look for the statuses that you know. Every other refusal becomes a 200 and a stream of nothing: ask what "
        "it is, and not what it is not.",
        {"any_refusal"},
        VISIBLE.REFUSED,
    ),
    "sentence_by_sentence": Misconception.of(
        "You keep pieces until they are a sentence. The reader waits for words that you have; when the LLM hesitates, "
        "for a long time.",
        {"no_piece_waits"},
        VISIBLE.HALVES,
    ),
    "one_at_a_time": Misconception.of(
        "You ask the LLM for one reader after the other. The second one waits for all words of the first, and for as "
        "long as those take to come.",
        {"another_question"},
        VISIBLE.BLOCKS,
    ),
}


@guards("busy", hint="Which statuses are no refusal?")
async def check_any_refusal(answer: AnswerUnderTest) -> None:
    """A refusal is a 503, whatever the LLM's own status is."""
    async with VISIBLE.client(answer) as http:
        got = await VISIBLE.post(http, f"{VISIBLE.new_prompt(answer)} #bad_request", expected := "503, and no stream")
    if got.status_code != 503:
        raise Failed(f"the LLM answered 400, and the answer's status is {got.status_code}", expected)


@guards("early", hint="Does a piece have to wait for another one?")
async def check_no_piece_waits(answer: AnswerUnderTest) -> None:
    """When the LLM falls silent, every piece that it has sent has left."""
    for number in (1, answer.random.randrange(2, 6)):
        prompt = VISIBLE.new_prompt(answer)
        wanted = VISIBLE.tokens(VISIBLE.VOICE, prompt)[:number]
        expected = f"{number} pieces of an LLM that then falls silent: {VISIBLE.short(''.join(wanted))}"
        heard: list[str] = []
        async with VISIBLE.asking(answer, f"{prompt} #silent:{number}", expected) as events:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT):
                    while len(heard) < number and (event := await anext(events, None)):
                        heard += VISIBLE.texts([event])
        if "".join(heard) != "".join(wanted):
            raise Failed(f"{len(heard)} pieces: {VISIBLE.short(''.join(heard))}", expected)


@guards("others", hint="What of your code is there once for all readers?", deadline=15)
async def check_another_question(answer: AnswerUnderTest) -> None:
    """While one reader waits for the LLM, another one asks, and gets a whole answer."""
    expected = "the whole answer to another question, while the LLM is silent for the first"
    first, prompt = f"{VISIBLE.new_prompt(answer)} #silent:2", VISIBLE.new_prompt(answer)

    async def begun() -> bool:
        return bool(await VISIBLE.state_of(answer, first, expected))

    async with VISIBLE.asking(answer, first, expected):
        if not await until(begun):
            raise Failed("the LLM was not asked for the first reader", expected)
        came = await VISIBLE.ask(answer, prompt, expected)
    heard = "".join(VISIBLE.texts(came))
    if heard != "".join(VISIBLE.tokens(VISIBLE.VOICE, prompt)) or came[-1].name != "done":
        last = came[-1] if came else None
        raise Failed(f"{VISIBLE.short(heard)}, and {VISIBLE.said(last)} at the end", expected)
