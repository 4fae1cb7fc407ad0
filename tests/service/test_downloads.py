"""Downloads over real sockets: what is in the folder, whole, in part or not again, by uvicorn and by a real nginx."""

import asyncio
import gc
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from realtime.wire import Newer, wrapped

from labserver.realtime.direct import protocols
from labserver.service import downloads
from labserver.settings import Settings, get_settings
from labserver.stage import LiveServer, start
from labserver.stage.proxies.nginx import Nginx, nginx

DEADLINE = 30.0
BIG = bytes(range(256)) * 20_000  # 5 MB: several pieces
SECRET = b"not for download"
WEB = httpx.Client(verify=False, timeout=DEADLINE)
NAMES = (
    "plain.txt",
    "two words.txt",
    "naïve 🌊.txt",
    'x.txt; filename="setup.exe"',
    "x.txt; filename*=UTF-8''setup.exe",
    "quote\".txt'",
    "carriage\rX-Injected: yes",
    "back\\slash.txt",
    "100%25.txt",
    "question?.txt",
    "tab\t.txt",
    "имя",
    "x" * 255,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with secrets beside it, and links that lead out."""
    disk = tmp_path_factory.mktemp("disk").resolve()
    root = disk / "downloads"
    (root / "sub").mkdir(parents=True)
    for path in (disk / "secret.txt", disk / "downloads-of-others", root / ".hidden"):
        path.write_bytes(SECRET)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(SECRET)
    (root / "big.bin").write_bytes(BIG)
    (root / "empty").write_bytes(b"")
    (root / "page.html").write_text("<script>")
    (root / "sub" / "inner.txt").write_text("inner")
    (root / "link-out").symlink_to(disk / "secret.txt")
    (root / "link-up").symlink_to("..", target_is_directory=True)
    (root / "link-etc").symlink_to("/etc", target_is_directory=True)
    (root / "link-hidden").symlink_to(".hidden")
    (root / "link-in").symlink_to("sub/inner.txt")
    (root / "circle").symlink_to("circle")
    (root / "gone").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    return root


def app_of(settings: Settings) -> FastAPI:
    app = FastAPI()
    app.include_router(downloads.router)
    app.dependency_overrides[get_settings] = lambda: settings
    return app


@pytest.fixture(scope="module", params=["direct", "plain"])
def site(request: pytest.FixtureRequest, root: Path) -> Iterator[LiveServer]:
    settings = Settings(files_root=root, file_chunk_bytes=1 << 16)
    with start(app_of(settings), name="files", **(protocols(settings) if request.param == "direct" else {})) as live:
        yield live
        assert live.errors() == []


@pytest.fixture(scope="module")
def hidden(root: Path) -> Iterator[LiveServer]:
    """The app that is told of an nginx in front."""
    with start(app_of(Settings(files_root=root, accel_prefix="/accel/")), name="hidden") as live:
        yield live
        assert live.errors() == []


@pytest.fixture(scope="module")
def front(hidden: LiveServer, root: Path, require: Callable[[str], None]) -> Iterator[Nginx]:
    require("nginx")
    with nginx(hidden, accel=root, name="front") as front:
        yield front


def raw(live: Any, target: bytes, method: bytes = b"GET") -> bytes:
    """Send a request target as it is, which no client does, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE) as connection:
        connection.sendall(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


def url(live: Any, name: str) -> str:
    return f"{live.url}/download/{quote(name, safe='/')}"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


# --- what is not there


def spellings(root: Path) -> list[bytes]:
    """Return request targets that mean, in some reading, what is outside the folder or hidden in it, or nothing."""
    dots = [b"..", b"%2e%2e", b"%2E.", b".%2e", b"%252e%252e", b"..%00", b"..;", b"....", b"..%20", b"%c0%ae%c0%ae"]
    slashes = [b"/", b"%2f", b"%2F", b"%252f", b"\\", b"%5c", b"//", b"/./", b"%c0%af", b"%ef%bc%8f"]
    names = [dot + slash + b"secret.txt" for dot in dots for slash in slashes]
    secret = bytes(root.parent / "secret.txt")
    for path in (b"/etc/passwd", secret, b"/proc/self/environ"):
        names += [path, path.replace(b"/", b"%2f"), b"/" + path, b"sub/" + path, b"file://" + path, b"../" * 12 + path]
    names += [b"sub/../../secret.txt", b"big.bin/../../secret.txt", b"../downloads-of-others", b"sub/../big.bin"]
    names += [
        b"%00",
        b"big.bin%00",
        b"big.bin%00/../../secret.txt",
        b"sub%2finner.txt",
        b"sub//inner.txt",
        b"./big.bin",
    ]
    names += [b"link-out", b"link-up/secret.txt", b"link-etc/passwd", b"link-hidden", b"gone", b"circle", b"pipe"]
    names += [b"sub", b"sub/", b"", b".", b"..", b"big.bin/", b"big.bin/x", b".hidden", b".git/config", b"sub/."]
    names += [b"x" * 300, b"../" * 5_000 + b"etc/passwd", b"a/" * 3_000 + b"b", b"%ff%fe", b"\xff", b"%ed%a0%80"]
    names += [b"NUL", b"C:/secret.txt", b"~/secret.txt", b"nosuch", b"new%0aline"]
    return [b"/download/" + name for name in names] + [b"/download/../../secret.txt"]


def test_no_spelling_reads_what_is_not_there_and_none_is_an_error(site: LiveServer, root: Path) -> None:
    for number, target in enumerate(spellings(root)):
        for method in (b"GET", b"HEAD") if number % 8 == 0 else (b"GET",):
            answer = raw(site, target, method)
            assert answer.split(b" ", 2)[1] in {b"400", b"404"}, (method, target[:100], answer[:200])
            assert SECRET not in answer, target
            assert b"root:" not in answer, target


def test_no_spelling_reads_what_is_not_there_by_nginx(front: Nginx, root: Path) -> None:
    for target in [*spellings(root), b"/accel/big.bin", b"/accel/../secret.txt", b"/download/../accel/big.bin"]:
        answer = raw(front, target)
        assert answer.split(b" ", 2)[1] in {b"400", b"404", b"414"}, (target[:100], answer[:200])
        assert SECRET not in answer, target


def test_without_a_folder_it_says_what_to_set() -> None:
    with start(app_of(Settings()), name="bare") as live:
        answer = WEB.get(f"{live.url}/download/x")
        assert (answer.status_code, answer.json()) == (503, {"detail": "no folder of files: set LABSERVER_FILES_ROOT"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_file_can_only_be_read(site: LiveServer, method: str) -> None:
    assert WEB.request(method, url(site, "big.bin")).status_code == 405


# --- whole and in parts


@pytest.mark.parametrize("name", ["big.bin", "empty", "sub/inner.txt", "link-in", "page.html"])
def test_a_file_is_sent_as_it_is_and_head_says_the_same_without_it(site: LiveServer, root: Path, name: str) -> None:
    got, asked = WEB.get(url(site, name)), WEB.head(url(site, name))
    content = (root / name).read_bytes()
    assert (got.status_code, got.content) == (200, content)
    assert (asked.status_code, asked.content) == (200, b"")
    same = {"content-length", "content-type", "etag", "last-modified", "accept-ranges", "content-disposition"}
    assert {key: got.headers[key] for key in same} == {key: asked.headers[key] for key in same}
    assert int(got.headers["content-length"]) == len(content)
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-disposition"].startswith("attachment; ")


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "start", "stop"),
    [
        ("bytes=0-0", 206, f"bytes 0-0/{len(BIG)}", 0, 1),
        ("bytes=100-200000", 206, f"bytes 100-200000/{len(BIG)}", 100, 200_001),
        ("bytes=5000000-", 206, f"bytes 5000000-{len(BIG) - 1}/{len(BIG)}", 5_000_000, None),
        ("bytes=-7", 206, f"bytes {len(BIG) - 7}-{len(BIG) - 1}/{len(BIG)}", -7, None),
        (f"bytes=10-{len(BIG) * 2}", 206, f"bytes 10-{len(BIG) - 1}/{len(BIG)}", 10, None),
        (f"bytes={len(BIG)}-", 416, f"bytes */{len(BIG)}", 0, 0),
    ],
)
def test_a_part_is_sent(
    site: LiveServer, asked: str, status: int, content_range: str, start: int, stop: int | None
) -> None:
    got = WEB.get(url(site, "big.bin"), headers={"Range": asked})
    assert (got.status_code, got.headers["content-range"]) == (status, content_range)
    assert got.content == BIG[start:stop]


@pytest.mark.parametrize(
    "asked", ["items=0-5", "bytes", "bytes=", "bytes=5-3", "bytes=x-y", "x", "bytes=" + "9" * 5000]
)
def test_a_range_that_is_none_is_ignored(site: LiveServer, asked: str) -> None:
    got = WEB.get(url(site, "big.bin"), headers={"Range": asked})
    assert (got.status_code, len(got.content)) == (200, len(BIG))


def test_parts_put_together_again_are_the_file_and_of_another_version_all_is_sent(site: LiveServer) -> None:
    etag, parts = WEB.head(url(site, "big.bin")).headers["etag"], []
    for first in range(0, len(BIG), 1_500_000):
        headers = {"Range": f"bytes={first}-{first + 1_499_999}", "If-Range": etag}
        parts.append(WEB.get(url(site, "big.bin"), headers=headers).content)
    assert hashlib.sha256(b"".join(parts)).digest() == hashlib.sha256(BIG).digest()
    for other in ('"another"', f"W/{etag}"):  # a weak name is none to go on by: RFC 9110, 13.1.5
        changed = WEB.get(url(site, "big.bin"), headers={"Range": "bytes=1500000-", "If-Range": other})
        assert (changed.status_code, len(changed.content)) == (200, len(BIG))


def test_several_parts_come_as_multipart(site: LiveServer) -> None:
    got = WEB.get(url(site, "big.bin"), headers={"Range": "bytes=0-9,100000-300000"})
    boundary = got.headers["content-type"].removeprefix("multipart/byteranges; boundary=").encode()
    parts = [part.partition(b"\r\n\r\n")[2] for part in got.content.split(b"--" + boundary)[1:-1]]
    assert (got.status_code, [part.removesuffix(b"\r\n") for part in parts]) == (206, [BIG[:10], BIG[100_000:300_001]])


def test_a_file_that_grows_is_sent_as_long_as_it_was(root: Path) -> None:
    """What appends to it does not wait for downloads: the length has been told."""
    path = root / "growing.log"
    path.write_bytes(BIG)
    settings = Settings(files_root=root, file_chunk_bytes=1 << 16)
    with start(app_of(settings), name="growing") as live, WEB.stream("GET", url(live, "growing.log")) as answer:
        with path.open("ab") as log:
            log.write(BIG)
        seen = sum(len(piece) for piece in answer.iter_raw())
        assert live.errors() == []
    assert seen == len(BIG)


def test_a_file_that_is_cut_short_is_a_cut_answer(root: Path) -> None:
    path = root / "shrinking.bin"
    path.write_bytes(b"")
    os.truncate(path, 64 << 20)
    with start(app_of(Settings(files_root=root)), name="cut") as live:
        with WEB.stream("GET", url(live, "shrinking.bin")) as answer:
            os.truncate(path, 0)
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        assert live.errors() == ["RuntimeError: Response content shorter than Content-Length"]


# --- not again


@pytest.mark.parametrize("form", ["{0}", "W/{0}", '"x", {0}', '"x",W/{0} , "y"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_has_it_already_gets_304(site: LiveServer, form: str, method: str) -> None:
    told = WEB.head(url(site, "big.bin")).headers
    for more in ({}, {"Range": "bytes=0-9"}, {"If-Modified-Since": formatdate(0, usegmt=True)}):  # RFC 9110, 13.2.2
        got = WEB.request(method, url(site, "big.bin"), headers={"If-None-Match": form.format(told["etag"]), **more})
        assert (got.status_code, got.content) == (304, b"")
        assert [got.headers[key] for key in ("etag", "last-modified")] == [told["etag"], told["last-modified"]]


@pytest.mark.parametrize("tags", ['"x"', "", ",", '"x", "y"', "big"])
def test_who_has_another_version_gets_the_file_whatever_the_date(site: LiveServer, tags: str) -> None:
    headers = {"If-None-Match": tags, "If-Modified-Since": formatdate(2**32, usegmt=True)}
    got = WEB.get(url(site, "big.bin"), headers=headers)
    assert (got.status_code, len(got.content)) == (200, len(BIG))


def test_without_a_tag_the_date_decides(site: LiveServer) -> None:
    date = WEB.head(url(site, "big.bin")).headers["last-modified"]
    told = {date: 304, formatdate(2**32, usegmt=True): 304, formatdate(0, usegmt=True): 200}
    told |= {"": 200, "soon": 200, "Mon, 99 Nov 2026 00:00:00 GMT": 200, "Fri, 31 Dec 9999 23:59:59 -2359": 304}
    for since, status in told.items():
        assert WEB.get(url(site, "big.bin"), headers={"If-Modified-Since": since}).status_code == status, since


def test_a_file_changed_within_the_same_second_has_another_name(site: LiveServer, root: Path) -> None:
    path, tags = root / "changing", set()
    for text, moment in (("one", 1), ("two", 2), ("two", 3), ("three", 3)):
        path.write_text(text)
        os.utime(path, ns=(10**18, 10**18 + moment))
        tags.add(WEB.get(url(site, "changing")).headers["etag"])
    assert len(tags) == 4
    assert all(re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', tag) for tag in tags)


# --- its name


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_file_name_of_one_header(site: LiveServer, front: Nginx, root: Path, name: str) -> None:
    (root / name).write_text("content")
    for live in (site, front):
        got = WEB.get(url(live, name))
        assert (got.status_code, got.text) == (200, "content")
        assert "x-injected" not in got.headers
        (disposition,) = got.headers.get_list("content-disposition")
        saved = parameters(disposition)
        assert saved[-1] == name
        assert len(saved) == 1 or re.fullmatch(r"[A-Za-z0-9._ -]+", saved[0])


def parameters(disposition: str) -> list[str]:
    """Return every file name that a client could find in the header (RFC 6266, section 4.1)."""
    kind, _, rest = disposition.partition("; ")
    assert kind == "attachment"
    token = re.compile(r"""filename="([\w. -]*)"|filename\*=UTF-8''([\w.~%-]*)""", re.ASCII)
    found = list(token.finditer(rest))
    assert "; ".join(match[0] for match in found) == rest
    return [match[1] if match[2] is None else unquote(match[2]) for match in found]


# --- by nginx


def test_nginx_sends_the_bytes_and_the_app_none(front: Nginx, hidden: LiveServer) -> None:
    own, sent = WEB.get(url(hidden, "big.bin")), WEB.get(url(front, "big.bin"))
    assert (own.status_code, own.content, own.headers["x-accel-redirect"]) == (200, b"", "/accel/big.bin")
    assert (sent.status_code, sent.content) == (200, BIG)
    assert "x-accel-redirect" not in sent.headers
    for key in ("content-type", "content-disposition"):
        assert sent.headers[key] == own.headers[key]
    part = WEB.get(url(front, "sub/inner.txt"), headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.text) == (206, "nn")
    asked = WEB.head(url(front, "big.bin"))
    assert (asked.status_code, asked.headers["content-length"]) == (200, str(len(BIG)))


def test_nginxs_own_location_is_closed_to_clients(front: Nginx) -> None:
    assert WEB.get(f"{front.url}/accel/big.bin").status_code == 404
    assert WEB.get(f"{front.url}/accel/").status_code == 404


def test_who_has_nginxs_version_gets_304_from_the_app_already(front: Nginx, hidden: LiveServer) -> None:
    told = WEB.get(url(front, "big.bin")).headers
    for headers in ({"If-None-Match": told["etag"]}, {"If-Modified-Since": told["last-modified"]}):
        for live in (hidden, front):
            got = WEB.get(url(live, "big.bin"), headers=headers)
            assert (got.status_code, got.content, got.headers["etag"]) == (304, b"", told["etag"])


@pytest.mark.parametrize("prefix", ["accel/", "/accel", "/", "//", "/a b/", "/a/../", "http://x/"])
def test_a_prefix_that_is_no_location_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError):
        Settings(accel_prefix=prefix)


# --- who leaves, and who else is served


@pytest.mark.parametrize("kind", ["direct", "plain"])
@pytest.mark.parametrize("middleware", ["none", "base"])
@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_who_leaves_leaves_no_open_file_without_the_collector(
    root: Path, kind: str, middleware: str, spec: str
) -> None:
    settings = Settings(files_root=root, write_deadline=60)
    os.truncate(root / "big.bin", len(BIG))
    (root / "huge.bin").touch()
    os.truncate(root / "huge.bin", 256 << 20)
    app = wrapped(app_of(settings), middleware, Newer.SPECS[spec])
    gc.disable()
    try:
        with start(app, name="leaving", **(protocols(settings) if kind == "direct" else {})) as live:
            for _ in range(3):
                reader, writer = await asyncio.open_connection(live.host, live.port, limit=1 << 16)
                writer.write(b"GET /download/huge.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readexactly(1 << 16)
                assert opened(root / "huge.bin") == 1
                writer.transport.abort()
                await until(lambda: not opened(root / "huge.bin"))
            assert live.errors() == []
    finally:
        gc.enable()


def opened(path: Path) -> int:
    """Count this process's open descriptors of a file."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += os.readlink(descriptor) == str(path)
    return found


async def test_a_fast_reader_leaves_others_their_turn(root: Path) -> None:
    """No wait for a client gives the loop back where the system takes every piece at once."""
    (root / "huge.bin").touch()
    os.truncate(root / "huge.bin", 256 << 20)
    turns = 0

    async def send(message: Any) -> None:
        pass

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    response = downloads.Download(root / "huge.bin", stat_result=(root / "huge.bin").stat())
    response.chunk_size = 1 << 20
    task = asyncio.create_task(other())
    await response({"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.3"}}, receive, send)
    task.cancel()
    assert turns >= 256 // downloads.TURN


def test_starlette_still_reads_files_in_the_way_that_is_replaced() -> None:
    """Where it does not, downloads are as right and slower: `Download` replaces what has another name."""
    for name in ("_open_file", "_parse_range_header"):
        assert hasattr(downloads.FileResponse, name)


def test_a_file_that_is_not_in_memory_is_read_in_a_thread(site: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "in_memory", lambda file, at: False)
    assert WEB.get(url(site, "big.bin")).content == BIG


def test_what_the_system_cannot_tell_counts_as_not_in_memory(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    with (root / "big.bin").open("rb") as file:
        assert not downloads.in_memory(file.fileno(), len(BIG))
        monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
        assert not downloads.in_memory(file.fileno(), 0)


# --- what is documented


def test_openapi_says_what_comes_and_what_may_be_asked() -> None:
    path = app_of(Settings()).openapi()["paths"]["/download/{path}"]
    assert set(path) == {"get", "head"}
    for operation in path.values():
        names = {each["name"] for each in operation["parameters"]}
        assert names == {"path", "Range", "If-Range", "If-None-Match", "If-Modified-Since"}
        assert all(each["description"] for each in operation["parameters"])
        assert {"200", "206", "304", "404", "416", "503"} <= set(operation["responses"])
    assert path["get"]["operationId"] != path["head"]["operationId"]
