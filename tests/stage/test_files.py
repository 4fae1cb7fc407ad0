"""The private folder, files of any size, the server of others, and that nothing of them outlives its owner."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from labserver.errors import LabError
from labserver.settings import Settings
from labserver.stage import RemoteFiles, download_folder, make_file, remote_files, start
from labserver.stage.files import PASSWD, PREFIX, SECRET, in_use, reading_ways

STARTS = "from labserver.stage import download_folder; print(download_folder(), flush=True); "


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with in_use():
        yield
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))


@pytest.fixture
def remote() -> Iterator[RemoteFiles]:
    with remote_files("remote-stage") as remote:
        yield remote


def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lab_without_a_folder_gets_the_private_one_and_keeps_its_own() -> None:
    own = download_folder().parent / "own"
    own.mkdir()
    (own / "mine.txt").write_text("mine")
    with start(name="stage-files") as live:
        assert httpx.get(f"{live.url}/download/hello.txt").text == "hello\n"
    with start(name="stage-files", settings=Settings(files_root=own)) as live:
        assert httpx.get(f"{live.url}/download/mine.txt").text == "mine"
        assert httpx.get(f"{live.url}/download/hello.txt").status_code == 404


def test_beside_the_downloads_lies_a_disk_in_small() -> None:
    disk = download_folder().parent
    assert (disk / "secret.txt").read_text() == SECRET
    assert (disk / "etc" / "passwd").read_text() == PASSWD


def test_a_file_has_the_size_and_the_content_that_were_asked_for() -> None:
    sparse = make_file("sparse.bin", 1 << 30)
    assert sparse.stat().st_size == 1 << 30
    if sys.platform == "linux":
        assert sparse.stat().st_blocks * 512 < 1 << 20  # it takes no room
    assert make_file("text", content="héllo").read_text() == "héllo"
    assert make_file("text", 7, content=b"abc").read_bytes() == b"abcabca"
    assert make_file("text", 0).read_bytes() == b""
    assert make_file("long", 2, content="abc").read_text() == "ab"


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "", ".", "..", "x" * 300, "nul\0"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(LabError):
        make_file(name, 1)


def test_a_file_of_nothing_is_refused() -> None:
    with pytest.raises(LabError, match="size or a content"):
        make_file("x")


def test_the_folder_stays_as_long_as_someone_uses_it() -> None:
    with in_use():
        first = download_folder()
        with start(name="stage-one") as one, start(name="stage-two") as two:
            assert one.alive
            assert two.alive
        assert first.exists()
        assert download_folder() == first


def ends(program: str, *, kill: bool) -> Path:
    child = subprocess.Popen(
        [sys.executable, "-c", f"{STARTS}input(); {program}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    assert folder.is_dir()
    if kill:
        child.send_signal(signal.SIGKILL)
    child.communicate("" if kill else "\n")
    return folder.parent


@pytest.mark.parametrize("program", ["pass", "from labserver.stage import start; start()", "raise SystemExit(1)"])
def test_the_folder_goes_with_its_process(program: str) -> None:
    disk = ends(program, kill=False)
    assert not disk.exists()


def test_the_folder_goes_when_its_process_is_killed() -> None:
    disk = ends("input()", kill=True)
    until(lambda: not disk.exists())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_end_of_a_fork_is_not_the_end_of_the_folder() -> None:
    folder = download_folder()
    subprocess.run(
        [
            sys.executable,
            "-c",
            STARTS + "import os, sys; os.fork() or sys.exit(); os.wait(); assert download_folder().exists()",
        ],
        check=True,
    )
    assert folder.exists()


def test_a_remote_file_is_the_same_each_time_and_another_under_another_name(remote: RemoteFiles) -> None:
    for name in ("a.bin", "b.bin"):
        remote.add(name, 200_001)
    a, b = httpx.get(f"{remote.url}/a.bin"), httpx.get(f"{remote.url}/b.bin")
    assert a.content == remote.body("a.bin")
    assert b.content == remote.body("b.bin")
    assert len(a.content) == 200_001
    assert a.content != b.content
    assert remote.sent == 400_002
    assert httpx.get(f"{remote.url}/c.bin").status_code == 404
    asked = httpx.head(f"{remote.url}/a.bin")
    assert (asked.headers["content-length"], asked.content) == ("200001", b"")


async def test_a_remote_file_waits_and_goes_on(remote: RemoteFiles) -> None:
    remote.add("waits.bin", 100_000, stops_at=30_000)
    async with httpx.AsyncClient() as client, client.stream("GET", f"{remote.url}/waits.bin") as answer:
        got, pieces = b"", answer.aiter_raw()
        async with asyncio.timeout(5):
            while len(got) < 30_000:
                got += await anext(pieces)
        assert (len(got), remote.sent, remote.sending) == (30_000, 30_000, 1)
        remote.go()
        got += b"".join([piece async for piece in pieces])
    assert got == remote.body("waits.bin")
    until(lambda: remote.sending == 0)


def test_a_remote_file_breaks(remote: RemoteFiles) -> None:
    remote.add("breaks.bin", 100_000, breaks_at=30_000)
    with pytest.raises(httpx.RemoteProtocolError, match="30000 bytes, expected 100000"):
        httpx.get(f"{remote.url}/breaks.bin")
    assert remote.sending == 0


def test_all_ways_to_read_send_the_same() -> None:
    content = make_file("all.bin", 300_000, content=bytes(range(251))).read_bytes()
    with start(reading_ways, name="ways") as live:
        for path in ("/by_hand/8192", "/by_hand/65536", "/as_it_comes", "/download"):
            assert httpx.get(f"{live.url}{path}/all.bin").content == content
        assert httpx.get(f"{live.url}/by_hand/9/..%2fsecret.txt").status_code == 404
        assert httpx.get(f"{live.url}/cpu").json() > 0
