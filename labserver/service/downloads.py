"""Files of one folder: `GET` and `HEAD` of `/download/{path}`, open to everyone.

A path is a claim of the client's: it is resolved first, and what lies outside the folder, or is hidden, does not exist.
Behind an nginx that is told so (`accel_prefix`) all is decided here, and nginx sends the bytes.
"""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from starlette.responses import MalformedRangeHeader

from labserver.service.state import TheSettings

__all__ = ["files_root", "router"]

TURN = 8  # pieces read in the loop's thread before others have their turn, where no wait for the client gives it
NOT_PLAIN = re.compile(r"[^A-Za-z0-9._ -]")
MISSING = HTTPException(404, "no such file")

router = APIRouter(tags=["files"])


# ---- the file that is meant


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file inside the folder.

    Attributes:
        path: where it really is.
        place: the same below the folder, with `/`.
        name: what the client called it.
        stat: what it was like when it was found.
    """

    path: Path
    place: str
    name: str
    stat: os.stat_result


async def files_root(settings: TheSettings) -> Path:
    """Return the folder whose files may be had."""
    if settings.files_root is None:
        raise HTTPException(503, "no folder of files: set LABSERVER_FILES_ROOT")
    return settings.files_root


def find(
    path: Annotated[
        str,
        InPath(description="A file below the folder; folders in it are divided by `/`.", examples=["prices.csv"]),
    ],
    root: Annotated[Path, Depends(files_root)],
    request: Request,
) -> Found:
    """Return the file of that name; 404 is all that a client learns about anything else.

    Not async: a disk may take its time, and FastAPI calls this in a thread.
    """
    encoded_slash = b"%2f" in request.scope.get("raw_path", b"").lower()  # no division of the path (RFC 3986, 2.2)
    try:
        if not encoded_slash and _visible(path):
            return _found(root.resolve(), path)
    except (OSError, ValueError, RuntimeError):  # not there, too long; a NUL in it; links in a circle
        pass
    raise MISSING


def _visible(path: str) -> bool:
    return not any(part == "" or part.startswith(".") for part in path.split("/"))


def _found(root: Path, asked: str) -> Found:
    path = (root / asked).resolve(strict=True)  # without links: where it really leads
    place, stat = path.relative_to(root).as_posix(), path.stat()
    if not (_visible(place) and S_ISREG(stat.st_mode) and os.access(path, os.R_OK)):
        raise ValueError(asked)
    return Found(path, place, asked.rpartition("/")[2], stat)


TheFile = Annotated[Found, Depends(find)]


# ---- what is said about it


def saved_as(name: str) -> dict[str, str]:
    """Return the headers of a download: its name can't end the parameter it stands in (RFC 6266; RFC 8187, 3.2)."""
    quoted, plain = quote(name, safe=""), NOT_PLAIN.sub("_", name)
    parameters = f'filename="{plain}"' if plain == name else f"filename=\"{plain}\"; filename*=UTF-8''{quoted}"
    return {"Content-Disposition": f"attachment; {parameters}", "X-Content-Type-Options": "nosniff"}


def version(stat: os.stat_result, *, by_nginx: bool) -> dict[str, str]:
    """Return what names this version of a file: a strong ETag (RFC 9110, 8.8.3), and when it was changed.

    Args:
        stat: of the file.
        by_nginx: whether nginx sends it, which names it by whole seconds: its clients come back with that name.
    """
    changed = int(stat.st_mtime) if by_nginx else stat.st_mtime_ns
    return {"ETag": f'"{changed:x}-{stat.st_size:x}"', "Last-Modified": formatdate(stat.st_mtime, usegmt=True)}


def has_it(request: Request, etag: str, stat: os.stat_result) -> bool:
    """Say whether the client has this version: `If-None-Match`, else `If-Modified-Since` (RFC 9110, 13.2.2)."""
    if named := request.headers.getlist("if-none-match"):
        tags = ",".join(named).split(",")
        return not {etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in tags)
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
        return int(stat.st_mtime) <= since.replace(tzinfo=since.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):  # no date, which is none to go by
        return False


# ---- its bytes


def in_memory(file: int, at: int) -> bool:
    """Say whether a file's byte can be read without waiting for the disk. Where the system can't tell: no."""
    try:
        return os.preadv(file, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):
        return False


