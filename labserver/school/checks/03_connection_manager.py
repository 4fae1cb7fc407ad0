"""Checks of exercise 03: a chat room in which a client that does not read costs the others nothing.

Names are drawn anew for each check, and a check looks for its own names alone. Notices are skipped where they are not
the point, so that one fault of an answer fails one check. The client that does not read connects past the tape.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, Peer, until

TITLE = "Manage connections"
OBJECT = "app"

HINTS = (
    "Whoever sends to all must not wait for any of them. So sending to all and waiting for one are two jobs, in two "
    "tasks. What lies between them?",
    "Give each client an `asyncio.Queue(50)` and a task that takes from it and sends. Sending to all is then "
    "`put_nowait` into each queue, over a copy of the set. On `QueueFull` take that client out of the set.",
    "In the endpoint: `async with asyncio.TaskGroup() as tasks:` create the writer, then receive in a loop, with an "
    "`await asyncio.sleep(0)` after each message. Around it `except* WebSocketDisconnect` and a `finally` that forgets "
    "the client and tells the others.",
)

_SEE = "notebooks/03_connection_manager.ipynb#"
ROOM = _SEE + "A-room-and-its-manager"
CHANGES = _SEE + "Break-it:-the-set-changes-while-you-iterate"
STALL = _SEE + "Break-it:-one-slow-client-stalls-all"
OUTBOX = _SEE + "Mend-it:-an-outbox-and-a-writer-for-each"
SWALLOW = _SEE + "Break-it:-swallowed-errors-keep-dead-sockets"

MISCONCEPTIONS = {
    "one_send_after_the_other": Misconception.of(
        "You await one send after the other, as most tutorials do. The first client that does not read makes everybody "
        "wait, and it is never sent away.",
        {"slow_costs_nobody", "slow_is_sent_away"},
        STALL,
    ),
    "unbounded_outbox": Misconception.of(
        "Your outboxes have no limit. Nobody waits, but what a client does not read piles up in your memory for as "
        "long as it stays.",
        {"slow_is_sent_away"},
        OUTBOX,
    ),
    "tiny_outbox": Misconception.of(
        "Your outbox holds hardly anything, and its writer has no turn while a burst is put in: clients that do read "
        "are taken for slow ones.",
        {"burst"},
        OUTBOX,
    ),
    "swallowed_errors": Misconception.of(
        "You ignore errors where they occur, so nothing ends when a client leaves: its name stays for good.",
        {"who", "hang_up", "notices"},
        SWALLOW,
    ),
    "only_polite_goodbyes": Misconception.of(
        "You clean up after a close frame only. A client that is killed sends none.",
        {"hang_up"},
        SWALLOW,
    ),
    "no_notices": Misconception.of(
        "Your room is right, but it tells nobody who comes and goes.",
        {"notices"},
        ROOM,
    ),
    "sender_left_out": Misconception.of(
        "You send to all but the sender. It then can't know what the others saw, and in which order.",
        {"everyone_hears"},
        ROOM,
    ),
}


@points(15, hint="Whom does your loop leave out, and in which order does it send?")
async def check_everyone_hears(answer: AnswerUnderTest) -> None:
    """What one says reaches everyone in the room, the sender included, in the order it was said."""
    names = new_names(answer, 3)
    async with room(answer, names) as peers:
        said = [f"{number} {answer.random.randrange(10**6)} é" for number in range(5)]
        for text in said:
            await peers[0].send(text)
            for peer in peers:
                await hear(peer, names[0], text)


@points(15, hint="Who is told when somebody comes in, and when somebody leaves?")
async def check_notices(answer: AnswerUnderTest) -> None:
    """Those in the room are told who comes in and who leaves."""
    ana, ben, cleo = new_names(answer, 3)
    async with room(answer, [ana]) as (first,):
        async with room(answer, [ben]):
            await notice(first, {"joined": ben})
            async with room(answer, [cleo]):
                await notice(first, {"joined": cleo})
            await notice(first, {"left": cleo})
        await notice(first, {"left": ben})


@points(10, hint="Which line adds a name, and which takes it out again?")
async def check_who(answer: AnswerUnderTest) -> None:
    """`GET /who` says who is in the room, also after somebody has left."""
    ana, ben = new_names(answer, 2)
    async with room(answer, [ana]):
        async with room(answer, [ben]):
            await expect_who(answer, {ana: True, ben: True}, "both had come in")
        await expect_who(answer, {ana: True, ben: False}, f"{ben} had closed")
    await expect_who(answer, {ana: False, ben: False}, "both had closed")


@points(15, hint="What tells your code that a client is gone which sends no close frame?")
async def check_hang_up(answer: AnswerUnderTest) -> None:
    """A client that hangs up without a close frame is no longer there, and the others go on."""
    ana, ben, cleo = new_names(answer, 3)
    async with room(answer, [ana, ben, cleo]) as (first, second, third):
        await second.hang_up()
        await expect_who(answer, {ana: True, ben: False, cleo: True}, f"{ben} had hung up")
        await first.send("still here?")
        await hear(third, ana, "still here?")


@points(10, hint="How many messages fit into an outbox, and when does its writer have its turn?")
async def check_burst(answer: AnswerUnderTest) -> None:
    """A burst of 20 messages reaches a client that reads."""
    ana, ben = new_names(answer, 2)
    async with room(answer, [ben]) as (second,), direct(answer, ana) as first:
        burst = [f"{number} {answer.random.randrange(10**6)}" for number in range(20)]
        write_in_one_piece(first, burst)
        for text in burst:
            await hear(second, ana, text, f"all 20 messages of a burst; next {text!r}")


@points(20, hint="Whom does the loop that sends to all wait for?", deadline=20.0)
async def check_slow_costs_nobody(answer: AnswerUnderTest) -> None:
    """While a client does not read, the others get every message at once."""
    ana, ben, cleo = new_names(answer, 3)
    async with silent(answer, cleo), room(answer, [ana, ben]) as (first, second):
        for number in range(80):
            text = load(number)
            await first.send(text)
            await hear(second, ana, text, f"the message number {number} from {ana}, while {cleo} did not read")


@points(15, hint="What happens when an outbox is full?", deadline=20.0)
async def check_slow_is_sent_away(answer: AnswerUnderTest) -> None:
    """A client that does not read for more than 100 messages is no longer in the room."""
    ana, ben, cleo = new_names(answer, 3)
    there = f"{cleo} out of GET /who, after 100 messages beyond what the system holds"
    async with silent(answer, cleo), room(answer, [ana, ben]) as (first, second):
        for number in range(260):
            try:
                await first.send(load(number))
                await hear(second, ana, load(number))
            except Failed as error:
                raise Failed(f"{cleo} was still there, and then {error.seen}", there) from None
            if number % 10 == 9 and cleo not in await who(answer):
                return
        raise Failed(f"{cleo} was still there after 260 messages", there)


def new_names(answer: AnswerUnderTest, count: int) -> list[str]:
    """Names that no other check uses."""
    return [
        name + "".join(answer.random.choices("abcdefghijkmnopqrstuvwxyz", k=6))
        for name in ("ana", "ben", "cleo")[:count]
    ]


def load(number: int) -> str:
    """A message of 60 kB: some fifty fill what the system holds for one client."""
    return f"{number} {'x' * 60_000}"


@asynccontextmanager
async def room(answer: AnswerUnderTest, names: Sequence[str]) -> AsyncIterator[list[Peer]]:
    """Let clients come in one after the other."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(answer.websocket(f"/ws/chat/{name}")) for name in names]
        with suppress(
            Failed
        ):  # one more round trip, since a handshake is over a moment before the client is in the room
            await who(answer)
        yield peers


