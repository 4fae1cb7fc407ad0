"""Checks of exercise 09: a relay for an LLM that streams, ends as it should, refuses in time and stops with its reader.

Prompts are drawn anew on each run. The words of the lab's LLM follow from its prompt, so that the checks know them;
what became of each question the answer itself tells at `/llm/requests`, by a route that is given.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, until
from labserver.stage.llms.words import Voice, tokens

TITLE = "Stream LLM tokens"
OBJECT = "app"

HINTS = (
    "Two functions, two times: `asked` runs before there is a response, `tell` while it is sent. What can only be said "
    "in time, and what only at the end?",
    "In `asked`: `async with new_client() as client, client.stream(**question(prompt)) as response`, look at the "
    "status, then `yield response`. In `tell`: remember whether the last event was `message_stop`.",
    "`tell` is a loop over `events_of(response)` in a `try` that catches `httpx.HTTPError`. After it there are two "
    "ends: `done` with the stop reason, if `message_stop` came, else `error`.",
)

_SEE = "notebooks/09_llm_tokens.ipynb#"
HALVES = _SEE + "A-relay-in-two-halves"
BLOCKS = _SEE + "Break-it:-a-client-that-blocks"
LEFT = _SEE + "Break-it:-an-upstream-that-is-left-running"
REFUSED = _SEE + "Break-it:-refused,-after-200"
HALF = _SEE + "Break-it:-half-an-answer-that-looks-whole"
WHY = _SEE + "Mend-it:-ask-why-it-stopped"

MISCONCEPTIONS = {
    "asks_in_the_generator": Misconception.of(
        "You ask the LLM in the generator. By then the status has been sent: a refusal is a 200 and a body that is no "
        "answer.",
        {"busy"},
        REFUSED,
    ),
    "task_reads_on": Misconception.of(
        "A task of yours reads the LLM. When the reader leaves, the response is cancelled and the task is not: it "
        "reads, and you pay, to the end.",
        {"leaves"},
        LEFT,
    ),
    "waits_for_the_socket": Misconception.of(
        "You ask by a synchronous client. While it waits for the LLM the event loop does not turn: nobody else is "
        "answered, and nobody notices that the reader has left.",
        {"others", "leaves"},
        BLOCKS,
    ),
    "collects_it_first": Misconception.of(
        "You read the whole answer before you send its first word. Then nothing is streamed, and who leaves early "
        "leaves too late.",
        {"early", "leaves"},
        HALVES,
    ),
    "end_of_the_body": Misconception.of(
        "You take the end of the body for the end of the answer. A server or a proxy that stops ends it as cleanly, in "
        "the middle.",
        {"truncated"},
        HALF,
    ),
    "done_in_any_case": Misconception.of(
        "You send `done` on every way out. Then it says nothing: half an answer has it too.",
        {"truncated", "broken"},
        WHY,
    ),
    "lets_it_raise": Misconception.of(
        "You let the exception out of the generator. The body is cut, and the reader can only guess: the last event "
        "should say it.",
        {"broken"},
        WHY,
    ),
    "tidies_the_words": Misconception.of(
        "You change the pieces on their way. The blank in front of a word and a blank line are a part of the text.",
        {"pieces"},
        HALVES,
    ),
    "done_without_a_reason": Misconception.of(
        "You end with a sign of your own. Without the reason nobody knows whether the LLM was done, or at its limit.",
        {"done"},
        WHY,
    ),
}

VOICE = Voice(tokens=40, delay=0.03)
SPREAD = 0.3  # seconds between the first and the last piece, which the LLM sends 1.2 s apart


class Event(NamedTuple):
    """An event with what its data holds, None where that is no JSON, and when it came, in seconds of the loop."""

    name: str
    data: Any
    at: float


@points(10, hint="Which part of an event is the text, and what stands around it?")
async def check_pieces(answer: AnswerUnderTest) -> None:
    """Each piece of text is sent as `data: {"text": "..."}`, as it is."""
    prompt = new_prompt(answer)
    expected = "the LLM's words, in pieces, with every blank and every line break"
    heard = texts(await ask(answer, prompt, expected))
    if "".join(heard) != "".join(tokens(VOICE, prompt)):
        raise Failed(f"{len(heard)} pieces: {short(''.join(heard))}" if heard else "no event with a text", expected)
    if len(heard) < 2:
        raise Failed("one piece", expected)


@points(10, hint="When does your code send its first event?")
async def check_early(answer: AnswerUnderTest) -> None:
    """Each piece leaves when it is there."""
    expected = "the first piece long before the last one"
    came = await ask(answer, new_prompt(answer), expected)
    if not came or came[-1].at - came[0].at < SPREAD:
        raise Failed("all of it at once", expected)


@points(10, hint="Which event of the LLM says why it stopped?")
async def check_done(answer: AnswerUnderTest) -> None:
    """The last event of a whole answer is `done`, with the reason why the LLM stopped."""
    expected = 'event: done, with {"stop_reason": "end_turn"}, at the end'
    came = await ask(answer, new_prompt(answer), expected)
    last = came[-1] if came else None
    if last is None or last.name != "done" or last.data != {"stop_reason": "end_turn"}:
        raise Failed(f"{said(last)} at the end", expected)


@points(15, hint="What does the event loop do while your code waits for the next word?")
async def check_others(answer: AnswerUnderTest) -> None:
    """Others are answered while an answer is told."""
    prompt, expected = new_prompt(answer), "an answer to GET /llm/requests while the LLM is running"
    async with asking(answer, prompt, expected):
        state = ""

        async def begun() -> bool:
            nonlocal state
            state = await state_of(answer, prompt, expected)
            return state != ""

        if not await until(begun):
            raise Failed("the LLM was not asked", expected)
        if state != "running":
            raise Failed("an answer only when the LLM had ended", expected)


@points(15, hint="Who closes the response of the LLM when your own is cancelled?")
async def check_leaves(answer: AnswerUnderTest) -> None:
    """When the reader leaves, the LLM's answer is closed."""
    prompt, expected = new_prompt(answer), "the LLM cancelled when the reader has left"
    async with asking(answer, prompt, expected) as events:
        if await anext(events, None) is None:
            raise Failed("no event", expected)
    state = "running"

    async def ended() -> bool:
        nonlocal state
        state = await state_of(answer, prompt, expected)
        return state != "running"

    await until(ended)
    if state != "cancelled":
        seen = {"done": "it wrote to its end", "running": "it is still running"}
        raise Failed(f"the reader left early, and of the LLM: {seen.get(state, state or 'it was not asked')}", expected)


