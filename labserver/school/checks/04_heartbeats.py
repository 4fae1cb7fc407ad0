"""Checks of exercise 04: a socket that pings, answers pings, times pongs, and lets go of who is silent or gone.

Each check sets the interval and the silence that it needs, so that one fault of an answer fails one check: a heartbeat
that never comes is not missed by the check of the silence.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, Peer, until

TITLE = "Keep connections alive"
OBJECT = "app"

HINTS = (
    "Two things happen at the same time: pings go out, and messages come in. Which of the two can be a task of its "
    "own, and what does the endpoint itself wait for?",
    "`asyncio.create_task(beat())` sends the pings. The endpoint loops over `receive_json()`, with "
    "`async with asyncio.timeout(silence):` around that one line. Remember when each ping left, by its number.",
    "End with `except WebSocketDisconnect: pass`, `except TimeoutError: await websocket.close(4408, reason)` and a "
    "`finally` that cancels the task and forgets the client. `finally` is passed on every way out.",
)

_SEE = "notebooks/04_heartbeats.ipynb#"
SILENCE = _SEE + "Mend-it:-say-something-now-and-then"
GONE = _SEE + "Mend-it:-a-deadline-for-silence"
WORD = _SEE + "Break-it:-a-ping-that-is-not-JSON"
OUTLIVES = _SEE + "Break-it:-a-heartbeat-that-outlives-its-socket"
OWNER = _SEE + "Mend-it:-one-owner-for-each-task"
MEASURES = _SEE + "What-a-heartbeat-measures"

MISCONCEPTIONS = {
    "no_heartbeat": Misconception.of(
        "Your endpoint waits for the client and never speaks first. uvicorn's own pings keep the line open, but no "
        "code sees them: a client that wants to know whether you are there hears nothing.",
        {"pings_come", "round_trip_is_timed"},
        SILENCE,
    ),
    "the_word_ping": Misconception.of(
        "You send the bare word ping. Every other message on this socket is JSON, so the client's parser throws at "
        "your first heartbeat.",
        {"pings_come", "client_pings_are_answered", "who_speaks_stays", "round_trip_is_timed"},
        WORD,
    ),
    "deadline_for_the_visit": Misconception.of(
        "Your deadline stands around the whole loop: it limits the visit and not the silence. A client that answers "
        "every ping is sent away all the same. Put it around the receive.",
        {"who_speaks_stays"},
        GONE,
    ),
    "no_deadline": Misconception.of(
        "You ping, and nothing follows when no answer comes. On a dead line a send succeeds for many minutes, because "
        "the kernel takes it. What notices is a deadline for the answer.",
        {"who_is_silent_is_sent_away", "the_count_is_right"},
        GONE,
    ),
    "normal_close": Misconception.of(
        "You let go of a silent client with code 1000, a normal end, so it has no reason to connect again. A code of "
        "your own, here 4408, says what happened.",
        {"who_is_silent_is_sent_away"},
        GONE,
    ),
    "task_without_an_owner": Misconception.of(
        "You start a task for each client and never end it. It sleeps until its next ping is due, finds nobody, and "
        "dies with a traceback in the log.",
        {"no_task_is_left"},
        OUTLIVES,
    ),
    "cleanup_only_on_disconnect": Misconception.of(
        "You clean up where the client leaves, and not where you send it away. `finally` is the one place that every "
        "way out passes.",
        {"the_count_is_right"},
        OWNER,
    ),
    "times_the_interval": Misconception.of(
        "You take the time from one pong to the next: that is your own interval. A round trip begins when its ping "
        "leaves.",
        {"round_trip_is_timed"},
        MEASURES,
    ),
}


@points(15, hint="What sends a ping while the endpoint waits for a message?")
async def check_pings_come(answer: AnswerUnderTest) -> None:
    """Every `interval` seconds a ping comes, numbered from 1."""
    async with answer.websocket("/ws/watch?interval=0.15&silence=30") as peer:
        began = time.monotonic()
        for number in (1, 2, 3):
            seen = await next_message(peer, "a ping every 0.15 s")
            if seen != {"type": "ping", "number": number}:
                raise Failed(json.dumps(seen), json.dumps({"type": "ping", "number": number}))
        if (took := time.monotonic() - began) < 0.3:
            raise Failed(f"three pings within {took:.2f} s", "one every 0.15 s")


@points(15, hint="What does your loop do with a message whose type is ping?")
async def check_client_pings_are_answered(answer: AnswerUnderTest) -> None:
    """A client's ping is answered by a pong of the same number, also while your own pings go out."""
    async with answer.websocket("/ws/watch?interval=0.05&silence=30") as peer:
        for _ in range(4):
            number = answer.random.randrange(10**6)
            await peer.send_json({"type": "ping", "number": number})
            pong = await next_message(peer, "a pong", skip_pings=True)
            if pong != {"type": "pong", "number": number}:
                raise Failed(json.dumps(pong), json.dumps({"type": "pong", "number": number}))
            await asyncio.sleep(0.06)


@points(15, hint="Does each message move your deadline, or is there one deadline for the whole visit?")
async def check_who_speaks_stays(answer: AnswerUnderTest) -> None:
    """A client that says something again and again stays longer than `silence`."""
    async with answer.websocket("/ws/watch?interval=0.1&silence=0.8") as peer:
        began = time.monotonic()
        while (lasted := time.monotonic() - began) < 1.7:
            await peer.send_json({"type": "ping", "number": 1})
            try:
                await next_message(peer, "a pong", skip_pings=True)
            except Failed as failed:
                seen = f"{failed.seen}, after {lasted:.1f} s"
                raise Failed(seen, "a connection that lasts while the client speaks") from None
            await asyncio.sleep(0.1)


