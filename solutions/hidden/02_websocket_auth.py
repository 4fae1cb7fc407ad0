"""Hidden checks of exercise 02: a user with two sockets, JSON that is no object, and origins that resemble ours."""

import json

from websockets.exceptions import InvalidStatus

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("02_websocket_auth")

MISCONCEPTIONS = {
    "one_socket_for_each_user": Misconception.of(
        "You keep one socket for each user. Who opens the mailbox in a second tab takes the answers away from the "
        "first: an answer goes to the socket that asked.",
        {"one_user_twice"},
        VISIBLE.IDENTITY,
    ),
    "asks_a_word_for_its_token": Misconception.of(
        "You look for `token` in whatever the JSON is. In a word Python finds it as well, and in null or a number the "
        "question itself raises: first make sure that it is an object.",
        {"neither_object_nor_list"},
        VISIBLE.SHAPE,
    ),
    "every_neighbour_is_ours": Misconception.of(
        "You let in every origin that ends in your name. Anybody can own a name that ends so, and a page beside yours "
        "is not yours: compare the whole origin with those of PAGES.",
        {"neighbours_are_foreign"},
        VISIBLE.PROGRAMS,
    ),
}


@guards("users_apart", hint="To which socket does an answer go when its user has two?")
async def check_one_user_twice(answer: AnswerUnderTest) -> None:
    """A user who is connected twice gets each answer where she asked, also after one of the two has closed."""
    user = VISIBLE.name(answer)
    async with VISIBLE.connected(answer) as first:
        await VISIBLE.log_in(first, user)
        async with VISIBLE.connected(answer, VISIBLE.PAGES[1]) as second:
            await VISIBLE.log_in(second, user)
            for peer in (first, second, first):
                text = f"letter {answer.random.randrange(10**6)}"
                await peer.send_json({"text": text})
                await peer.expect_json({"from": user, "text": text})
        await first.send_json({"text": "alone"})
        await first.expect_json({"from": user, "text": "alone"})


@guards("other_shape_closes_4401", hint="Which JSON values are no object, and what does your code ask them?")
async def check_neither_object_nor_list(answer: AnswerUnderTest) -> None:
    """A first message that is a word, a number or null, or has no text in `token`, closes 4401 with a reason."""
    number = answer.random.randrange(10**6)
    for value in ("token", f"token {number}", number, None, True, {"token": None}, {"token": [f"x{number}"]}):
        async with VISIBLE.connected(answer) as peer:
            await peer.send_json(value)
            await peer.expect_close(4401, f"the first message was {json.dumps(value)}")


@guards("foreign_page_is_refused", hint="Do you compare the whole origin, or a part of it?")
async def check_neighbours_are_foreign(answer: AnswerUnderTest) -> None:
    """The handshake is refused with HTTP 403 for origins that only resemble those of `PAGES`."""
    word = f"page{answer.random.randrange(10**6)}"
    for origin in (
        f"https://{word}mail.example",
        f"https://{word}.mail.example",
        f"https://mail.example:{answer.random.randrange(1024, 9999)}",
        f"https://mail.example{word}",
    ):
        expected = f"HTTP 403 in place of the handshake, for a page of {origin}"
        try:
            async with VISIBLE.connected(answer, origin, passed_on=InvalidStatus):
                raise Failed("the WebSocket was opened", expected)
        except InvalidStatus as refused:
            if refused.response.status_code != 403:
                raise Failed(f"HTTP {refused.response.status_code}", expected) from None