class Reader:
    """An open file, as long as it was when it was found, though it may have grown.

    What is in memory is read in the loop's own thread: a change of threads costs more than the copy. The system reads
    ahead in order, so a piece is there when its last byte is.
    """

    def __init__(self, file: int, size: int) -> None:
        self.file, self._size, self._at, self._since_turn = file, size, 0, 0

    async def seek(self, at: int) -> None:
        """Go on reading at `at`."""
        self._at = at

    async def read(self, most: int) -> bytes:
        """Read up to `most` bytes, fewer at the end."""
        size = max(0, min(most, self._size - self._at))
        if in_memory(self.file, self._at + size - 1):
            await self._give_turn()
            data = os.pread(self.file, size, self._at)
        else:
            data = await to_thread.run_sync(os.pread, self.file, size, self._at)
        self._at += len(data)
        return data

    async def _give_turn(self) -> None:
        self._since_turn = (self._since_turn + 1) % TURN
        if not self._since_turn:
            await checkpoint()


class Download(FileResponse):
    """A file, whole or in part. It reads by `Reader`; a `Range` that is none is as good as none (RFC 9110, 14.2)."""

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        if not hasattr(os, "pread"):  # Windows
            async with super()._open_file() as whole:
                yield whole
            return
        assert self.stat_result is not None
        file = os.open(self.path, os.O_RDONLY)
        try:
            yield Reader(file, self.stat_result.st_size)
        finally:
            os.close(file)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []


# ---- the endpoint

EXAMPLE = "item,price\r\ntea,12\r\n"
TEXT = {"schema": {"type": "string"}}
TOLD = {
    "ETag": {"description": "Names this version; strong.", **TEXT},
    "Last-Modified": {"description": "When it was changed.", **TEXT},
    "Content-Disposition": {"description": "The name to save it by (RFC 6266).", **TEXT},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, of the type that its name says. Behind nginx the app's own answer has no body.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}, "example": EXAMPLE}},
        "headers": {**TOLD, "Accept-Ranges": {"description": "`bytes`: parts may be asked for.", **TEXT}},
    },
    206: {"description": "The part that `Range` names, or several as multipart/byteranges.", "headers": TOLD},
    304: {
        "description": "The client has it already.",
        "headers": {key: TOLD[key] for key in ("ETag", "Last-Modified")},
    },
    404: {"description": "No such file; whatever else is wrong with a path is not told."},
    416: {"description": "The file has no such part; `Content-Range` says how long it is."},
    503: {"description": "There is no folder of files."},
}
ASKED = {
    "Range": ("A part, or several: from its first byte to its last.", "bytes=0-99"),
    "If-Range": ("The `ETag` of the version whose part is wanted; of another version all is sent.", '"18d0-14"'),
    "If-None-Match": ("The `ETag` that the client has.", '"18d0-14"'),
    "If-Modified-Since": ("The `Last-Modified` that it has; `If-None-Match` wins.", "Mon, 02 Nov 2026 09:00:00 GMT"),
}
DOCUMENTED: dict[str, Any] = {
    "parameters": [
        {"in": "header", "name": name, "description": text, "example": example, **TEXT}
        for name, (text, example) in ASKED.items()
    ]
}


@router.head("/download/{path:path}", response_class=Response, responses=ANSWERS, openapi_extra=DOCUMENTED)
@router.get("/download/{path:path}", response_class=Response, responses=ANSWERS, openapi_extra=DOCUMENTED)
async def download(request: Request, file: TheFile, settings: TheSettings) -> Response:
    """A file of the folder: whole, in part, or not at all when the client has it already."""
    inside = settings.accel_prefix
    names = version(file.stat, by_nginx=inside is not None)
    if has_it(request, names["ETag"], file.stat):
        return Response(status_code=304, headers=names)
    response = Download(file.path, headers={**saved_as(file.name), **names}, stat_result=file.stat)
    if inside is not None:
        return by_nginx(response, inside + quote(file.place))
    response.chunk_size = settings.file_chunk_bytes
    return response


def by_nginx(response: FileResponse, location: str) -> Response:
    """Return what has nginx send the file: it keeps the type and the name, and says the rest itself."""
    kept = {key: response.headers[key] for key in ("Content-Disposition", "Content-Type", "X-Content-Type-Options")}
    return Response(headers={**kept, "X-Accel-Redirect": location})
