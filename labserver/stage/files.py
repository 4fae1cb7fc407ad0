"""Files for experiments: a private folder to download from, files of any size, and a server that hands out others.

The folder lies in a disk in small: a folder of its own with a secret beside the downloads, and an `etc/passwd`. What a
broken twin leaks is there and nowhere else. All of it goes with the last lab, or with this process, however that ends.
"""

import asyncio
import atexit
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from labserver import posix
from labserver.errors import LabError
from labserver.settings import Settings, get_settings
from labserver.stage.server import LiveServer, start

__all__ = [
    "PASSWD",
    "SECRET",
    "RemoteFiles",
    "download_folder",
    "in_use",
    "make_file",
    "own_root",
    "reading_ways",
    "remote_files",
]

SECRET = "the recipe, which is not for download\n"
PASSWD = "root:x:0:0:the lab's own:/root:/bin/sh\n"
SAMPLES = {
    "secret.txt": SECRET,
    "etc/passwd": PASSWD,
    "downloads/hello.txt": "hello\n",
    "downloads/prices.csv": "item,price\r\ntea,12\r\n",
    "downloads/naïve 🌊.txt": "any name will do\n",
}
PREFIX = "labserver-files-"
_BLOCK = 1 << 16  # bytes; generated content repeats after so many
_Settings = Annotated[Settings, Depends(get_settings)]
_PATIENCE = 5.0  # seconds for the server to take note


class _Disk:
    """The disk in small: made when first asked for, removed with the last lab that runs, or with this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._path: Path | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._users = 0

    def path(self) -> Path:
        with self._lock:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
                self._keeper, self._owner = posix.start_keeper(self._path), os.getpid()
                for name, text in SAMPLES.items():
                    path = self._path / name
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(text.encode())
            return self._path

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self.remove()

    def remove(self) -> None:
        with self._lock:
            if self._path is None or self._owner != os.getpid():  # in a fork of the owner
                return
            if self._keeper is not None:
                with self._keeper:
                    self._keeper.kill()
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = self._keeper = None


_disk = _Disk()
atexit.register(_disk.remove)
in_use = _disk.in_use


def download_folder() -> Path:
    """Return the folder that this process's labs offer for download, with a few samples in it."""
    return _disk.path() / "downloads"


def own_root(settings: _Settings) -> Path:
    """Return the settings' folder of files, else the private one; a dependency."""
    return settings.files_root.resolve() if settings.files_root else download_folder()


def make_file(name: str, size: int | None = None, *, content: str | bytes | None = None) -> Path:
    """Make a file in `download_folder()`, in place of any other of that name, and return its path.

    Args:
        name: its name, without a folder.
        size: bytes. Without `content` they are zeros that take no room on the disk; with it, that is repeated.
        content: what is in it.

    Raises:
        LabError: the name has a folder in it or can't be a file's here, or neither size nor content is given.
    """
    if Path(name).name != name or (size is None and content is None):
        raise LabError(f"make_file({name!r}, ...) needs a name without a folder, and a size or a content.")
    data = content.encode() if isinstance(content, str) else content or b""
    length = len(data) if size is None else size
    path = download_folder() / name
    try:
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            for at in range(0, length, len(data)) if data else ():
                file.write(data[: length - at])
            file.truncate(length)
    except (OSError, ValueError) as error:
        raise LabError(f"No file can be called {name!r} here ({error}): choose another name.") from None
    return path


# --- files of another server


@dataclass(frozen=True, slots=True)
class _Remote:
    size: int
    stops_at: int | None
    breaks_at: int | None


