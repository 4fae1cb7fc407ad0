"""What notebook 08 teaches about Starlette, FastAPI and uvicorn: each test fails when a new version makes it untrue."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse

from labserver.settings import Settings
from labserver.stage import LiveServer, download_folder, make_file, nginx, start
from labserver.stage.files import in_use, reading_ways

Logged = Callable[[LiveServer, str], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    disk = tmp_path_factory.mktemp("facts").resolve()
    root = disk / "downloads"
    root.mkdir()
    (root / "file.txt").write_text("0123456789")
    (disk / "secret.txt").write_text("secret")
    return root


def chunks(path: Path, size: int = 8192) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def tutorial(root: Path) -> FastAPI:
    """Return the forms that tutorials teach, none of which looks at the name."""
    app = FastAPI()

    @app.get("/segment/{name}")
    def segment(name: str) -> FileResponse:
        return FileResponse(root / name)

    @app.get("/path/{name:path}")
    def path(name: str) -> FileResponse:
        return FileResponse(root / name)

    @app.get("/query")
    def query(name: str) -> FileResponse:
        return FileResponse(root / name)

    @app.get("/by_hand/{name}")
    def by_hand(name: str) -> StreamingResponse:
        headers = {"Content-Disposition": f"attachment; filename={name}"}
        return StreamingResponse(chunks(root / name), headers=headers)

    @app.get("/extensions")
    async def extensions(request: Request) -> list[str]:
        return sorted(request.scope.get("extensions", {}))

    return app


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[LiveServer]:
    with start(tutorial(root), name="facts-files") as live:
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
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


# --- names


@pytest.mark.parametrize("form", ["../secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "%2fetc%2fpasswd", "a/b"])
def test_a_path_segment_never_matches_a_slash_not_even_an_encoded_one(live: LiveServer, form: str) -> None:
    assert raw(live, f"/segment/{form}").startswith(b"HTTP/1.1 404 ")
    assert raw(live, "/segment/file.txt").endswith(b"0123456789")


@pytest.mark.parametrize("form", ["../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "absolute"])
def test_the_same_body_with_a_path_or_a_query_reads_the_secret(live: LiveServer, root: Path, form: str) -> None:
    name = str(root.parent / "secret.txt") if form == "absolute" else form
    assert raw(live, f"/path/{name}").endswith(b"secret")
    assert raw(live, f"/query?name={name}").endswith(b"secret")


def test_a_client_takes_the_dots_out_before_it_sends_unless_they_are_encoded() -> None:
    assert httpx.URL("http://x/path/../secret.txt").raw_path == b"/secret.txt"
    assert httpx.URL("http://x/path/..%2fsecret.txt").raw_path == b"/path/..%2fsecret.txt"


def test_joining_an_absolute_path_forgets_the_folder(root: Path) -> None:
    assert root / "/etc/passwd" == Path("/etc/passwd")
    assert not (root / "../secret.txt").resolve().is_relative_to(root)
    assert (root / "../secret.txt").is_relative_to(root)  # without resolve() the check says yes


def test_a_path_parameter_matches_no_line_break(live: LiveServer, root: Path) -> None:
    (root / "two\nlines").write_text("x")
    assert raw(live, "/path/two%0Alines").startswith(b"HTTP/1.1 404 ")


# --- by hand


def test_a_missing_file_by_hand_is_200_and_then_broken(live: LiveServer, web: httpx.Client, logged: Logged) -> None:
    assert raw(live, "/by_hand/nosuch").startswith(b"HTTP/1.1 200 ")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{live.url}/by_hand/nosuch")
    logged(live, "FileNotFoundError")


def test_a_body_by_hand_has_no_range_no_etag_and_no_length(web: httpx.Client) -> None:
    got = web.get("/by_hand/file.txt", headers={"Range": "bytes=0-1"})
    assert (got.status_code, got.text) == (200, "0123456789")
    assert {"accept-ranges", "etag", "last-modified", "content-length"}.isdisjoint(got.headers)


def test_a_semicolon_in_a_name_by_hand_is_a_parameter_more(web: httpx.Client, root: Path) -> None:
    (root / "a.txt; size=1").write_text("x")
    assert web.get("/by_hand/a.txt; size=1").headers["content-disposition"] == "attachment; filename=a.txt; size=1"


def test_a_name_beyond_latin_1_by_hand_is_a_500(
    live: LiveServer, web: httpx.Client, root: Path, logged: Logged
) -> None:
    (root / "имя").write_text("x")
    assert httpx.get(f"{live.url}/by_hand/имя").status_code == 500
    logged(live, "UnicodeEncodeError")


# --- FileResponse


def test_file_response_knows_parts(web: httpx.Client) -> None:
    def get(**headers: str) -> httpx.Response:
        return web.get("/segment/file.txt", headers={key.replace("_", "-"): value for key, value in headers.items()})

    part = get(range="bytes=2-4")
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "234", "bytes 2-4/10")
    assert get(range="bytes=10-").status_code == 416
    parts = get(range="bytes=0-1,8-9")
    assert parts.headers["content-type"].startswith("multipart/byteranges")
    etag = part.headers["etag"]
    assert get(range="bytes=2-4", if_range=etag).status_code == 206
    assert get(range="bytes=2-4", if_range='"other"').status_code == 200


def test_file_response_ignores_if_none_match(web: httpx.Client) -> None:
    etag = web.get("/segment/file.txt").headers["etag"]
    assert web.get("/segment/file.txt", headers={"If-None-Match": etag}).status_code == 200


def test_get_does_not_answer_head(web: httpx.Client) -> None:
    assert web.head("/segment/file.txt").status_code == 405


def test_a_missing_file_in_file_response_is_a_500(live: LiveServer, web: httpx.Client, logged: Logged) -> None:
    assert httpx.get(f"{live.url}/segment/nosuch").status_code == 500
    logged(live, "RuntimeError: File at path")


def test_file_response_does_not_use_sendfile_on_uvicorn(web: httpx.Client) -> None:
    assert "http.response.pathsend" not in web.get("/extensions").json()


def test_file_response_reads_64_kib_at_a_time(root: Path) -> None:
    assert FileResponse.chunk_size == 64 * 1024
    (root / "big").write_bytes(bytes(200_000))
    bodies: list[int] = []

    async def send(message: Any) -> None:
        bodies.append(len(message.get("body", b"")))

    async def app(scope: Any, receive: Any, _: Any) -> None:
        await FileResponse(root / "big")(scope, receive, send)

    run(app)
    assert [size for size in bodies if size] == [65_536, 65_536, 65_536, 3_392]


def run(app: Callable[..., Any]) -> None:
    """Call an app once, with a client that stays."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "asgi": {"spec_version": "2.3"}}
    asyncio.run(app(scope, receive, None))


