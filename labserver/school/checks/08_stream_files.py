"""Checks of exercise 08: a folder's files with their length, parts and names, nothing beside it, and a table in chunks.

Ranges, rows and the spelling of names are drawn anew on each run. Each check asks for one thing only: the names in the
other checks are simple, so that one fault of an answer fails one check.
"""

import re
from email.message import Message
from email.utils import collapse_rfc2231_value
from itertools import takewhile
from typing import Any
from urllib.parse import quote

import httpx

from labserver.school.checking import Failed, Misconception, points
from labserver.school.wire import WAIT, AnswerUnderTest

TITLE = "Stream files"
OBJECT = "app"

HINTS = (
    "A name is a path that a stranger wrote. Before you open it, find out where it really leads. And what would "
    "FileResponse have told the client that a file read by hand does not?",
    "`(SHELF / name).resolve()` takes out dots and follows links. Then ask two things: does it lie in the shelf, and "
    "is it a file? Compare paths as paths, by `is_relative_to`, and not as text.",
    "Not both? `raise HTTPException(404)`. Else `FileResponse(path, filename=path.name)`: it does the length, HEAD, "
    "Range and any name. The table is a generator in a StreamingResponse, some hundred rows for each `yield`.",
)

_SEE = "notebooks/08_stream_files.ipynb#"
MORE = _SEE + "A-file-is-more-than-its-bytes"
OUT = _SEE + "Break-it:-a-name-that-leads-out-of-the-folder"
RESOLVE = _SEE + "Mend-it:-resolve,-then-look-where-it-is"
NAME = _SEE + "Break-it:-a-name-that-is-written-into-a-header"
TINY = _SEE + "Break-it:-a-file-in-tiny-chunks"
LARGE = _SEE + "Mend-it:-FileResponse,-and-larger-chunks"
REPORT = _SEE + "A-file-that-is-not-there-yet"

MISCONCEPTIONS = {
    "joins_names": Misconception.of(
        "You join what the client says to your folder and open it. Two dots lead up and out, a slash in front replaces "
        "your folder, and a link leads wherever it likes.",
        {"names_lead_out", "links_lead_out"},
        OUT,
    ),
    "compares_text": Misconception.of(
        "You compare paths as text. `shelf-of-drafts` begins with `shelf`, and is another folder: `is_relative_to` "
        "compares whole parts.",
        {"names_lead_out"},
        RESOLVE,
    ),
    "follows_links": Misconception.of(
        "You take the dots out, but follow links: what is checked is the name, what is opened is where it leads. "
        "`resolve()` does both.",
        {"links_lead_out"},
        RESOLVE,
    ),
    "chunks_by_hand": Misconception.of(
        "You read the file by hand and stream the chunks. Nobody then knows how long it is, and nobody answers Range.",
        {"whole_file", "head", "part"},
        TINY,
    ),
    "reads_it_whole": Misconception.of(
        "You read the whole file into memory and send that. The length is right, but a client that asks for a part "
        "gets all of it, and each client costs you a file's size of memory.",
        {"part"},
        LARGE,
    ),
    "get_alone": Misconception.of(
        "You answer GET alone: in FastAPI `@app.get` refuses HEAD with 405, by which clients ask for the length.",
        {"head"},
        MORE,
    ),
    "looks_too_late": Misconception.of(
        "You check where the name leads, but not that there is a file. FileResponse finds out when it is sent, and "
        "that is a 500.",
        {"no_such_file"},
        LARGE,
    ),
    "name_as_it_is": Misconception.of(
        "You write the file's name into the header as it is. A semicolon begins the next parameter, and a letter "
        "beyond Latin-1 is a 500. `FileResponse(path, filename=...)` encodes it.",
        {"any_name"},
        NAME,
    ),
    "table_made_whole": Misconception.of(
        "You make the whole table before you send its first byte. That is why it has a length; with a million rows the "
        "client waits for all of them, and you hold them.",
        {"table"},
        REPORT,
    ),
}

BIG = bytes(range(256)) * 2_000
POEM = b"It rains, and rains, and rains.\n"


@points(10, hint="Which response knows the length of a file?")
async def check_whole_file(answer: AnswerUnderTest) -> None:
    """`GET /files/{name}` is answered by 200, the file and its `Content-Length`."""
    for name, content in (("atlas.bin", BIG), ("poems/rain.txt", POEM)):
        got = await ask(answer, name, f"200 and the {len(content)} bytes of {name}")
        expect(got, 200, f"GET /files/{name}")
        if got.content != content:
            raise Failed(f"{len(got.content)} bytes that are not {name}", f"the {len(content)} bytes of {name}")
        expect_length(got, len(content), f"GET /files/{name}")


@points(10, hint="Which methods does `@app.get` answer?")
async def check_head(answer: AnswerUnderTest) -> None:
    """`HEAD` is answered by the same headers without the body."""
    got = await ask(answer, "atlas.bin", "200 without a body", method="HEAD")
    expect(got, 200, "HEAD /files/atlas.bin")
    expect_length(got, len(BIG), "HEAD /files/atlas.bin")


@points(15, hint="Who answers `Range` in your app?")
async def check_part(answer: AnswerUnderTest) -> None:
    """`Range` is answered by 206, these bytes and `Content-Range`."""
    for _ in range(3):
        first = answer.random.randrange(len(BIG) - 1_000)
        last = first + answer.random.randrange(900)
        asked, said = f"bytes={first}-{last}", f"bytes {first}-{last}/{len(BIG)}"
        got = await ask(answer, "atlas.bin", f"206 with {said}", headers={"Range": asked})
        expect(got, 206, f"GET with Range: {asked}")
        if (there := got.headers.get("content-range")) != said:
            raise Failed(f"Content-Range: {there}", f"Content-Range: {said}")
        if got.content != BIG[first : last + 1]:
            raise Failed(f"{len(got.content)} other bytes", f"the {last + 1 - first} bytes from {first} to {last}")