class RemoteFiles:
    """A server that hands out generated files, for a relay to ask; it counts what it was asked for.

    Attributes:
        live: the server; `url` is where its files are.
        sent: bytes of files that it has given to the network so far; what a reader leaves lying holds it up.
        sending: answers that are under way.
    """

    def __init__(self, name: str) -> None:
        self.sent = 0
        self.sending = 0
        self._files: dict[str, _Remote] = {}
        self._go = asyncio.Event()
        self.live: LiveServer = start(self._app(), name=name)

    @property
    def url(self) -> str:
        """The folder's URL, without a slash at its end: a `relay_upstream`."""
        return f"{self.live.url}/files"

    def add(self, name: str, size: int, *, stops_at: int | None = None, breaks_at: int | None = None) -> None:
        """Offer a file of `size` bytes.

        Args:
            stops_at: bytes after which it waits for `go()`.
            breaks_at: bytes after which the connection is cut.
        """
        self._go.clear()
        self._files[name] = _Remote(size, stops_at, breaks_at)

    def go(self) -> None:
        """Let every file that waits go on."""

        async def release() -> None:
            self._go.set()

        self.live.submit(release()).result(_PATIENCE)

    def body(self, name: str) -> bytes:
        """Return all bytes of a file, for comparison."""
        return b"".join(_pieces(name, 0, self._files[name].size))

    def stop(self) -> None:
        """Stop the server."""
        self.live.stop()

    def __enter__(self) -> "RemoteFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _body(self, name: str, file: _Remote) -> AsyncIterator[bytes]:
        self.sending += 1
        marks = sorted({mark for mark in (file.stops_at, file.breaks_at, file.size) if mark is not None})
        at = 0
        try:
            for mark in marks:
                for piece in _pieces(name, at, mark):
                    yield piece
                    self.sent += len(piece)
                at = mark
                if mark == file.stops_at:
                    await self._go.wait()
                if mark == file.breaks_at:
                    raise ConnectionError("cut, as ordered")
        finally:
            self.sending -= 1

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.head("/files/{name}")
        @app.get("/files/{name}")
        async def send(name: str, request: Request) -> Response:
            if (file := self._files.get(name)) is None:
                raise HTTPException(404, "no such file")
            headers = {"Content-Length": str(file.size), "ETag": f'"{file.size:x}"'}
            if request.method == "HEAD":
                return Response(media_type="application/octet-stream", headers=headers)
            return StreamingResponse(self._body(name, file), 200, headers, "application/octet-stream")

        return app


def _pieces(name: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `stop` of the content that belongs to a name."""
    block = Random(name).randbytes(_BLOCK)
    while start < stop:
        at = start % _BLOCK
        piece = block[at : min(_BLOCK, at + stop - start)]
        yield piece
        start += len(piece)


def remote_files(name: str = "remote") -> RemoteFiles:
    """Start a server of generated files; one of the same name is stopped first."""
    return RemoteFiles(name)


# --- ways to read

_Root = Annotated[Path, Depends(own_root)]


def reading_ways() -> FastAPI:
    """Return the lab with other ways to read a file beside its own, and with the CPU time of its process.

    `/by_hand/{size}/{name}`: a generator that reads `size` bytes at a time. `/as_it_comes/{name}`: a plain
    `FileResponse`. `/by_nginx/{name}`: nothing but the header for `nginx(accel=...)`. `/cpu`: seconds that this process
    has used, all threads together. For `start(process=True)`.
    """
    from labserver.stage.lab import lab_app

    app = lab_app()

    @app.get("/by_hand/{size}/{name}")
    def by_hand(size: int, name: str, root: _Root) -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            with (root / Path(name).name).open("rb") as file:
                while chunk := file.read(size):
                    yield chunk

        return StreamingResponse(chunks(), media_type="application/octet-stream")

    @app.get("/as_it_comes/{name}")
    def as_it_comes(name: str, root: _Root) -> FileResponse:
        return FileResponse(root / Path(name).name)

    @app.get("/by_nginx/{name}")
    async def by_nginx(name: str) -> Response:
        return Response(headers={"X-Accel-Redirect": f"/accel/{quote(name, safe='')}"})

    @app.get("/cpu")
    async def cpu() -> float:
        return time.process_time()

    return app
