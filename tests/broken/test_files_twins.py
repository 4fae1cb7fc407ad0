"""Each twin of the files topic fails in the way that it says, where a real client can see it; and leaks no further."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, RemoteFiles, download_folder, make_file, remote_files, start
from labserver.stage.files import PASSWD, SECRET

Logged = Callable[[LiveServer, str], None]

TRAVERSAL = "/broken/path_traversal/download"


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteFiles]:
    with remote_files("remote-twins") as remote:
        yield remote


@pytest.fixture(scope="module")
def live(remote: RemoteFiles) -> Iterator[LiveServer]:
    with start(name="files-twins", settings=Settings(relay_upstream=remote.url)) as live:
        yield live


@pytest.fixture(scope="module")
def web(live: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, verify=False) as client:
        yield client


def raw(live: LiveServer, target: str) -> bytes:
    """GET a target as it is, and return all that comes back."""
    with socket.create_connection((live.host, live.port), timeout=10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


# --- path_traversal


@pytest.mark.parametrize(
    ("name", "leaked"),
    [
        ("../secret.txt", SECRET),
        ("..%2fsecret.txt", SECRET),
        ("%2e%2e/secret.txt", SECRET),
        ("%2E%2E%2Fsecret.txt", SECRET),
        ("nosuch/../../secret.txt", SECRET),
        ("hello.txt/../../secret.txt", SECRET),
        ("..//secret.txt", SECRET),
        ("../etc/passwd", PASSWD),
        ("/etc/passwd", PASSWD),
        ("%2fetc%2fpasswd", PASSWD),
        ("../../../../../../../../etc/passwd", PASSWD),
        ("//etc/passwd", PASSWD),
    ],
)
def test_path_traversal(live: LiveServer, name: str, leaked: str) -> None:
    assert raw(live, f"{TRAVERSAL}/{name}").endswith(leaked.encode())
    mended = raw(live, f"/download/{name}")
    assert mended.startswith(b"HTTP/1.1 404 ")
    assert leaked.encode() not in mended


def test_path_traversal_still_sends_what_it_should(web: httpx.Client) -> None:
    assert web.get(f"{TRAVERSAL}/hello.txt").text == "hello\n"
    assert web.get(f"{TRAVERSAL}/nosuch").status_code == 404


def outside(token: Path) -> list[str]:
    """Return names that lead to `token`, a file that lies outside of the lab's disk."""
    root = download_folder()
    relative = os.path.relpath(token, root)
    down = "/".join(part for part in token.parts[1:])
    names = [
        str(token),
        str(token).replace("/", "%2f"),
        relative,
        relative.replace("..", "%2e%2e"),
        f"/{token}",
        f"//{token}",
    ]
    names += ["../" * count + down for count in range(12)]
    names += [f"{root}/{relative}", f"..{token}", f"{root.parent}{token}", f"{root.parent}/..{token}"]
    return [
        *names,
        "link",
        "folder/token",
        "../up/token",
        "/proc/self/environ",
        "/proc/self/cwd/pyproject.toml",
        "circle",
    ]


def test_path_traversal_never_leaves_the_labs_disk(live: LiveServer, tmp_path: Path) -> None:
    token = tmp_path.resolve() / "token"
    token.write_text("outside of everything")
    root = download_folder()
    links = {root / "link": token, root / "folder": tmp_path, root.parent / "up": tmp_path, root / "circle": "circle"}
    for link, target in links.items():
        link.symlink_to(target)
    machine = Path("/etc/passwd").read_bytes()[:16] if Path("/etc/passwd").exists() else b"\0"
    try:
        for name in outside(token):
            answer = raw(live, f"{TRAVERSAL}/{name}")
            assert b"outside of everything" not in answer, name
            assert b"404" in answer[:16], name
        for count in range(12):
            answer = raw(live, f"{TRAVERSAL}/{'../' * count}etc/passwd")
            assert PASSWD.encode() in answer or b"404" in answer[:16]
            assert machine not in answer or machine in PASSWD.encode()
    finally:
        for link in links:
            link.unlink()