@asynccontextmanager
async def direct(answer: AnswerUnderTest, name: str) -> AsyncIterator[ClientConnection]:
    """Let a client come in past the tape, with a small buffer of its own; it hangs up at the end."""
    address = urlsplit(answer.direct_url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((address.hostname, address.port))
        sock.setblocking(False)
        try:
            async with asyncio.timeout(WAIT):
                url = f"ws://{address.netloc}/ws/chat/{name}"
                connection = await connect(url, sock=sock, compression=None, proxy=None, ping_interval=None)
        except (InvalidHandshake, OSError, TimeoutError) as error:
            raise Failed(f"no connection ({type(error).__name__})", f"a WebSocket at /ws/chat/{name}") from None
        try:
            yield connection
        finally:
            connection.transport.abort()


@asynccontextmanager
async def silent(answer: AnswerUnderTest, name: str) -> AsyncIterator[None]:
    """Let a client come in that reads nothing."""
    async with direct(answer, name) as connection:
        connection.transport.pause_reading()
        yield


def write_in_one_piece(connection: ClientConnection, texts: Sequence[str]) -> None:
    """Send messages that arrive together, so that one read of the server's brings all of them."""
    for text in texts:
        connection.protocol.send_text(text.encode())
    connection.transport.write(b"".join(connection.protocol.data_to_send()))


async def next_json(peer: Peer, expected: str) -> Any:
    """Return what the next message holds."""
    message = await peer.receive(expected)
    try:
        return json.loads(message)
    except ValueError:
        raise Failed(f"the message {message[:60]!r}, which is not JSON", expected) from None


async def hear(peer: Peer, name: str | None, text: str, what: str = "") -> None:
    """Expect what somebody said as the next message that is no notice; `name` None takes any sender."""
    expected = what or json.dumps({"from": name, "text": text[:40]}, ensure_ascii=False)
    while True:
        came = await next_json(peer, expected)
        if isinstance(came, dict) and ("joined" in came or "left" in came):
            continue
        right = isinstance(came, dict) and came.get("text") == text and name in (None, came.get("from"))
        if not right or set(came) != {"from", "text"}:
            raise Failed(f"the message {json.dumps(came, ensure_ascii=False)[:80]}", expected)
        return


async def notice(peer: Peer, value: dict[str, str]) -> None:
    """Expect a notice; those about clients of other checks are skipped, and so are what a client hears of itself."""
    expected = f"the message {json.dumps(value)}"
    ((_, name),) = value.items()
    while True:
        came = await next_json(peer, expected)
        if came == value:
            return
        if isinstance(came, dict) and name in (came.get("joined"), came.get("left")):
            raise Failed(f"the message {json.dumps(came)}", expected)


async def who(answer: AnswerUnderTest, *, taped: bool = False) -> list[str]:
    """Return what `GET /who` says."""
    expected = '{"who": [...]} from GET /who'
    body = await answer.get_json("/who", expected, taped=taped)
    names = body.get("who") if isinstance(body, dict) else None
    if not isinstance(names, list):
        raise Failed(f"GET /who answered {json.dumps(body)[:60]}", expected)
    return names


async def expect_who(answer: AnswerUnderTest, expected: dict[str, bool], when: str) -> None:
    """Wait until each of these names is there, or is not.

    Raises:
        Failed: if it is not so in time; the sentence says what had happened.
    """
    seen: list[str] = []

    async def right() -> bool:
        nonlocal seen
        seen = await who(answer)
        return all((name in seen) is there for name, there in expected.items())

    in_time = await until(right)
    await who(answer, taped=True)
    if not in_time:
        ours = [name for name in seen if name in expected]
        there = [name for name, is_there in expected.items() if is_there]
        raise Failed(f"GET /who named {ours} when {when}", f"{there}")
