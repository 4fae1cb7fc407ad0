"""Files over real sockets: what is in the folder, whole and in parts, and nothing else, however it is spelled."""

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

from labserver.settings import Settings
from labserver.stage import LiveServer, RemoteFiles, remote_files, start

BIG = bytes(range(256)) * 20_000  # 5 MB: several chunks
WEB = httpx.Client(verify=False)  # plain HTTP; loading certificates for each request takes longer than the request
SECRET = b"not for download"
NAMES = (
    "plain.txt",
    "two words.txt",
    "naïve 🌊.txt",
    "a;b.txt",
    'x.txt; filename="setup.exe"',
    "x.txt; filename*=UTF-8''setup.exe",
    "quote\".txt'",
    "new\nline.txt",
    "carriage\r\nX-Injected: yes",
    "back\\slash.txt",
    "100%25.txt",
    "tab\t.txt",
    ".hidden",
    "-",
    "имя",
    "x" * 255,
    "index.html",
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with secrets beside it, and links that lead out."""
    disk = tmp_path_factory.mktemp("disk").resolve()
    root = disk / "downloads"
    (root / "sub").mkdir(parents=True)
    (disk / "etc").mkdir()
    for path in (disk / "secret.txt", disk / "etc" / "passwd", disk / "downloads-of-others"):
        path.write_bytes(SECRET)
    (root / "big.bin").write_bytes(BIG)
    (root / "empty").write_bytes(b"")
    (root / "sub" / "inner.txt").write_text("inner")
    (root / "link-out").symlink_to(disk / "secret.txt")
    (root / "link-up").symlink_to("..", target_is_directory=True)
    (root / "link-link").symlink_to(root / "link-out")
    (root / "link-etc").symlink_to("/etc", target_is_directory=True)
    (root / "link-in").symlink_to("sub/inner.txt")
    (root / "circle").symlink_to("circle")
    (root / "gone").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    return disk


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteFiles]:
    with remote_files("remote-tests") as remote:
        yield remote


@pytest.fixture(scope="module")
def site(disk: Path, remote: RemoteFiles) -> Iterator[LiveServer]:
    settings = Settings(files_root=disk / "downloads", relay_upstream=remote.url, relay_timeout=5)
    with start(name="files", settings=settings) as live:
        yield live
        WEB.close()
        assert [error for error in live.errors() if "peer closed connection" not in error] == []


def raw(live: LiveServer, target: bytes, method: bytes = b"GET") -> bytes:
    """Send a request target as it is, which no client does, and return all that comes back."""
    with socket.create_connection((live.host, live.port), timeout=10) as connection:
        connection.sendall(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


# --- spellings


def spellings(disk: Path) -> list[bytes]:
    """Return request targets that mean, in some reading, a file outside `downloads`."""
    dots = [
        b"..",
        b"%2e%2e",
        b"%2E.",
        b".%2e",
        b"%252e%252e",
        b"%25252e.",
        b"..%00",
        b"..;",
        b"....",
        b"..%20",
        b"..%0a",
    ]
    dots += [
        b"%ef%bc%8e%ef%bc%8e",
        b"%e2%80%a5",
        b"%c0%ae%c0%ae",
        b"%e0%80%ae.",
        b"%u002e%u002e",
        "\uff0e\uff0e".encode(),
    ]
    slashes = [b"/", b"%2f", b"%252F", b"\\", b"%5c", b"%255c", b"//", b"/./", b"%c0%af", b"%ef%bc%8f", b"/%20/"]
    names = [dot + slash + b"secret.txt" for dot in dots for slash in slashes]
    absolute = str(disk / "secret.txt").encode()
    for path in (b"/etc/passwd", absolute, b"/proc/self/environ", b"/etc/hostname"):
        encoded = path.replace(b"/", b"%2f")
        names += [
            path,
            encoded,
            b"/" + path,
            b"%5c" + path,
            b"sub/" + path,
            b"file://" + path,
            b"." + path,
            encoded * 2,
        ]
        names += [b"../" * count + path[1:] for count in (1, 2, 5, 12, 500)]
    names += [b"sub/../../secret.txt", b"nosuch/../../secret.txt", b"big.bin/../../secret.txt", b"./../secret.txt"]
    names += [b"../downloads-of-others", b"..%2fdownloads-of-others", b"../downloads/../secret.txt", b"../etc/passwd"]
    names += [b"../secret.txt%00.txt", b"big.bin%00/../../secret.txt", b"%00", b"../secret.txt%00", b"../%73ecret.txt"]
    names += [b"link-out", b"link-link", b"link-up/secret.txt", b"link-up/etc/passwd", b"link-etc/passwd", b"gone"]
    names += [
        b"circle",
        b"circle/../../secret.txt",
        b"pipe",
        b"sub",
        b"sub/",
        b"",
        b".",
        b"..",
        b"%2e",
        b"../downloads",
    ]
    names += [
        b"C:/secret.txt",
        b"C:%5csecret.txt",
        b"C:secret.txt",
        b"%5c%5c?%5cC:%5csecret.txt",
        b"..%5c..%5csecret.txt",
    ]
    names += [b"NUL", b"CON", b"~/secret.txt", b"~root/.profile", b"$HOME/.profile", b"../secret.txt::$DATA"]
    names += [b"x" * 300, b"x" * 5_000 + b"/../../secret.txt", b"../" * 5_000 + b"etc/passwd", b"a/" * 3_000 + b"b"]
    targets = [b"/download/" + name for name in names]
    targets += [
        b"/download?name=../secret.txt",
        b"/download/?name=../secret.txt",
        b"/download/big.txt?/../../secret.txt",
    ]
    targets += [b"/download/nosuch#/../../secret.txt", b"/download/;/../../secret.txt", b"//download/../../secret.txt"]
    targets += [
        b"/../secret.txt",
        b"/download/../../secret.txt",
        b"http://x/download/../secret.txt",
        b"download/../secret.txt",
    ]
    return targets


def test_no_spelling_reads_anything_outside(site: LiveServer, disk: Path) -> None:
    targets = spellings(disk)
    assert len(set(targets)) >= 120
    passwd = Path("/etc/passwd").read_bytes()
    for number, target in enumerate(targets):
        for method in (b"GET", b"HEAD") if number % 8 == 0 else (b"GET",):
            answer = raw(site, target, method)
            status = answer.split(b" ", 2)[1]
            assert status in {b"400", b"404"} or target.startswith(b"/download?"), (method, target, answer[:200])
            assert SECRET not in answer, target
            assert passwd[:20] not in answer, target


# --- the folder


@pytest.mark.parametrize("name", ["big.bin", "empty", "sub/inner.txt", "link-in", "sub/../big.bin"])
def test_a_file_is_sent_as_it_is_and_head_says_the_same_without_it(site: LiveServer, disk: Path, name: str) -> None:
    url = f"{site.url}/download/{quote(name)}"
    got, asked = WEB.get(url), WEB.head(url)
    content = (disk / "downloads" / name).read_bytes()
    assert (got.status_code, got.content) == (200, content)
    assert (asked.status_code, asked.content) == (200, b"")
    same = {"content-length", "content-type", "etag", "last-modified", "accept-ranges", "content-disposition"}
    assert {key: got.headers[key] for key in same} == {key: asked.headers[key] for key in same}
    assert int(got.headers["content-length"]) == len(content)
    assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_file_can_only_be_read(site: LiveServer, method: str) -> None:
    assert WEB.request(method, f"{site.url}/download/big.bin").status_code == 405


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "start", "stop"),
    [
        ("bytes=0-0", 206, f"bytes 0-0/{len(BIG)}", 0, 1),
        ("bytes=100-199", 206, f"bytes 100-199/{len(BIG)}", 100, 200),
        ("bytes=5000000-", 206, f"bytes 5000000-{len(BIG) - 1}/{len(BIG)}", 5_000_000, None),
        ("bytes=-7", 206, f"bytes {len(BIG) - 7}-{len(BIG) - 1}/{len(BIG)}", -7, None),
        (f"bytes=10-{len(BIG) * 2}", 206, f"bytes 10-{len(BIG) - 1}/{len(BIG)}", 10, None),
        (f"bytes={len(BIG)}-", 416, f"bytes */{len(BIG)}", 0, 0),
    ],
)
def test_a_part_is_sent(
    site: LiveServer, asked: str, status: int, content_range: str, start: int, stop: int | None
) -> None:
    got = WEB.get(f"{site.url}/download/big.bin", headers={"Range": asked})
    assert (got.status_code, got.headers["content-range"]) == (status, content_range)
    assert got.content == BIG[start:stop]


def test_parts_put_together_again_are_the_file(site: LiveServer) -> None:
    url, parts = f"{site.url}/download/big.bin", []
    etag = WEB.head(url).headers["etag"]
    for first in range(0, len(BIG), 1_500_000):
        headers = {"Range": f"bytes={first}-{first + 1_499_999}", "If-Range": etag}
        parts.append(WEB.get(url, headers=headers).content)
    assert hashlib.sha256(b"".join(parts)).digest() == hashlib.sha256(BIG).digest()
    changed = WEB.get(url, headers={"Range": "bytes=1500000-", "If-Range": '"another"'})
    assert (changed.status_code, len(changed.content)) == (200, len(BIG))


def test_several_parts_come_as_multipart(site: LiveServer) -> None:
    got = WEB.get(f"{site.url}/download/big.bin", headers={"Range": "bytes=0-9,100-109"})
    assert got.status_code == 206
    assert got.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert BIG[:10] in got.content
    assert BIG[100:110] in got.content


@pytest.mark.parametrize("form", ["{0}", "W/{0}", '"x", {0}', '"x",W/{0} , "y"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_has_it_already_gets_304(site: LiveServer, form: str, method: str) -> None:
    url = f"{site.url}/download/big.bin"
    etag = WEB.head(url).headers["etag"]
    got = WEB.request(method, url, headers={"If-None-Match": form.format(etag)})
    assert (got.status_code, got.content, got.headers["etag"]) == (304, b"", etag)
    also = WEB.request(method, url, headers={"If-None-Match": form.format(etag), "Range": "bytes=0-9"})
    assert also.status_code == 304  # before Range: RFC 9110, 13.2.2


@pytest.mark.parametrize("tags", ['"x"', "", ",", '"x", "y"', "big"])
def test_who_has_another_version_gets_the_file(site: LiveServer, tags: str) -> None:
    got = WEB.get(f"{site.url}/download/big.bin", headers={"If-None-Match": tags})
    assert (got.status_code, len(got.content)) == (200, len(BIG))


def test_a_changed_file_is_sent_again(site: LiveServer, disk: Path) -> None:
    path = disk / "downloads" / "changing"
    path.write_text("one")
    first = WEB.get(f"{site.url}/download/changing")
    path.write_text("three")
    again = WEB.get(f"{site.url}/download/changing", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.text) == (200, "three")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_parameter_of_one_header(site: LiveServer, disk: Path, name: str) -> None:
    (disk / "downloads" / name).write_text("content")
    asked = {f"/report.csv?title={quote(name[:90])}": f"{name[:90]}.csv"}
    if "\n" not in name:  # Starlette's `{name:path}` matches none with a line break
        asked[f"/download/{quote(name, safe='')}"] = name
    for path, saved in asked.items():
        got = WEB.get(site.url + path)
        assert got.status_code == 200
        assert "x-injected" not in got.headers
        (disposition,) = got.headers.get_list("content-disposition")
        assert parameters(disposition) == [saved]


def parameters(disposition: str) -> list[str]:
    """Return every file name that a client could find in the header (RFC 6266, section 4.1)."""
    kind, _, rest = disposition.partition("; ")
    assert kind == "attachment"
    token = re.compile(r"""(filename)="([\w.~-]*)"|filename\*=UTF-8''([\w.~%-]*)""", re.ASCII)
    found = list(token.finditer(rest))
    assert "; ".join(match[0] for match in found) == rest
    return [match[2] if match[1] else unquote(match[3]) for match in found]


def test_without_a_folder_and_an_upstream_it_says_what_to_set(disk: Path) -> None:
    from labserver.stage.lab import fresh

    app = FastAPI()
    app.include_router(fresh("labserver.patterns.files").router)
    with start(app, name="bare", settings=Settings()) as live:
        assert "LABSERVER_FILES_ROOT" in WEB.get(f"{live.url}/download/x").json()["detail"]
        relayed = WEB.get(f"{live.url}/relay/x")
        assert (relayed.status_code, "LABSERVER_RELAY_UPSTREAM" in relayed.text) == (503, True)


# --- made while it is sent


@pytest.mark.parametrize("rows", [0, 1, 5_000, 5_001, 20_000])
def test_a_report_has_its_rows_and_no_length(site: LiveServer, rows: int) -> None:
    got = WEB.get(f"{site.url}/report.csv", params={"rows": rows})
    assert got.headers["content-type"] == "text/csv; charset=utf-8"
    assert "content-length" not in got.headers
    lines = got.text.split("\r\n")
    assert lines[0] == "number,square"
    assert lines[1:-1] == [f"{number},{number**2}" for number in range(rows)]
    assert lines[-1] == ""


@pytest.mark.parametrize("query", ["rows=-1", "rows=x", "rows=10000001", f"title={'x' * 101}"])
def test_a_report_that_cannot_be_is_a_422(site: LiveServer, query: str) -> None:
    assert WEB.get(f"{site.url}/report.csv?{query}").status_code == 422


async def test_a_long_report_leaves_others_their_turn_and_ends_with_its_client(site: LiveServer) -> None:
    long = {"rows": 10_000_000}
    async with (
        httpx.AsyncClient(base_url=site.url) as client,
        client.stream("GET", "/report.csv", params=long) as answer,
    ):
        await anext(answer.aiter_raw())
        for _ in range(5):
            async with asyncio.timeout(5):
                assert (await client.get("/download/sub/inner.txt")).text == "inner"


# --- from another server


def test_a_remote_file_arrives_as_it_is(site: LiveServer, remote: RemoteFiles) -> None:
    remote.add("film é;.bin", 3_000_001)
    url = f"{site.url}/relay/{quote('film é;.bin')}"
    got, asked = WEB.get(url), WEB.head(url)
    assert (got.status_code, asked.status_code) == (200, 200)
    assert got.content == remote.body("film é;.bin")
    assert got.headers["content-length"] == asked.headers["content-length"] == "3000001"
    assert got.headers["etag"] == asked.headers["etag"]
    assert parameters(got.headers["content-disposition"]) == ["film é;.bin"]
    assert asked.content == b""


async def test_the_first_byte_does_not_wait_for_the_last(site: LiveServer, remote: RemoteFiles) -> None:
    remote.add("slow.bin", 2_000_000, stops_at=1_000)
    async with httpx.AsyncClient() as client, client.stream("GET", f"{site.url}/relay/slow.bin") as answer:
        pieces = answer.aiter_raw()
        async with asyncio.timeout(5):
            first = await anext(pieces)
        assert remote.sending == 1
        remote.go()
        rest = [piece async for piece in pieces]
    assert first + b"".join(rest) == remote.body("slow.bin")


async def until(condition, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_client_that_leaves_ends_the_upstreams_work(site: LiveServer, remote: RemoteFiles) -> None:
    remote.add("left.bin", 2_000_000, stops_at=1_000)
    for _ in range(3):
        async with httpx.AsyncClient() as client, client.stream("GET", f"{site.url}/relay/left.bin") as answer:
            await anext(answer.aiter_raw())
            assert remote.sending == 1
        await until(lambda: remote.sending == 0)


async def test_a_client_that_stops_reading_stops_the_upstream(site: LiveServer, remote: RemoteFiles) -> None:
    size, before = 512 << 20, remote.sent
    remote.add("huge.bin", size)
    reader, writer = await asyncio.open_connection(site.host, site.port, limit=1 << 16)
    writer.write(b"GET /relay/huge.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1 << 16)
    seen = -1
    while seen != remote.sent:  # until nothing moves any more
        seen = remote.sent
        await asyncio.sleep(0.3)
    assert remote.sent - before < size / 4
    writer.transport.abort()
    await until(lambda: remote.sending == 0)


def test_a_cut_upstream_is_a_cut_answer(site: LiveServer, remote: RemoteFiles) -> None:
    remote.add("broken.bin", 1_000_000, breaks_at=300_000)
    with pytest.raises(httpx.RemoteProtocolError):
        WEB.get(f"{site.url}/relay/broken.bin")


@pytest.mark.parametrize(
    "name", ["nosuch", "..", ".", "%2e%2e", "..%2ffiles%2fx", "a%2fb", "a/b", "%2e%2e%2fopenapi.json"]
)
def test_what_the_upstream_does_not_have_is_a_404(site: LiveServer, remote: RemoteFiles, name: str) -> None:
    assert raw(site, b"/relay/" + name.encode()).split(b" ", 2)[1] == b"404"


def test_a_name_stays_a_name_in_the_upstreams_url(site: LiveServer, remote: RemoteFiles) -> None:
    for name in ("a?b=c", "a#b", "100%25", "a%2fb", "a\\b", "a b", "..a", "%2e%2e"):
        remote.add(name, 10)
        if name != "a%2fb":
            assert WEB.get(f"{site.url}/relay/{quote(name, safe='')}").content == remote.body(name)
    assert WEB.get(f"{site.url}/relay/{'x' * 256}").status_code == 422


def test_parts_and_304_are_the_upstreams(disk: Path) -> None:
    with start(name="behind", settings=Settings(files_root=disk / "downloads")) as behind:
        settings = Settings(relay_upstream=f"{behind.url}/download/")
        with start(name="before", settings=settings) as live:
            url = f"{live.url}/relay/big.bin"
            part = WEB.get(url, headers={"Range": "bytes=100-199"})
            assert (part.status_code, part.content) == (206, BIG[100:200])
            assert part.headers["content-range"] == f"bytes 100-199/{len(BIG)}"
            etag = part.headers["etag"]
            assert WEB.get(url, headers={"If-None-Match": etag}).status_code == 304
            assert WEB.get(url, headers={"Range": f"bytes={len(BIG)}-"}).status_code == 416
            assert WEB.get(url, headers={"Accept-Encoding": "gzip"}).content == BIG
            assert live.errors() == behind.errors() == []


async def test_troubles_of_the_upstream_are_told_before_the_body() -> None:
    upstream = FastAPI()
    hang = asyncio.Event()

    @upstream.get("/files/{name}")
    async def trouble(name: str) -> Response:
        if name == "hangs":
            await hang.wait()
        if name == "moved":
            return RedirectResponse("http://127.0.0.1/private")
        if name == "chatty":
            return Response("x", headers={"Set-Cookie": "a=b", "Server-Timing": "db", "Keep-Alive": "timeout=5"})
        return Response("internals", int(name))

    with start(upstream, name="trouble") as other:
        settings = Settings(relay_upstream=f"{other.url}/files", relay_timeout=0.5)
        with start(name="relay", settings=settings) as live:
            async with httpx.AsyncClient(base_url=f"{live.url}/relay") as client:
                for name in ("500", "503", "401", "403", "302", "moved"):
                    answer = await client.get(f"/{name}")
                    assert (answer.status_code, "internals" in answer.text) == (502, False)
                    assert "location" not in answer.headers
                late = await client.get("/hangs")
                assert (late.status_code, late.json()["detail"]) == (504, "the upstream does not answer in time")
                chatty = await client.get("/chatty")
                assert chatty.text == "x"
                assert {"set-cookie", "server-timing", "keep-alive"}.isdisjoint(chatty.headers)
            assert live.errors() == []


def test_an_upstream_that_is_not_there_is_a_502_and_one_that_says_nothing_a_504() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        said_nothing = mute.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            not_there = closed.getsockname()[1]
        for port, status in ((not_there, 502), (said_nothing, 504)):
            settings = Settings(relay_upstream=f"http://127.0.0.1:{port}", relay_timeout=0.5)
            with start(name="relay", settings=settings) as live:
                assert WEB.get(f"{live.url}/relay/x").status_code == status
                assert live.errors() == []


def open_files(folder: Path) -> list[str]:
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
async def test_a_download_that_is_left_leaves_no_file_open(site: LiveServer, disk: Path) -> None:
    (disk / "downloads" / "sparse").touch()
    os.truncate(disk / "downloads" / "sparse", 256 << 20)
    for _ in range(5):
        reader, writer = await asyncio.open_connection(site.host, site.port, limit=1 << 16)
        writer.write(b"GET /download/sparse HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1 << 16)
        assert open_files(disk)
        writer.transport.abort()
    await until(lambda: not open_files(disk))
