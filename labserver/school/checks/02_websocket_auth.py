"""Checks of exercise 02: a mailbox that opens by a first message, for its owner alone, and for no foreign page.

Users and letters are drawn anew on each run; tokens are signed here, with the secret that the exercise gives. Every
check stands alone: one fault of an answer fails one check.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest, Peer

TITLE = "Authenticate a WebSocket"
OBJECT = "app"

SECRET = "known to everyone who does this exercise"
PAGES = ("https://mail.example", "https://beta.mail.example")
DEADLINE = 0.5
PATH = "/ws/mailbox"

HINTS = (
    "Accept first, then wait for one message, for DEADLINE at most. Three things can happen: a message, another kind "
    "of message, nothing. Each needs an answer, and two of them are close 4401 with a reason.",
    "`asyncio.timeout(DEADLINE)` goes around the first `receive_text()` alone and raises TimeoutError. A model such as "
    "`class FirstMessage(BaseModel): token: str` checks the shape: what does not fit is a ValueError, a binary message "
    "is a KeyError.",
    "Then ask `user_of(...)` once and keep what it returns: None closes 4401, a name is the `from` of every answer, "
    "whatever a message says. `from_our_pages` raises HTTPException(403) when there is an origin and it is not in "
    "PAGES.",
)

_SEE = "notebooks/02_websocket_auth.ipynb#"
TOKEN = _SEE + "What-a-token-is"
IDENTITY = _SEE + "Mend-it:-identity-comes-from-the-token"
CODES = _SEE + "Mend-it:-accept,-then-refuse"
ORIGIN = _SEE + "Break-it:-any-page-may-connect"
PROGRAMS = _SEE + "Mend-it:-check-the-origin-yourself"
WAITING = _SEE + "Break-it:-waiting-for-ever"
SHAPE = _SEE + "Mend-it:-a-deadline-and-a-shape"

MISCONCEPTIONS = {
    "tutorial_first_message": Misconception.of(
        "You wait for JSON with a token, and for nothing else. Whoever says nothing stays connected, and whoever says "
        "something else crashes your endpoint (1006).",
        {"other_shape_closes_4401", "silence_closes_4401"},
        WAITING,
    ),
    "no_deadline": Misconception.of(
        "You wait for the first message as long as the client likes. A socket that nobody has vouched for stays open.",
        {"silence_closes_4401"},
        WAITING,
    ),
    "crash_on_other_shape": Misconception.of(
        "You take the first message for what it should be. It may be binary, no JSON, a list, or an object without a "
        "token, and each of these raises something else.",
        {"other_shape_closes_4401"},
        SHAPE,
    ),
    "deadline_over_everything": Misconception.of(
        "Your deadline covers the whole conversation. It is meant for the first message: whoever has shown a token may "
        "be silent.",
        {"stays_open"},
        SHAPE,
    ),
    "believes_the_message": Misconception.of(
        "You take the sender's name from the message. Whoever has a token of their own then writes in anybody's name: "
        "identity comes from the token.",
        {"name_is_the_tokens"},
        IDENTITY,
    ),
    "user_in_a_global": Misconception.of(
        "You keep the user in a module-level name. All connections share it, so the last one to log in is everybody.",
        {"users_apart"},
        IDENTITY,
    ),
    "signature_not_checked": Misconception.of(
        "You read the token without checking it. Anyone can write a token; only the signature says who wrote this one.",
        {"invalid_token_closes_4401"},
        TOKEN,
    ),
    "http_codes": Misconception.of(
        "You close with a code of the protocol (1008). It says that some policy was violated; a client can't tell from "
        "it that it has to log in again. 4401 was agreed on for that.",
        {"invalid_token_closes_4401", "other_shape_closes_4401", "silence_closes_4401"},
        CODES,
    ),
    "cors_is_enough": Misconception.of(
        "You leave the origin to CORSMiddleware. It looks at HTTP alone, and a browser applies CORS to no WebSocket: "
        "the foreign page connects.",
        {"foreign_page_is_refused"},
        ORIGIN,
    ),
    "refuses_programs": Misconception.of(
        "You demand an origin from everyone. Only browsers send one; a program has none, and needs none.",
        {
            "token_opens_the_mailbox",
            "name_is_the_tokens",
            "users_apart",
            "stays_open",
            "invalid_token_closes_4401",
            "other_shape_closes_4401",
            "silence_closes_4401",
        },
        PROGRAMS,
    ),
    "refuses_every_page": Misconception.of(
        "You refuse everyone who sends an origin. Each page sends one, also your own: ask whether it is in PAGES.",
        {"token_opens_the_mailbox"},
        PROGRAMS,
    ),
}


@points(10, hint="What does your endpoint send after `accept`, and which origins does it let in?")
async def check_token_opens_the_mailbox(answer: AnswerUnderTest) -> None:
    """A valid token in the first message is answered by its owner's mail: for programs and for pages of `PAGES`."""
    for origin in (None, *PAGES):
        async with connected(answer, origin) as peer:
            await log_in(peer, name(answer))


@points(15, hint="Where does the name in `from` come from, and can a message change it?")
async def check_name_is_the_tokens(answer: AnswerUnderTest) -> None:
    """Each further message is answered with its text and the token's name, whatever name the message holds."""
    user, other = name(answer), name(answer)
    async with connected(answer) as peer:
        await log_in(peer, user)
        for lie in ({}, {}, {"from": other}, {"user": other}, {"from": other, "user": other, "sub": other}):
            text = f"letter {answer.random.randrange(10**6)}"
            await peer.send_json({"text": text} | lie)
            await peer.expect_json({"from": user, "text": text})