@points(15, hint="When do you look at the LLM's status, and when is yours sent?")
async def check_busy(answer: AnswerUnderTest) -> None:
    """A refusal of the LLM is a 503."""
    for order in ("overloaded", "rate_limited"):
        async with client(answer) as http:
            got = await post(http, f"{new_prompt(answer)} #{order}", expected := "503, and no stream")
        if got.status_code != 503:
            raise Failed(f"the LLM was {order}, and the answer's status is {got.status_code}", expected)


@points(10, hint="How do you know that an answer is whole?")
async def check_truncated(answer: AnswerUnderTest) -> None:
    """The last event of an answer that ends too early is `error`, and no `done` is sent."""
    await not_whole(answer, f"truncated:{answer.random.randrange(3, 9)}", "ended too early")


@points(15, hint="Which ways are there out of your loop?")
async def check_broken(answer: AnswerUnderTest) -> None:
    """The last event of an answer that breaks is `error`, and no `done` is sent."""
    await not_whole(answer, f"error:{answer.random.randrange(3, 9)}", "sent an error")
    await not_whole(answer, f"cut:{answer.random.randrange(3, 9)}", "was cut")


async def not_whole(answer: AnswerUnderTest, order: str, what: str) -> None:
    """Ask for half an answer.

    Raises:
        Failed: unless the last event says that it is none.
    """
    expected = "event: error, with some data, at the end, and no done"
    came = await ask(answer, f"{new_prompt(answer)} #{order}", expected, cut=True)
    if any(event.name == "done" for event in came):
        raise Failed(f"the LLM {what}, and there was a done", expected)
    if not came or came[-1].name != "error":
        raise Failed(f"the LLM {what}, and {said(came[-1] if came else None)} was the last event", expected)


