"""Hidden checks of exercise 08: names for those who cut the dots out, the first byte alone, and all headers of HEAD."""

from urllib.parse import quote

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("08_stream_files")

MISCONCEPTIONS = {
    "cuts_the_dots_out": Misconception.of(
        "You cut `../` out of the name. What stood around it comes together and is a new one: `....//` is `../` after "
        "that. Do not mend a name, look where it leads.",
        {"dots_in_dots"},
        VISIBLE.RESOLVE,
    ),
    "zero_is_nothing": Misconception.of(
        "You take the number 0 for none, since both are false. Byte 0 is the first of the file, and who asks for it "
        "alone gets all of it.",
        {"first_and_last_byte"},
        VISIBLE.MORE,
    ),
    "head_tells_the_length": Misconception.of(
        "You answer HEAD by a function of its own, which tells the length. A client asks it for everything that GET "
        "would tell: the name, the type, the version.",
        {"head_tells_the_same"},
        VISIBLE.MORE,
    ),
}


@guards("names_lead_out", hint="What becomes of the name when you have changed it?")
async def check_dots_in_dots(answer: AnswerUnderTest) -> None:
    """A name that leads out after dots were cut out or decoded once more is answered by 404 as it is."""
    slash = answer.random.choice(["%2f", "/"])
    for up in (f"....{slash}{slash}", f"..{slash}..{slash}.{slash}", "..%252f", "%252e%252e%252f", "..%5c"):
        await VISIBLE.refuse(answer, f"{up}letter.txt")
        await VISIBLE.refuse(answer, f"poems{slash}{up}{up}letter.txt")


@guards("part", hint="Which numbers can a position be?")
async def check_first_and_last_byte(answer: AnswerUnderTest) -> None:
    """The first byte of a file can be asked for, and the last one, and those of any file."""
    for name, content in (("atlas.bin", VISIBLE.BIG), ("poems/rain.txt", VISIBLE.POEM)):
        end, some = len(content) - 1, answer.random.randrange(1, 20)
        for first, last in ((0, 0), (0, some), (end - some, end), (end, end)):
            asked, said = f"bytes={first}-{last}", f"bytes {first}-{last}/{len(content)}"
            got = await VISIBLE.ask(answer, name, f"206 with {said}", headers={"Range": asked})
            VISIBLE.expect(got, 206, f"GET /files/{name} with Range: {asked}")
            if (there := got.headers.get("content-range")) != said:
                raise Failed(f"Content-Range: {there}", f"Content-Range: {said}")
            if got.content != content[first : last + 1]:
                raise Failed(f"{len(got.content)} other bytes", f"the {last + 1 - first} bytes from {first} to {last}")


@guards("head", hint="Which of the headers of GET does a client still miss?")
async def check_head_tells_the_same(answer: AnswerUnderTest) -> None:
    """`HEAD` is answered by every header of `GET`."""
    for name in ("poems/rain.txt", "été 🌊 имя.txt"):
        headers = []
        for method in ("GET", "HEAD"):
            got = await VISIBLE.ask(answer, quote(name), "200", method=method)
            VISIBLE.expect(got, 200, f"{method} /files/{name}")
            headers.append({key: value for key, value in got.headers.items() if key != "date"})
        for key in headers[0] | headers[1]:
            get, head = (each.get(key, "no such header") for each in headers)
            if get != head:
                raise Failed(f"{key}: {head}, for HEAD /files/{name}", f"{key}: {get}, as for GET")