def test_path_traversal_leaks_nothing_where_the_folder_is_not_the_labs_own(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    (tmp_path / "secret.txt").write_text(SECRET)
    with start(name="not-ours", settings=Settings(files_root=root)) as live:
        assert raw(live, f"{TRAVERSAL}/mine.txt").endswith(b"mine")
        for name in ("../secret.txt", str(tmp_path / "secret.txt"), "/etc/passwd"):
            assert raw(live, f"{TRAVERSAL}/{name}").startswith(b"HTTP/1.1 404 ")


# --- header_injection


@pytest.mark.parametrize("path", ["/download/{0}", "/report.csv?title={0}"])
def test_header_injection(web: httpx.Client, path: str) -> None:
    name = "holiday.jpg; filename*=UTF-8''setup.exe"
    make_file(name, content="x")
    broken = web.get("/broken/header_injection" + path.format(quote(name))).headers["content-disposition"]
    assert broken.split("; ")[:3] == ["attachment", "filename=holiday.jpg", broken.split("; ")[2]]
    assert broken.split("; ")[2].startswith("filename*=UTF-8''setup.exe")
    mended = web.get(path.format(quote(name))).headers["content-disposition"]
    assert mended.count(";") == 1
    assert mended.startswith(f"attachment; filename*=UTF-8''{quote(name, safe='')}")


def test_header_injection_cannot_send_every_name(live: LiveServer, web: httpx.Client, logged: Logged) -> None:
    make_file("имя.txt", content="x")
    for path in ("/download/" + quote("имя.txt"), "/report.csv?title=" + quote("🌊")):
        assert httpx.get(f"{live.url}/broken/header_injection{path}").status_code == 500  # ends its connection
        logged(live, "UnicodeEncodeError")
        assert web.get(path).status_code == 200


def test_header_injection_gives_no_answer_to_a_line_break(live: LiveServer, web: httpx.Client, logged: Logged) -> None:
    path = "/report.csv?title=" + quote("a\r\nX-Injected: yes")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        httpx.get(f"{live.url}/broken/header_injection{path}")
    logged(live, "RuntimeError: Invalid HTTP header value.")
    good = web.get(path)
    assert good.status_code == 200
    assert "x-injected" not in good.headers


async def test_a_browser_saves_under_the_name_that_was_injected(live: LiveServer, chromium: str) -> None:
    from playwright.async_api import async_playwright

    name = "holiday.jpg; filename*=UTF-8''setup.exe"
    make_file(name, content="x")
    saved = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        for prefix in ("/broken/header_injection", ""):
            async with page.expect_download() as started:
                with suppress(Exception):  # a navigation that becomes a download ends as one that failed
                    await page.goto(f"{live.url}{prefix}/download/{quote(name)}")
            saved.append((await started.value).suggested_filename)
        await browser.close()
    assert saved[0] == "setup.exe"
    assert saved[1].startswith("holiday.jpg")


# --- tiny_chunks


def test_tiny_chunks_know_no_length_no_part_and_no_version(web: httpx.Client) -> None:
    broken = web.get("/broken/tiny_chunks/download/hello.txt", headers={"Range": "bytes=0-1"})
    assert (broken.status_code, broken.text) == (200, "hello\n")
    assert {"content-length", "accept-ranges", "etag", "last-modified"}.isdisjoint(broken.headers)
    assert web.get("/download/hello.txt", headers={"Range": "bytes=0-1"}).text == "he"
    again = {"If-None-Match": web.head("/download/hello.txt").headers["etag"]}
    assert web.get("/broken/tiny_chunks/download/hello.txt", headers=again).status_code == 200
    assert web.get("/download/hello.txt", headers=again).status_code == 304


# --- remote_file_read_whole


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_remote_file_read_whole_comes_when_all_of_it_is_there(live: LiveServer, remote: RemoteFiles) -> None:
    remote.add("whole.bin", 1_000_000, stops_at=900_000)

    async def answered(path: str) -> asyncio.Task[httpx.Response]:
        before = remote.sent
        task = asyncio.create_task(client.send(client.build_request("GET", path), stream=True))
        await until(lambda: remote.sent - before >= 900_000)
        await asyncio.wait([task], timeout=1 if path.startswith("/relay") else 0.3)
        return task

    async with httpx.AsyncClient(base_url=live.url, timeout=20) as client:
        mended = await answered("/relay/whole.bin")
        assert mended.done()
        broken = await answered("/broken/remote_file_read_whole/relay/whole.bin")
        assert not broken.done()  # nine tenths are here, and not even a header has come
        remote.go()
        for task in (mended, broken):
            assert await (await task).aread() == remote.body("whole.bin")


async def test_a_remote_file_read_whole_is_in_memory_whatever_the_client_reads(
    live: LiveServer, remote: RemoteFiles
) -> None:
    size = 64 << 20
    remote.add("large.bin", size)
    taken = {}
    for path in ("/relay", "/broken/remote_file_read_whole/relay"):
        before = remote.sent
        reader, writer = await asyncio.open_connection(live.host, live.port, limit=1 << 16)
        writer.write(f"GET {path}/large.bin HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readexactly(1000)
        seen, since = remote.sent, time.monotonic()
        while time.monotonic() - since < 0.3:  # until nothing has moved for a while
            if remote.sent != seen:
                seen, since = remote.sent, time.monotonic()
            await asyncio.sleep(0.01)
        taken[path] = remote.sent - before
        writer.transport.abort()
        await until(lambda: remote.sending == 0)
    assert taken["/broken/remote_file_read_whole/relay"] == size
    assert taken["/relay"] < size / 2