# --- nginx


def test_nginx_sends_the_file_that_x_accel_redirect_names(require: Callable[[str], None]) -> None:
    require("nginx")
    with in_use():
        content = make_file("two words; 🌊.bin", 300_000, content=b"0123456789").read_bytes()
        settings = Settings(files_root=download_folder())
        with start(reading_ways, name="ways", settings=settings) as ways:
            assert httpx.get(f"{ways.url}/by_nginx/two%20words;%20🌊.bin").content == b""  # Python sends nothing
            with nginx(ways, accel=download_folder(), name="facts") as front:
                got = httpx.get(f"{front.url}/by_nginx/two%20words;%20🌊.bin")
                assert (got.status_code, got.content) == (200, content)
                part = httpx.get(f"{front.url}/by_nginx/two%20words;%20🌊.bin", headers={"Range": "bytes=10-12"})
                assert (part.status_code, part.content) == (206, b"012")
                assert httpx.get(f"{front.url}/accel/two%20words;%20🌊.bin").status_code == 404  # not from outside


# --- the cost of a chunk


def fetch(live: LiveServer, path: str) -> int:
    """Read an answer to its end, as fast as it comes; return its bytes."""
    with socket.create_connection((live.host, live.port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        buffer, count = bytearray(1 << 20), 0
        while got := connection.recv_into(buffer):
            count += got
    return count


def test_tiny_chunks_cost_several_times_the_cpu(measured: Callable[[str], None]) -> None:
    with in_use():
        make_file("small.bin", 8 << 20)
        make_file("large.bin", 64 << 20)
        settings = Settings(files_root=download_folder())
        with start("labserver.stage.files:reading_ways", process=True, name="ways", settings=settings) as ways:

            def cost(path: str, size: int) -> float:
                """CPU seconds of the server per GiB, the best of three."""
                spent = []
                for _ in range(3):
                    before = float(httpx.get(f"{ways.url}/cpu").text)
                    assert fetch(ways, path) > size
                    spent.append(float(httpx.get(f"{ways.url}/cpu").text) - before)
                return min(spent) / size * (1 << 30)

            tiny = cost("/broken/tiny_chunks/download/small.bin", 8 << 20)
            starlettes = cost("/as_it_comes/large.bin", 64 << 20)
            pattern = cost("/download/large.bin", 64 << 20)
    measured(f"CPU s per GiB: 8 KiB by hand {tiny:.1f}, FileResponse {starlettes:.1f}, at 1 MiB {pattern:.1f}")
    assert tiny > 4 * pattern
    assert starlettes > 1.3 * pattern
