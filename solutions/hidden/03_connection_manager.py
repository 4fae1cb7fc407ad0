"""Hidden checks of exercise 03: words that JSON has to quote, said by each in turn, and a client that comes back."""

from labserver.school.catalogue import checks_module
from labserver.school.checking import Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("03_connection_manager")

MISCONCEPTIONS = {
    "json_by_hand": Misconception.of(
        "You put the words between quotes yourself. A quote, a backslash or a line break in them ends your JSON: use "
        "`send_json`, or `json.dumps`.",
        {"any_words"},
        VISIBLE.ROOM,
    ),
    "greets_each_name_once": Misconception.of(
        "You remember whom you announced, and do not announce them again. Who has left and comes back comes in: "
        "what you remember of a client has to go with it.",
        {"coming_back"},
        VISIBLE.ROOM,
    ),
}


@guards("everyone_hears", hint="Which characters may not stand between the quotes of JSON as they are?")
async def check_any_words(answer: AnswerUnderTest) -> None:
    """Each may speak, and any words reach everyone: quotes, backslashes, line breaks, JSON, nothing at all."""
    names, number = VISIBLE.new_names(answer, 3), answer.random.randrange(10**6)
    said = (
        f'"{number}"',
        f"{number}\\n",
        f"two\nlines {number}",
        f'{{"left": "{number}"}}',
        "",
        f"{{{number}}} 東京 🌊",
    )
    async with VISIBLE.room(answer, names) as peers:
        for turn, text in enumerate(said):
            speaker = turn % len(peers)
            await peers[speaker].send(text)
            for peer in peers:
                await VISIBLE.hear(peer, names[speaker], text)


@guards("notices", hint="What does your app still know of a client that has left?")
async def check_coming_back(answer: AnswerUnderTest) -> None:
    """Who has left and comes back is told of again, hears what is said, and is told of when leaving."""
    ana, ben = VISIBLE.new_names(answer, 2)
    async with VISIBLE.room(answer, [ana]) as (first,):
        for _ in range(3):
            async with VISIBLE.room(answer, [ben]) as (second,):
                await VISIBLE.notice(first, {"joined": ben})
                await VISIBLE.expect_who(answer, {ana: True, ben: True}, f"{ben} had come in")
                await first.send(f"hello {ben}")
                await VISIBLE.hear(second, ana, f"hello {ben}")
            await VISIBLE.notice(first, {"left": ben})
            await VISIBLE.expect_who(answer, {ana: True, ben: False}, f"{ben} had closed")
