"""Hidden checks of exercise 04: two clients beside each other, and one that speaks before it falls silent."""

import asyncio
import json
from typing import Any

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest, Peer, until

VISIBLE = checks_module("04_heartbeats")

MISCONCEPTIONS = {
    "one_counter_for_all": Misconception.of(
        "You number the pings of all clients by one counter. The second client then never sees a ping 1, and numbers "
        "are left out for both: what belongs to one client belongs into the endpoint's local names.",
        {"each_counts_from_one"},
        VISIBLE.OWNER,
    ),
    "one_round_trip_for_all": Misconception.of(
        "You tell one round trip, whoever is connected. Each client has a line of its own, and its own time: keep one "
        "for each.",
        {"a_round_trip_for_each"},
        VISIBLE.MEASURES,
    ),
    "deadline_for_the_first_message": Misconception.of(
        "Your deadline ends with the first message. A client that has spoken once may then be gone for ever without "
        "being missed: each wait needs the deadline.",
        {"silent_after_speaking"},
        VISIBLE.GONE,
    ),
}


@guards("pings_come", hint="Where is the number of the next ping kept, and how many clients share it?")
async def check_each_counts_from_one(answer: AnswerUnderTest) -> None:
    """Clients that are there at the same time each get pings 1, 2, 3, and so does who comes later."""
    path = "/ws/watch?interval=0.12&silence=30"
    async with answer.websocket(path) as first, answer.websocket(path) as second:
        for number in (1, 2, 3):
            for peer in (first, second):
                await expect_ping(peer, number)
        async with answer.websocket(path) as late:
            await expect_ping(late, 1)


@guards("round_trip_is_timed", hint="Where does your app keep a round trip, and how many clients share that place?")
async def check_a_round_trip_for_each(answer: AnswerUnderTest) -> None:
    """`GET /watched` tells the last round trip of each client that has answered, and of no other."""
    path, waits = "/ws/watch?interval=0.6&silence=30", (0.04, 0.2)
    seen: Any = None

    async def told(*least: float) -> bool:
        nonlocal seen
        seen = (await VISIBLE.watched(answer)).get("rtt_ms")
        if not isinstance(seen, list) or len(seen) != len(least) or not all(map(VISIBLE.is_number, seen)):
            return False
        return all(rtt >= low for rtt, low in zip(sorted(seen), least, strict=True))

    async def expect(what: str, *least: float) -> None:
        if not await until(lambda: told(*least)):
            raise Failed(f"rtt_ms {json.dumps(seen)}", what)

    async with answer.websocket(path), answer.websocket(path) as first:
        async with answer.websocket(path) as second:
            async with asyncio.TaskGroup() as group:
                for peer, wait in zip((first, second), waits, strict=True):
                    group.create_task(answer_one(peer, wait))
            least = [wait * 1000 - 5 for wait in waits]
            await expect("two round trips in rtt_ms: two of three clients have answered", *least)
        await expect("one round trip in rtt_ms, since one of the two has left", least[0])


@guards("who_is_silent_is_sent_away", hint="How many of your waits have a deadline?")
async def check_silent_after_speaking(answer: AnswerUnderTest) -> None:
    """A client that has spoken, and then says nothing for `silence` seconds, is closed with 4408 and a reason."""
    async with answer.websocket("/ws/watch?interval=30&silence=1") as peer:
        for _ in range(answer.random.randrange(1, 4)):
            number = answer.random.randrange(10**6)
            await peer.send_json({"type": "ping", "number": number})
            await peer.expect_json({"type": "pong", "number": number})
        await peer.expect_close(4408, "the client said nothing for 1 s, after it had spoken")


async def expect_ping(peer: Peer, number: int) -> None:
    """Expect the ping of this number as the next message."""
    seen, expected = await VISIBLE.next_message(peer, f"ping {number}"), {"type": "ping", "number": number}
    if seen != expected:
        raise Failed(json.dumps(seen), json.dumps(expected))


async def answer_one(peer: Peer, wait: float) -> None:
    """Answer the next ping after some seconds."""
    number = VISIBLE.number_of(await VISIBLE.next_message(peer, "a ping"))
    await asyncio.sleep(wait)
    await peer.send_json({"type": "pong", "number": number})
