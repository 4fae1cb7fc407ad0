"""Checks of exercise 15: a client that reads a feed through every cut, against a server that is hostile on purpose.

Words, ids and `retry` are drawn anew on each run. Every check stands alone: bytes, cuts, repeats, refusals, waits,
silence and ends are each looked at in one of them, and no other one needs what is wrong there. How long the answer
waits is a matter of chance, and rightly: so many of it wait at once, and all bounds are such that a right answer meets
them also on a busy machine. Those bounds are of means and extremes, and a late wake-up only makes waits longer.
"""

import asyncio
from contextlib import AsyncExitStack
from statistics import fmean

from labserver.school.checking import Failed, Misconception, points
from labserver.school.client_wire import ClientUnderTest, Event, encoded
from labserver.school.hostile import Reply, Visit, in_turn, waits
from labserver.school.wire import WAIT

TITLE = "A client that comes back"
OBJECT = "follow"
LESSON = "06_sse_resume"

FIRST, CAP, SILENCE = 0.1, 0.8, 1.0  # seconds, as in the exercise
CROWD = 16  # answers that wait at once
FAILURES = 6  # in a row: the ceilings are FIRST, twice, four times that, and then CAP three times
ALL_WAITS = 8.0  # seconds for them, which take 3.1 at the most

HINTS = (
    "Two loops: the outer one connects, and waits before it does so again; the inner one reads. Decide for each way "
    "out of the inner loop whether it is the end, a reason to raise, or a reason for another turn of the outer one.",
    "`aiter_bytes` cuts where it likes. `codecs.getincrementaldecoder('utf-8-sig')` keeps half a character until the "
    "rest comes, and `io.IncrementalNewlineDecoder` makes one `\\n` of each of the three line ends. Then a blank line "
    "is `\\n\\n`, and what stands behind the last one is not complete. Where does that belong when the line is cut?",
    "Remember the last id when you yield its event, and a few ids before, for a server that repeats. Pass `timeout="
    "SILENCE` to `client.stream`, and catch `httpx.TransportError` around it. After each failure sleep for "
    "`random.uniform(0, min(CAP, first * 2**failures))`, and for what `Retry-After` asks in addition; an event sets "
    "`failures` to 0, an answer of 200 alone does not.",
)

_05, _06 = "notebooks/05_server_sent_events.ipynb#", "notebooks/06_sse_resume.ipynb#"

MISCONCEPTIONS = {
    "lines_of_httpx": Misconception.of(
        "You read by `aiter_lines`. It also ends a line at separators that are none in an event stream, and leaves the "
        "mark at the very beginning in the first field's name.",
        {"bytes"},
        _05 + "An-event-is-lines-and-a-blank-line",
    ),
    "id_of_half_an_event": Misconception.of(
        "You remember an id as soon as its line is there. When the line is cut before the blank one, you have told the "
        "server that you have an event which you never yielded.",
        {"cuts"},
        _06 + "Break-it:-what-happened-in-the-tunnel",
    ),
    "no_last_event_id": Misconception.of(
        "You come back as a new client. A browser's EventSource sends the last id by itself; your client has to.",
        {"cuts", "repeats"},
        _06 + "Break-it:-what-happened-in-the-tunnel",
    ),
    "trusts_the_server": Misconception.of(
        "You yield whatever comes. A server that is not sure what you have sends some of it again: compare ids.",
        {"repeats"},
        _06 + "Mend-it:-a-log,-and-where-to-go-on",
    ),
    "end_of_the_body": Misconception.of(
        "You return when the body ends. A body that ends in order may be a proxy's or a crash's: only `done` says that "
        "the feed is complete.",
        {"cuts", "waits"},
        _05 + "Break-it:-half-a-feed-that-looks-whole",
    ),
    "tries_for_ever": Misconception.of(
        "You come back whatever the answer is. A wrong password does not become right by being repeated, and a 204 "
        "says that there is no more.",
        {"refusals"},
        _06 + "Mend-it:-204,-or-a-page-that-closes",
    ),
    "gives_up_on_a_503": Misconception.of(
        "You take every status but 200 for the end. 503 and 429 say: not now. EventSource gives up there, and that is "
        "one more reason for a client of your own.",
        {"waits", "asked_to_wait"},
        _05 + "When-EventSource-gives-up",
    ),
    "no_jitter": Misconception.of(
        "Your waits double, and they are the same for everybody. All clients of a server that restarts come back in "
        "the same instant, again and again: draw each wait between 0 and the ceiling.",
        {"waits"},
        "notebooks/14_production.ipynb#Mend-it:-hear-the-signal-first",
    ),
    "not_asked": Misconception.of(
        "You wait as you like. The server knows better when it is back, and says so by `retry` and `Retry-After`.",
        {"asked_to_wait"},
        _06 + "A-feed-that-is-quiet-most-of-the-time",
    ),
    "no_deadline": Misconception.of(
        "A stream may be silent, so you switched the time-out off. Then a connection that died without a word is "
        "waited for until you restart. The feed's comments are there so that you can tell the two apart.",
        {"silence"},
        "notebooks/04_heartbeats.ipynb#Mend-it:-a-deadline-for-silence",
    ),
    "done_is_an_event": Misconception.of(
        "You yield `done` and `error` like any other event, and come back when the body ends. They are the feed's last "
        "word.",
        {"ends"},
        _06 + "Break-it:-a-stream-that-is-done,-and-starts-again",
    ),
    "task_of_its_own": Misconception.of(
        "A task reads, and hands events over by a queue. What the task raises nobody hears, and nobody ends it when "
        "the caller stops: read in the generator itself.",
        {"refusals", "ends"},
        "notebooks/10_backpressure.ipynb#Break-it:-a-queue-ahead-of-the-yield",
    ),
}


