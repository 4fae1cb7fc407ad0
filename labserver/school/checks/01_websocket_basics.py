"""Checks of exercise 01: a WebSocket that adds, closes on wrong input with the right code, and counts who is online.

Numbers are drawn anew on each run. Every check stands alone: it sends wrong input as the first message, and judges the
count against what it was before, so that one fault of an answer fails one check.
"""

import asyncio
import json
from contextlib import AsyncExitStack

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import AnswerUnderTest, Peer, until

TITLE = "WebSocket basics"
OBJECT = "app"

HINTS = (
    "A wrong message reaches your loop as an exception: `receive_text()` raises KeyError for a binary message, reading "
    "the text as JSON raises ValueError. Where does your loop go then, and what does the client see?",
    "Two steps can fail, so give each its own `try`: receiving text, and turning it into two whole numbers. Each "
    "`except` ends in `await websocket.close(code, reason)` and a `return`. Mind that a missing b is a KeyError too.",
    "Count up after `accept()`, put everything else into `try:`, and count down in `finally:`, the only place that "
    "every way of leaving passes. `except WebSocketDisconnect: pass` is all that a client's leaving needs.",
)

_SEE = "notebooks/01_websocket_basics.ipynb#"
RECEIVE = _SEE + "Three-ways-to-receive"
CRASH = _SEE + "Break-it:-a-message-of-the-wrong-type"
CODES = _SEE + "Mend-it:-say-what-is-wrong"
CLEAN = _SEE + "Break-it:-clean-up-that-is-skipped"
FINALLY = _SEE + "Mend-it:-finally"
GONE = _SEE + "When-the-peer-is-gone"

MISCONCEPTIONS = {
    "tutorial_loop": Misconception.of(
        "You catch WebSocketDisconnect, as most tutorials do, and nothing else. A wrong message raises KeyError or "
        "ValueError instead: the client is cut off with 1006, and the count is never mended.",
        {
            "binary_closes_1003",
            "not_json_closes_1007",
            "wrong_shape_closes_1007",
            "only_whole_numbers",
            "online_after_wrong_messages",
        },
        CRASH,
    ),
    "crash_on_wrong_message": Misconception.of(
        "Your clean-up is right, but a wrong message still ends your endpoint by an exception. The client sees a cut "
        "(1006) and cannot tell its own mistake from a server that fell over.",
        {"binary_closes_1003", "not_json_closes_1007", "wrong_shape_closes_1007", "only_whole_numbers"},
        CRASH,
    ),
    "cleanup_only_on_disconnect": Misconception.of(
        "You count down where the client leaves by itself, but not where you close the connection. Whoever sends a "
        "wrong message stays online for ever.",
        {"online_after_wrong_messages"},
        CLEAN,
    ),
    "no_cleanup": Misconception.of(
        "You count up and never down.",
        {"online_after_close_and_hang_up", "online_after_wrong_messages"},
        CLEAN,
    ),
    "one_message_only": Misconception.of(
        "Your endpoint returns after one answer, as an HTTP endpoint does. A WebSocket lives as long as the function "
        "runs: receive in a loop.",
        {"many_sums", "clients_apart"},
        RECEIVE,
    ),
    "one_code_for_everything": Misconception.of(
        "You close every wrong message with 1003. That code means a kind of message you do not take; text with wrong "
        "content is 1007.",
        {"not_json_closes_1007", "wrong_shape_closes_1007", "only_whole_numbers"},
        CODES,
    ),
    "shape_not_checked": Misconception.of(
        "You check that the text is JSON, but not what it holds. JSON can be a list, a string, or an object in which "
        "a is a word, and Python adds words as well.",
        {"wrong_shape_closes_1007", "only_whole_numbers"},
        CODES,
    ),
    "coerces_numbers": Misconception.of(
        'You make whole numbers of what came, or let something else: `int(2.5)` is 2, `int("2")` is 2, and true is an '
        "int in Python. The client gets a sum of numbers that it never sent, in place of being told.",
        {"only_whole_numbers"},
        CODES,
    ),
    "adds_floats": Misconception.of(
        'You add by `float()`. It takes 2.5, "2" and true as well, and the sum of 2 and 3 is then 5.0, which is not '
        "the whole number 5.",
        {"one_sum", "many_sums", "clients_apart", "only_whole_numbers"},
        CODES,
    ),
    "state_shared_by_clients": Misconception.of(
        "You keep one connection in a module-level name. The last client to connect gets everybody's sums: what "
        "belongs to one client belongs into the endpoint's local names.",
        {"clients_apart"},
        RECEIVE,
    ),
    "forgot_accept": Misconception.of(
        "Your endpoint receives before it accepts. Nothing is a WebSocket until `await websocket.accept()`; until then "
        "it is an HTTP request, and a server that gives up answers it with an HTTP status.",
        {
            "one_sum",
            "many_sums",
            "clients_apart",
            "binary_closes_1003",
            "not_json_closes_1007",
            "wrong_shape_closes_1007",
            "only_whole_numbers",
            "online_after_close_and_hang_up",
            "online_after_wrong_messages",
        },
        RECEIVE,
    ),
    "python_is_not_json": Misconception.of(
        "You send str() of a dict. That is Python's notation, with single quotes; JSON has double ones: use "
        "`send_json`, or `json.dumps`.",
        {"one_sum", "many_sums", "clients_apart"},
        RECEIVE,
    ),
    "catches_everything_and_goes_on": Misconception.of(
        "You catch every exception and go on, so the loop goes on after the client has left as well: `receive` then "
        "raises at once, again and again, without ever waiting, and nobody else on this server is served any more.",
        {
            "many_sums",
            "clients_apart",
            "binary_closes_1003",
            "not_json_closes_1007",
            "wrong_shape_closes_1007",
            "only_whole_numbers",
            "online_after_close_and_hang_up",
            "online_after_wrong_messages",
        },
        GONE,
    ),
    "counts_down_twice": Misconception.of(
        "You count down in `except WebSocketDisconnect` and once more in `finally`, which runs as well.",
        {"online_after_close_and_hang_up"},
        FINALLY,
    ),
}