@points(20, hint="What happens in your loop when no message comes for `silence` seconds?")
async def check_who_is_silent_is_sent_away(answer: AnswerUnderTest) -> None:
    """A client that says nothing for `silence` seconds is closed with 4408 and a reason."""
    async with answer.websocket("/ws/watch?interval=30&silence=0.4") as peer:
        began = time.monotonic()
        await peer.expect_close(4408, "the client said nothing for 0.4 s")
        if (took := time.monotonic() - began) < 0.3:
            raise Failed(f"a close after {took:.2f} s", "a close after 0.4 s of silence")


@points(15, hint="When does a round trip begin, and which number says to which ping a pong belongs?")
async def check_round_trip_is_timed(answer: AnswerUnderTest) -> None:
    """`GET /watched` says how long the last ping's round trip took."""
    async with answer.websocket("/ws/watch?interval=0.4&silence=30") as peer:
        for _ in range(2):
            ping = await next_message(peer, "a ping")
            wait = answer.random.uniform(0.08, 0.16)
            await asyncio.sleep(wait)
            await peer.send_json({"type": "pong", "number": number_of(ping)})
        low, high = wait * 1000 - 5, wait * 1000 + 180
        expected = f"one round trip in rtt_ms, of {low:.0f} to {high:.0f} ms: the client waited {wait * 1000:.0f}"
        seen: Any = None

        async def timed() -> bool:
            nonlocal seen
            seen = (await watched(answer)).get("rtt_ms")
            return isinstance(seen, list) and len(seen) == 1 and is_number(seen[0]) and low <= seen[0] <= high

        if not await until(timed, deadline=0.3):
            raise Failed(f"rtt_ms {json.dumps(seen)}", expected)


@points(10, hint="Which line forgets a client that closes, and which one that you send away yourself?")
async def check_the_count_is_right(answer: AnswerUnderTest) -> None:
    """`GET /watched` counts who is connected, also after a close, a hang-up and a silence."""
    before = await settled(answer, clients)
    path = "/ws/watch?interval=30&silence=30"
    async with answer.websocket(path) as polite, answer.websocket(path) as abrupt:
        await expect_clients(answer, before + 2, "two clients had connected")
        await polite.close()
        await expect_clients(answer, before + 1, "one had closed")
        await abrupt.hang_up()
        await expect_clients(answer, before, "the other had hung up")
    async with answer.websocket("/ws/watch?interval=30&silence=0.2") as silent:
        await silent.over()
        await expect_clients(answer, before, "a third had said nothing for 0.2 s")


@points(10, hint="Who ends the task that you start for each client, and when?")
async def check_no_task_is_left(answer: AnswerUnderTest) -> None:
    """When a client leaves, the task that would send its next ping ends as well."""
    before = await settled(answer, tasks)
    for _ in range(4):
        async with answer.websocket("/ws/watch?interval=30&silence=30"):
            pass
    seen = before

    async def ended() -> bool:
        nonlocal seen
        seen = await tasks(answer)
        return seen <= before

    if not await until(ended):
        raise Failed(f"{seen - before} tasks more than before, after four clients had left", "no task more than before")


async def next_message(peer: Peer, expected: str, *, skip_pings: bool = False) -> Any:
    """Return the next message; it has to be JSON in text.

    Raises:
        Failed: if none comes in time, or it is none.
    """
    for _ in range(200):
        message = await peer.receive(expected)
        try:
            value = json.loads(message) if isinstance(message, str) else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Failed(f"the message {message!r}", f"{expected}, as a JSON object in a text message")
        if not (skip_pings and value.get("type") == "ping"):
            return value
    raise Failed("200 pings", expected)


def number_of(ping: Any) -> Any:
    """Return the number of a ping.

    Raises:
        Failed: if it is no ping, or has no number.
    """
    if ping.get("type") != "ping" or "number" not in ping:
        raise Failed(json.dumps(ping), 'a message such as {"type": "ping", "number": 1}')
    return ping["number"]


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a number, true and false excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)


async def watched(answer: AnswerUnderTest, *, taped: bool = False) -> dict[str, Any]:
    """Return what `GET /watched` says."""
    expected = '{"clients": n, "rtt_ms": [...], "tasks": m} from GET /watched'
    body = await answer.get_json("/watched", expected, taped=taped)
    if not isinstance(body, dict) or not all(is_number(body.get(name)) for name in ("clients", "tasks")):
        raise Failed(f"GET /watched answered {json.dumps(body)}", expected)
    return body


async def clients(answer: AnswerUnderTest) -> int:
    """Return how many clients `GET /watched` counts."""
    return int((await watched(answer))["clients"])


async def tasks(answer: AnswerUnderTest) -> int:
    """Return how many tasks `GET /watched` counts."""
    return int((await watched(answer))["tasks"])


async def settled(answer: AnswerUnderTest, read: Callable[[AnswerUnderTest], Awaitable[int]]) -> int:
    """Return a count once it no longer moves: the clients of an earlier check may still be on their way out."""
    last = [await read(answer)]

    async def still() -> bool:
        last.append(await read(answer))
        return len(last) >= 4 and len(set(last[-4:])) == 1

    await until(still)
    return last[-1]


async def expect_clients(answer: AnswerUnderTest, count: int, when: str) -> None:
    """Wait until the count is right.

    Raises:
        Failed: if it is not in time; the sentence says what had happened.
    """
    seen = count

    async def right() -> bool:
        nonlocal seen
        seen = await clients(answer)
        return seen == count

    in_time = await until(right, deadline=WAIT)
    await watched(answer, taped=True)
    if not in_time:
        raise Failed(f"GET /watched counted {seen} when {when}", f"{count}")