@points(15, hint="What is the smallest piece in which your events may come?")
async def check_bytes(client: ClientUnderTest) -> None:
    """It takes events apart as the standard says, wherever the bytes are cut."""
    a, b, c, d, e, f = client.labels(6)
    body = (
        f"\ufeffid: {a}\ndata: {a} after the mark\n\n"
        f': a comment\r\nevent: price\r\ndata: {{"price": 21}}\r\nid: {b}\r\n\r\n'
        f"id: {c}\rdata: Zürich, 21 °C 🌡\r\r"
        f"event: nothing\n\n"
        f"data: one\ndata:\ndata:  three: {d}\nid:{d}\ncolour: red\n\n"
        f"id: {e}\ndata: one\u2028line, and\x0bno \x85more\n\n"
        f"id: {f}\ndata:\n\n"
    ).encode()
    single = tuple(body[at : at + 1] for at in range(len(body)))
    utf8 = ("Content-Type", "text/event-stream; charset=utf-8")
    expected: list[Event] = [
        ("message", f"{a} after the mark", a),
        ("price", '{"price": 21}', b),
        ("message", "Zürich, 21 °C 🌡", c),
        ("message", f"one\n\n three: {d}", d),
        ("message", "one\u2028line, and\x0bno \x85more", e),
        ("message", "", f),
    ]
    for path, reply, how in (
        ("/whole", Reply((body,)), "all at once"),
        ("/bytes", Reply(single, headers=(utf8,)), "byte by byte"),
    ):
        client.script(path, in_turn(reply))
        async with client.follow(path) as run:
            await run.until(lambda: len(run.events) >= len(expected))
        for number, (event, came) in enumerate(zip(expected, [*run.events, *[None] * 6], strict=False), 1):
            if came != event:
                seen = run.how() or run.odd or (f"{came!r}" if came else "nothing")
                raise Failed(f"{how}, event {number}: {seen}", f"{event!r}")
        await run.expect(expected)


@points(15, hint="Which event did you yield last, and what else do you still hold when the line is cut?")
async def check_cuts(client: ClientUnderTest) -> None:
    """After every kind of cut it goes on behind the last whole event, and drops the unfinished one."""
    for ending in ("cut", "whole"):
        path, events = f"/{ending}", client.feed(5)
        half = f"id: {events[2][2]}\ndata: half an e".encode()
        replies = (
            Reply((*map(encoded, events[:2]), half), ending),
            Reply(end="reset", status=0),
            Reply(tuple(map(encoded, events[2:4])), "whole" if ending == "cut" else "cut"),
            Reply((encoded(events[4]),)),
        )
        client.script(path, in_turn(*replies))
        async with client.follow(path) as run:
            await run.expect(events, ", and nothing of what was cut")
        said = [visit.last_event_id for visit in client.visits(path)]
        expected = [None, events[1][2], events[1][2], events[3][2]]
        if said != expected:
            raise Failed(f"Last-Event-ID of the visits: {', '.join(map(str, said))}", ", ".join(map(str, expected)))