@points(5, hint="Does your endpoint accept the connection, and send the sum as JSON in a text message?")
async def check_one_sum(answer: AnswerUnderTest) -> None:
    """`{"a": 2, "b": 3}` is answered by `{"sum": 5}`."""
    async with answer.websocket("/ws/sum") as peer:
        await ask(peer, *numbers(answer))


@points(10, hint="How often does your endpoint receive before it returns?")
async def check_many_sums(answer: AnswerUnderTest) -> None:
    """Many messages on one connection are answered, in their order."""
    async with answer.websocket("/ws/sum") as peer:
        pairs = [numbers(answer) for _ in range(answer.random.randrange(4, 9))]
        for a, b in pairs:
            await peer.send_json({"a": a, "b": b})
        for a, b in pairs:
            await peer.expect_json({"sum": a + b})


@points(10, repeat=3, hint="Which names of yours are shared by all clients?")
async def check_clients_apart(answer: AnswerUnderTest) -> None:
    """Clients that talk at the same time each get their own sums."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(answer.websocket("/ws/sum")) for _ in range(4)]
        asked = [[numbers(answer) for _ in range(3)] for _ in peers]
        async with asyncio.TaskGroup() as group:
            for peer, pairs in zip(peers, asked, strict=True):
                group.create_task(talk(peer, pairs))


@points(15, hint="What does `receive_text()` do with a binary message?")
async def check_binary_closes_1003(answer: AnswerUnderTest) -> None:
    """A binary message closes the connection: 1003, with a reason."""
    async with answer.websocket("/ws/sum") as peer:
        await peer.send(answer.random.randbytes(8))
        await peer.expect_close(1003, "the message was binary")


@points(15, hint="What does `json.loads` raise, and who catches it?")
async def check_not_json_closes_1007(answer: AnswerUnderTest) -> None:
    """Text that is not JSON closes the connection: 1007, with a reason."""
    for text in not_json(answer):
        async with answer.websocket("/ws/sum") as peer:
            await peer.send(text)
            await peer.expect_close(1007, f"the text {text!r} is not JSON")


@points(10, hint="Which JSON values are not an object with two whole numbers?")
async def check_wrong_shape_closes_1007(answer: AnswerUnderTest) -> None:
    """JSON without two whole numbers `a` and `b` closes the connection: 1007, with a reason."""
    for value in wrong_shapes(answer):
        async with answer.websocket("/ws/sum") as peer:
            await peer.send_json(value)
            await peer.expect_close(1007, f"{json.dumps(value)} has not that shape")


@points(10, hint='What does your code make of 2.5, of the text "2", and of true?')
async def check_only_whole_numbers(answer: AnswerUnderTest) -> None:
    """`2.5`, `"2"` or `true` in place of a whole number closes the connection: 1007, with a reason."""
    for value in not_whole(answer):
        async with answer.websocket("/ws/sum") as peer:
            await peer.send_json(value)
            await peer.expect_close(1007, f"{json.dumps(value)} has not two whole numbers")


@points(15, hint="Which line counts down when the client closes, and which when it hangs up without a close frame?")
async def check_online_after_close_and_hang_up(answer: AnswerUnderTest) -> None:
    """`GET /online` counts the clients, also after they closed, or hung up without a close frame."""
    before = await settled(answer)
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(answer.websocket("/ws/sum")) for _ in range(3)]
        await expect_online(answer, before + 3, before, "three clients had connected")
        await peers[0].close()
        await expect_online(answer, before + 2, before, "one of three clients had closed")
        await peers[1].hang_up()
        await expect_online(answer, before + 1, before, "another had hung up without a close frame")
    await expect_online(answer, before, before, "all had left")


@points(10, hint="Which line counts down after you have closed the connection yourself?")
async def check_online_after_wrong_messages(answer: AnswerUnderTest) -> None:
    """`GET /online` is right after clients whose message was wrong."""
    wrong: list[str | bytes] = [answer.random.randbytes(8), not_json(answer)[0], json.dumps(wrong_shapes(answer)[0])]
    before = await settled(answer)
    for message in wrong:
        async with answer.websocket("/ws/sum") as peer:
            await expect_online(answer, before + 1, before, "a client had connected")
            await peer.send(message)
            await peer.over(0.5)
        kind = "a binary message" if isinstance(message, bytes) else f"the text {message!r}"
        await expect_online(answer, before, before, f"a client had sent {kind} and was gone")


def numbers(answer: AnswerUnderTest) -> tuple[int, int]:
    """Two whole numbers, of either sign."""
    return answer.random.randrange(-(10**6), 10**6), answer.random.randrange(-(10**6), 10**6)


def not_json(answer: AnswerUnderTest) -> list[str]:
    """Texts that are no JSON."""
    a, b = numbers(answer)
    return [f"{a} plus {b}", f'{{"a": {a}, "b":', ""]


def wrong_shapes(answer: AnswerUnderTest) -> list[object]:
    """JSON values that are not `{"a": int, "b": int}`."""
    a, b = numbers(answer)
    return [{"a": a}, [a, b], a, {"a": f"x{a}", "b": f"y{b}"}, {"a": a, "b": None}]


def not_whole(answer: AnswerUnderTest) -> list[object]:
    """Objects of the right shape, but one of their values only resembles a whole number."""
    a, b = numbers(answer)
    return [{"a": a + 0.5, "b": b}, {"a": a, "b": str(b)}, {"a": True, "b": b}]


async def ask(peer: Peer, a: int, b: int) -> None:
    """Send two numbers, expect their sum."""
    await peer.send_json({"a": a, "b": b})
    await peer.expect_json({"sum": a + b})


async def talk(peer: Peer, pairs: list[tuple[int, int]]) -> None:
    """Ask for one sum after the other."""
    for a, b in pairs:
        await ask(peer, a, b)


async def online(answer: AnswerUnderTest, *, taped: bool = False) -> int:
    """Return what `GET /online` says."""
    expected = '{"online": n} from GET /online'
    body = await answer.get_json("/online", expected, taped=taped)
    count = body.get("online") if isinstance(body, dict) else None
    if not isinstance(count, int):
        raise Failed(f"GET /online answered {json.dumps(body)}", expected)
    return count


async def settled(answer: AnswerUnderTest) -> int:
    """Return the count once it no longer moves: the clients of an earlier check may still be on their way out."""
    last = [await online(answer)]

    async def still() -> bool:
        last.append(await online(answer))
        return len(last) >= 4 and len(set(last[-4:])) == 1

    await until(still)
    return last[-1]


async def expect_online(answer: AnswerUnderTest, count: int, before: int, when: str) -> None:
    """Wait until the count is right.

    Raises:
        Failed: if it is not in time; the sentence says what had happened.
    """
    seen = before

    async def right() -> bool:
        nonlocal seen
        seen = await online(answer)
        return seen == count

    in_time = await until(right)
    await online(answer, taped=True)
    if not in_time:
        raise Failed(f"GET /online said {seen} when {when}", f"{count} ({before} before the check)")