def new_prompt(answer: AnswerUnderTest) -> str:
    """Return a prompt that was never asked before."""
    return f"question {answer.random.randrange(10**9)}"


def client(answer: AnswerUnderTest) -> httpx.AsyncClient:
    """Return a client that goes through the tape. verify=False: plain HTTP, and loading certificates takes longer."""
    return httpx.AsyncClient(base_url=answer.url, timeout=2 * WAIT, trust_env=False, verify=False)


async def post(http: httpx.AsyncClient, prompt: str, expected: str) -> httpx.Response:
    """Ask, and return the whole answer.

    Raises:
        Failed: if there is none.
    """
    try:
        return await http.post("/ask", json={"prompt": prompt})
    except httpx.HTTPError as error:
        raise Failed(f"POST /ask failed ({type(error).__name__})", expected) from None


@asynccontextmanager
async def asking(answer: AnswerUnderTest, prompt: str, expected: str) -> AsyncIterator[AsyncIterator[Event]]:
    """Ask, and give the events as they come; the end of the block hangs up, also before the first one.

    Raises:
        Failed: if the answer is not a 200.
    """
    async with client(answer) as http, aclosing(events(http, prompt, expected)) as came:
        first = asyncio.ensure_future(anext(came, None))

        async def again() -> AsyncIterator[Event]:
            event = await first
            while event is not None:
                yield event
                event = await anext(came, None)

        try:
            yield again()
        finally:
            if not first.done():
                first.cancel()
            await asyncio.gather(first, return_exceptions=True)


async def events(http: httpx.AsyncClient, prompt: str, expected: str, cut: bool = False) -> AsyncGenerator[Event]:
    """Ask, and yield the events as they come; `cut` says that the body may be."""
    clock = asyncio.get_running_loop().time
    name, data = "message", None
    try:
        async with http.stream("POST", "/ask", json={"prompt": prompt}) as response:
            if response.status_code != 200:
                raise Failed(f"POST /ask answered {response.status_code}", expected)
            async for line in response.aiter_lines():
                field, _, value = line.partition(":")
                if not line and data is not None:
                    yield Event(name, parsed(data), clock())
                if not line:
                    name, data = "message", None
                elif field == "event":
                    name = value.strip()
                elif field == "data":
                    data = value.strip() if data is None else f"{data}\n{value.strip()}"
    except httpx.HTTPError as error:
        if not cut:
            raise Failed(f"POST /ask failed ({type(error).__name__})", expected) from None


async def ask(answer: AnswerUnderTest, prompt: str, expected: str, cut: bool = False) -> list[Event]:
    """Ask, and return all events."""
    async with client(answer) as http, aclosing(events(http, prompt, expected, cut)) as came:
        return [event async for event in came]


async def state_of(answer: AnswerUnderTest, prompt: str, expected: str) -> str:
    """Return what became of a prompt, as the LLM says; "" if it was not asked."""
    told = await answer.get_json("/llm/requests", expected, taped=False)
    return next((str(each["state"]) for each in reversed(told) if each["prompt"] == prompt), "")


def parsed(data: str) -> Any:
    """Return what JSON holds; None if it is none."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def texts(came: list[Event]) -> list[str]:
    """Return the pieces of text."""
    found = [each.data["text"] for each in came if isinstance(each.data, dict) and "text" in each.data]
    return [str(each) for each in found]


def said(event: Event | None) -> str:
    """An event as words."""
    return "nothing" if event is None else f"event: {event.name} with {short(json.dumps(event.data))}"


def short(text: str) -> str:
    """The begin of a text, on one line."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= 60 else f"{line[:59]}…"