@points(10, hint="How do you know an event that you have had?")
async def check_repeats(client: ClientUnderTest) -> None:
    """What a server sends again after a cut is not yielded twice."""
    events = client.feed(12)

    def script(visit: Visit) -> Reply:
        """Begin three events before the place where the client says it is; a new one misses what came meanwhile."""
        ids = [event[2] for event in events]
        known = ids.index(visit.last_event_id) + 1 if visit.last_event_id in ids else 5 * (visit.number - 1)
        begin = max(0, known - 3) if visit.last_event_id else known
        return Reply(tuple(map(encoded, events[begin : known + 4])), "cut" if known < 8 else "hold")

    client.script("/repeats", script)
    async with client.follow("/repeats") as run:
        await run.expect(events, ": each once, though the server begins three before Last-Event-ID")


@points(15, hint="Which answers are the same tomorrow?")
async def check_refusals(client: ClientUnderTest) -> None:
    """What no further try can mend raises FeedFailed at once; a 204 is the end."""
    status = client.random.choice([400, 403, 410])
    page = Reply((b"<h1>Log in</h1>",), "whole", headers=(("Content-Type", "text/html"),))
    replies = {f"HTTP {number}": Reply(status=number) for number in (401, 404, status, 204)} | {"a page": page}
    for name, reply in replies.items():
        path, events = f"/{name.replace(' ', '-')}", client.feed(1)
        client.script(path, in_turn(Reply((encoded(events[0]),), "cut"), reply))
        expected = f"after {name}: {'the end' if name == 'HTTP 204' else 'FeedFailed'}, and no further visit"
        async with client.follow(path) as run:
            how = await run.end(2 * WAIT)
        right = run.ended == "done" if name == "HTTP 204" else "FeedFailed" in run.raised
        visits = len(client.visits(path))
        if not right or visits != 2:
            raise Failed(f"after {name}: {how or 'no end'}, {visits - 1} visits after the first", expected)