@points(10, hint="When does your code find out that there is no such file?")
async def check_no_such_file(answer: AnswerUnderTest) -> None:
    """A name of no file, or of a folder, is answered by 404."""
    for name in (
        f"no{answer.random.randrange(10**6)}.txt",
        "poems",
        "poems/",
        f"poems/{answer.random.randrange(10**6)}",
    ):
        expect(await ask(answer, name, "404"), 404, f"GET /files/{name}")


@points(20, hint="Where does the name lead when all dots are followed, and is that a part of the shelf?")
async def check_names_lead_out(answer: AnswerUnderTest) -> None:
    """A name that leads out of the shelf is answered by 404, however it is spelled."""
    up = answer.random.choice(["..%2f", "%2e%2e%2f", "%2E%2E/", ".%2e%2F"])
    deep = f"poems%2f{up}{up}"
    for name in (
        f"{up}letter.txt",
        f"{deep}letter.txt",
        f"nosuch%2f{up}{up}letter.txt",
        f"{up}shelf-of-drafts%2fdraft.txt",
        f"{up * 20}etc%2fpasswd",
        "%2fetc%2fpasswd",
        "%2f" + f"{up}letter.txt",
    ):
        await refuse(answer, name)


@points(10, hint="Is what you check the name, or the file that would be opened?")
async def check_links_lead_out(answer: AnswerUnderTest) -> None:
    """A link that leads out of the shelf is answered by 404."""
    for name in ("link.txt", "attic/letter.txt"):
        await refuse(answer, name)


@points(15, hint="What ends a parameter in a header, and which letters may stand in one?")
async def check_any_name(answer: AnswerUnderTest) -> None:
    """`Content-Disposition: attachment` tells the file's own name, whatever letters it has."""
    for name in ("two words.txt", "a;b.txt", "x.txt; filename=setup.exe", "été 🌊 имя.txt", "poems/rain.txt"):
        own = name.rpartition("/")[2]
        got = await ask(answer, quote(name), f"200 and the name {own!r}")
        expect(got, 200, f"GET /files/{name}")
        told = got.headers.get("content-disposition", "")
        if saved_as(told) != own:
            raise Failed(f"Content-Disposition: {told}" if told else "no Content-Disposition", f"the name {own!r}")


@points(10, hint="Who makes the table, and when does its first line leave?")
async def check_table(answer: AnswerUnderTest) -> None:
    """`GET /squares.csv?rows=n` sends the table, without a length."""
    for rows in (3, answer.random.randrange(2_000, 4_000)):
        expected = f"the table of {rows} rows, without a length"
        got = await request(answer, "GET", f"/squares.csv?rows={rows}", expected)
        expect(got, 200, f"GET /squares.csv?rows={rows}")
        lines = ["number,square", *(f"{number},{number * number}" for number in range(rows))]
        if (came := got.text.splitlines()) != lines:
            wrong = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(came, lines, strict=False)))
            there = repr(came[wrong][:40]) if wrong < len(came) else "nothing"
            raise Failed(f"{len(came)} lines, and {there} as line {wrong + 1}", f"{len(lines)} lines, as in the task")
        if "content-length" in got.headers:
            raise Failed(f"Content-Length: {got.headers['content-length']}", "no Content-Length: it is not known yet")


async def ask(
    answer: AnswerUnderTest, name: str, expected: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> httpx.Response:
    """Ask for a file by a name that is spelled as it should be sent."""
    return await request(answer, method, f"/files/{name}", expected, headers)


async def request(
    answer: AnswerUnderTest, method: str, path: str, expected: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Return the whole answer.

    Raises:
        Failed: if there is none in time, or it is cut.
    """
    try:
        async with httpx.AsyncClient(timeout=WAIT, trust_env=False, verify=False) as client:
            return await client.request(method, answer.url + path, headers=headers)
    except httpx.TimeoutException:
        raise Failed(f"{method} {path} had no answer within {WAIT:g} s", expected) from None
    except httpx.RemoteProtocolError:
        raise Failed(f"the answer to {method} {path} was cut", expected) from None
    except httpx.HTTPError as error:
        raise Failed(f"{method} {path} failed ({type(error).__name__})", expected) from None


def expect(got: httpx.Response, status: int, asked: str) -> None:
    """Compare the status."""
    if got.status_code != status:
        raise Failed(f"{asked} was answered by {got.status_code}", str(status))


def expect_length(got: httpx.Response, length: int, asked: str) -> None:
    """Compare `Content-Length`."""
    if (there := got.headers.get("content-length")) != str(length):
        seen = f"Content-Length: {there}" if there else "no Content-Length"
        raise Failed(f"{seen} for {asked}", f"Content-Length: {length}")


async def refuse(answer: AnswerUnderTest, name: str) -> None:
    """Expect 404, and nothing private."""
    got = await ask(answer, name, "404")
    if b"PRIVATE" in got.content:
        raise Failed(f"GET /files/{name} was answered by a file that is not on the shelf", "404")
    expect(got, 404, f"GET /files/{name}")


def saved_as(told: str) -> str | None:
    """Return the name that a client saves under; of two, `filename*` wins (RFC 6266, 4.3). None for no attachment."""
    header = Message()
    header["Content-Disposition"] = re.sub(r"\s+", " ", told)
    if header.get_content_disposition() != "attachment":
        return None
    found: list[Any] = [
        value for key, value in header.get_params([], header="content-disposition") if key == "filename"
    ]
    extended = [value for value in found if isinstance(value, tuple)]
    return collapse_rfc2231_value((extended or found)[0]) if found else None