@points(10, repeat=2, hint="Which names of yours are shared by all connections?")
async def check_users_apart(answer: AnswerUnderTest) -> None:
    """Users who are connected at the same time each have their own name."""
    users = [name(answer) for _ in range(4)]
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connected(answer)) for _ in users]
        for peer, user in zip(peers, users, strict=True):
            await log_in(peer, user)
        for peer, user in zip(peers, users, strict=True):
            await peer.send_json({"text": "hello"})
            await peer.expect_json({"from": user, "text": "hello"})


@points(10, hint="Where does the block of your deadline end?")
async def check_stays_open(answer: AnswerUnderTest) -> None:
    """Who has shown a token may be silent for longer than `DEADLINE`."""
    user = name(answer)
    async with connected(answer) as peer:
        await log_in(peer, user)
        await asyncio.sleep(2 * DEADLINE)  # the silence itself is what is checked
        await peer.send_json({"text": "still here"})
        await peer.expect_json({"from": user, "text": "still here"})


@points(15, hint="What does `user_of` return for a token that is not valid, and what do you do then?")
async def check_invalid_token_closes_4401(answer: AnswerUnderTest) -> None:
    """A token that is forged, expired, for another service or none at all closes 4401, with a reason."""
    user = name(answer)
    wrong = {
        "signed with another secret": token(user, secret="x" * 40),
        "expired": token(user, seconds=-1),
        "for another service": token(user, audience="another"),
        "no token at all": user,
    }
    for what, each in wrong.items():
        async with connected(answer) as peer:
            await peer.send_json({"token": each})
            await peer.expect_close(4401, f"the token is {what}")


@points(15, hint="Which exceptions can come from receiving a text, and from reading it as JSON with a token?")
async def check_other_shape_closes_4401(answer: AnswerUnderTest) -> None:
    """A first message that is binary, not JSON, or without a text in `token` closes 4401, with a reason."""
    number = answer.random.randrange(10**6)
    wrong: list[str | bytes] = [
        answer.random.randbytes(8),
        f"token {number}",
        "{}",
        json.dumps([number]),
        json.dumps({"token": number}),
        json.dumps({"text": "hello"}),
    ]
    for message in wrong:
        async with connected(answer) as peer:
            await peer.send(message)
            kind = "binary" if isinstance(message, bytes) else message
            await peer.expect_close(4401, f"the first message was {kind}")


@points(15, hint="What ends the wait for a message that never comes?")
async def check_silence_closes_4401(answer: AnswerUnderTest) -> None:
    """Without a first message the connection closes after `DEADLINE`: 4401, with a reason."""
    async with connected(answer) as peer:
        await peer.expect_close(4401, f"no first message came within {DEADLINE:g} s")


@points(10, hint="Who looks at the header `Origin`? No browser and no middleware does it for a WebSocket.")
async def check_foreign_page_is_refused(answer: AnswerUnderTest) -> None:
    """The handshake of a page of another origin is refused with HTTP 403."""
    number = answer.random.randrange(10**6)
    for origin in (f"https://page{number}.example", f"{PAGES[0]}.page{number}.example", "http://mail.example", "null"):
        expected = f"HTTP 403 in place of the handshake, for a page of {origin}"
        try:
            async with connected(answer, origin, passed_on=InvalidStatus):
                raise Failed("the WebSocket was opened", expected)
        except InvalidStatus as refused:
            if refused.response.status_code != 403:
                raise Failed(f"HTTP {refused.response.status_code}", expected) from None


@asynccontextmanager
async def connected(
    answer: AnswerUnderTest, origin: str | None = None, *, passed_on: type[Exception] | tuple[()] = ()
) -> AsyncIterator[Peer]:
    """Connect as a program, or as a browser does for a page of `origin`.

    Raises:
        Failed: if the server does not accept in time.
    """
    expected = f"a WebSocket at {PATH}" + (f", for a page of {origin}" if origin else "")
    try:
        async with asyncio.timeout(WAIT):
            connection = await connect(
                answer.ws_url + PATH,
                origin=origin,  # type: ignore[arg-type]
                compression=None,
                proxy=None,
                close_timeout=WAIT,
            )
    except passed_on:
        raise
    except InvalidStatus as refused:
        raise Failed(f"HTTP {refused.response.status_code} in place of the handshake", expected) from None
    except TimeoutError:
        raise Failed(f"no handshake within {WAIT:g} s", expected) from None
    except (InvalidHandshake, OSError) as error:
        raise Failed(f"no connection ({type(error).__name__})", expected) from None
    try:
        yield Peer(connection)
    finally:
        await connection.close()


def name(answer: AnswerUnderTest) -> str:
    """A user's name."""
    return f"{answer.random.choice(('ana', 'ben', 'cleo', 'dora'))}{answer.random.randrange(10**6)}"


def token(user: str, *, secret: str = SECRET, audience: str = "mailbox", seconds: float = 60) -> str:
    """A token as the exercise's `user_of` takes it, unless told otherwise."""
    claims: dict[str, Any] = {"sub": user, "aud": audience, "exp": int(time.time() + seconds)}
    return jwt.encode(claims, secret, "HS256")


async def log_in(peer: Peer, user: str) -> None:
    """Send a valid token, expect the mail."""
    await peer.send_json({"token": token(user)})
    mail = f"The code of {user}'s door is {sha256(user.encode()).hexdigest()[:6]}."
    await peer.expect_json({"user": user, "mail": mail})