@points(15, deadline=20, hint="How long does each of a thousand clients wait, when the server is down for a minute?")
async def check_waits(client: ClientUnderTest) -> None:
    """The waits are drawn between 0 and a ceiling, which doubles up to CAP, and is FIRST again after an event."""
    busy, nothing = Reply(status=503), Reply(end="whole")
    failed = None
    for path in ("/waits", "/again"):  # a busy machine is late now and then, and a wrong answer is wrong again
        paths = [f"{path}/{number}" for number in range(CROWD)]
        for each in paths:
            some, more = map(encoded, client.feed(2))
            failures = [busy, nothing] * (FAILURES // 2)
            client.script(each, in_turn(*failures, Reply((some,), "cut"), Reply((more,))))
        await crowd(client, paths, paths[:1], FAILURES + 2, ALL_WAITS)
        failed = judged([waits(client.visits(each)) for each in paths])
        if failed is None:
            return
    if failed is not None:
        raise failed


def judged(waits: list[list[float]]) -> Failed | None:
    """Judge what a crowd waited, a list for each: after each failure in a row, and after an event that was cut.

    Return why it is wrong: the waits do not grow, pass the cap, are alike, or do not begin anew.
    """
    late = fmean(wait for each in waits for wait in each[FAILURES - 2 : FAILURES])
    last = [each[FAILURES - 1] for each in waits]
    anew = fmean(each[FAILURES] for each in waits)
    if late < CAP / 4:
        seen = f"{FAILURES} failures in a row (503, or 200 and no event), and then {late:.2f} s on average"
        return Failed(seen, f"about {CAP / 2:g} s by then, half of CAP")
    if late < 1.5 * fmean(each[0] for each in waits):
        return Failed("the first wait is as long as the sixth", f"a ceiling that begins with {FIRST:g} s and doubles")
    if fmean(last) > 1.25 * CAP:
        return Failed(f"{fmean(last):.2f} s on average after {FAILURES} failures", f"no wait above CAP, {CAP:g} s")
    if max(last) - min(last) < 0.3 * CAP:
        seen = f"{CROWD} clients that all wait {min(last):.2f} to {max(last):.2f} s"
        return Failed(seen, f"waits spread over 0 to {CAP:g} s")
    if anew > 0.6 * late:
        return Failed(f"{anew:.2f} s on average after an event, as before it", f"a ceiling of {FIRST:g} s again")
    return None


@points(10, hint="Who knows when the server is back?")
async def check_asked_to_wait(client: ClientUnderTest) -> None:
    """It waits for as long as the server says: by `retry` in the stream, by Retry-After in the head."""
    retry = client.random.randrange(700, 801)
    paths = [f"/retry/{number}" for number in range(CROWD)]
    for path in paths:
        first, second, third = map(encoded, client.feed(3))
        asking = (f"retry: {retry}\n".encode() + first, b"retry: soon\n" + second)
        client.script(path, in_turn(Reply(asking, "cut"), Reply((third,))))
    asked = {
        "/after-1": Reply(status=client.random.choice([503, 429]), headers=(("Retry-After", "1"),)),
        "/after-a-date": Reply(status=503, headers=(("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"),)),
    }
    for path, reply in asked.items():
        client.script(path, in_turn(reply, Reply((encoded(*client.feed(1)),))))
    await crowd(client, [*asked, *paths], [*asked, paths[0]], 2, 2 * WAIT)
    if (wait := waits(client.visits("/after-1"))[0]) < 0.95:
        raise Failed(f"Retry-After: 1, and a wait of {wait:.2f} s", "1 s or more")
    longest = max(waits(client.visits(path))[0] for path in paths)
    if longest < 0.3:
        seen = f"retry: {retry}, and none of {CROWD} clients waits for more than {longest:.2f} s"
        raise Failed(seen, f"waits between 0 and {retry} ms")


@points(10, deadline=20, hint="How does a stream in which nothing happens differ from one that is dead?")
async def check_silence(client: ClientUnderTest) -> None:
    """It leaves a connection on which nothing came for SILENCE seconds, and stays on one with comments."""
    quiet, slow = client.feed(2), client.feed(2)
    dead = Reply((encoded(quiet[0]),), "silent")
    client.script("/silent", in_turn(dead, Reply(end="silent", status=0), Reply((encoded(quiet[1]),))))
    for path in ("/comments", "/comments/again"):
        client.script(path, in_turn(Reply((encoded(slow[0]),))))
    async with client.follow("/silent") as run, client.follow("/comments"):
        await run.expect(quiet, f": a new connection after {SILENCE:g} s of silence, twice", 3 * SILENCE + 2 * WAIT)
    if len(client.visits("/comments")) != 1:  # a busy machine may hold up a comment for that long, but not twice
        async with client.follow("/comments/again"):
            if await client.visited("/comments/again", lambda visits: len(visits) > 1, 2 * SILENCE):
                raise Failed("another visit to a feed that sends comments", "none: a comment is a sign of life")
    silent = client.visits("/silent")[0]
    if silent.left is None or silent.left - silent.came < SILENCE / 2:
        seen = "the silent connection is still open" if silent.left is None else "it left before the silence was over"
        raise Failed(seen, f"it is closed after {SILENCE:g} s")


@points(10, hint="Who closes the connection: when `done` comes, when your caller has enough?")
async def check_ends(client: ClientUnderTest) -> None:
    """It ends at `done`, raises FeedFailed at `error`, and closes its connection when the caller stops."""
    for name in ("done", "error"):
        path, events, word = f"/{name}", client.feed(2), client.labels(1)[0]
        last = encoded((name, word, client.labels(1)[0]))
        client.script(path, in_turn(Reply((*map(encoded, events), last))))
        expected = "it returns" if name == "done" else f"it raises FeedFailed: {word}"
        async with client.follow(path) as run:
            how = await run.end()
            right = run.ended == "done" if name == "done" else "FeedFailed" in run.raised and word in run.text
            if not right:
                raise Failed(
                    f"at `{name}`: {how or f'{len(run.events)} events and no end'}", f"at `{name}`: {expected}"
                )
            await run.expect(events, f", and then `{name}`, which is not yielded")
            await client.expect_gone(path, f"after `{name}`")
    events = client.feed(1)
    client.script("/stops", in_turn(Reply((encoded(events[0]),))))
    async with client.follow("/stops") as run:
        await run.expect(events)
    await client.expect_gone("/stops", "after the caller stopped")
    if await client.visited("/stops", lambda visits: len(visits) > 1, 3 * FIRST):
        raise Failed("another visit after the caller stopped", "none")


async def crowd(client: ClientUnderTest, paths: list[str], taped: list[str], visits: int, seconds: float) -> None:
    """Have many follow, each its own path, until each has made so many visits.

    Raises:
        Failed: if one ends before, or they are not done in time.
    """
    clock = asyncio.get_running_loop().time
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(client.follow(path, taped=path in taped)) for path in paths]
        ends = clock() + seconds
        for path, run in zip(paths, runs, strict=True):
            await client.visited(path, lambda made: len(made) >= visits or bool(run.ended), ends - clock())  # noqa: B023
            if (made := len(client.visits(path))) < visits:
                raise Failed(f"{made} visits: {run.how() or f'no more within {seconds:g} s'}", f"{visits} visits")
