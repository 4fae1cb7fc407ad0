"""The twin of `files` that reads the file by hand, 8 KiB at a time, as most tutorials do."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from labserver.settings import Settings, get_settings

PATTERN = "files"
WRONG = (
    "Each 8 KiB is a call in a thread, a turn of the loop and a write; and a body by hand has no length, Range or ETag."
)

ROWS = 5_000  # of a report, in one chunk: some 80 KiB, and two milliseconds that nobody else gets
ASKED = ("range", "if-range", "if-none-match", "if-modified-since")  # of the client's headers, what an upstream sees
TOLD = ("content-type", "content-length", "content-encoding", "content-range", "accept-ranges", "etag", "last-modified")


@cache
def client() -> httpx.AsyncClient:
    """Return the one client of all relays, made for the first: it keeps connections, and loads certificates once."""
    return httpx.AsyncClient(trust_env=False)


@asynccontextmanager
async def close_client(app: FastAPI) -> AsyncIterator[None]:
    """Leave no connection open when the server stops."""
    yield
    if client.cache_info().currsize:
        await client().aclose()
        client.cache_clear()


router = APIRouter(lifespan=close_client)
Lab = Annotated[Settings, Depends(get_settings)]


def files_root(settings: Lab) -> Path:
    """Return the folder whose files may be had."""
    if settings.files_root is None:
        raise HTTPException(503, "no folder of files: set LABSERVER_FILES_ROOT")
    return settings.files_root.resolve()


def find(name: str, root: Annotated[Path, Depends(files_root)]) -> Path:
    """Return the regular file of that name inside the folder; 404 is all that a client learns about anything else."""
    try:
        path = (root / name).resolve()  # without `..` and links: where the name really leads
        if path.is_relative_to(root) and path.is_file() and os.access(path, os.R_OK):
            return path
    except (OSError, ValueError, RuntimeError):  # too long; a NUL in it; links in a circle
        pass
    raise HTTPException(404, "no such file")


def saved_as(name: str) -> dict[str, str]:
    """Return the headers of a download: its name can't end the parameter it stands in (RFC 6266, RFC 8187)."""
    quoted = quote(name, safe="")
    parameter = f'filename="{name}"' if quoted == name else f"filename*=UTF-8''{quoted}"
    return {"Content-Disposition": f"attachment; {parameter}", "X-Content-Type-Options": "nosniff"}


def has_it(request: Request, etag: str) -> bool:
    """Say whether the client names this version in `If-None-Match` (RFC 9110, 13.1.2), which FileResponse ignores."""
    tags = ",".join(request.headers.getlist("if-none-match")).split(",")
    return not {etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in tags)


@router.head("/download/{name:path}", include_in_schema=False)
@router.get("/download/{name:path}")
async def download(request: Request, path: Annotated[Path, Depends(find)], settings: Lab) -> Response:
    """Send a file of the folder, as its bytes come."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(8 << 10):
                yield chunk

    return StreamingResponse(chunks(), media_type="application/octet-stream", headers=saved_as(path.name))


@router.get("/report.csv")
async def report(
    title: Annotated[str, Query(max_length=100)] = "report",
    rows: Annotated[int, Query(ge=0, le=10_000_000)] = 1_000,
) -> StreamingResponse:
    """Send a table while it is made: its length is not known, so it goes out in chunks (RFC 9112, 7.1)."""

    async def chunks() -> AsyncIterator[str]:
        yield "number,square\r\n"
        for start in range(0, rows, ROWS):
            yield "".join(f"{number},{number**2}\r\n" for number in range(start, min(start + ROWS, rows)))
            await asyncio.sleep(0)  # the others' turn

    return StreamingResponse(chunks(), media_type="text/csv", headers=saved_as(f"{title}.csv"))


async def ask(
    request: Request, name: Annotated[str, InPath(max_length=255)], settings: Lab
) -> AsyncIterator[httpx.Response]:
    """Ask the upstream; its answer is closed when ours is over, however it ends."""
    if settings.relay_upstream is None:
        raise HTTPException(503, "nothing to relay: set LABSERVER_RELAY_UPSTREAM")
    if name in (".", ".."):  # the upstream's other folders
        raise HTTPException(404, "no such file")
    url = f"{settings.relay_upstream.rstrip('/')}/{quote(name, safe='')}"
    asked = {"accept-encoding": "identity"} | {key: request.headers[key] for key in ASKED if key in request.headers}
    question = client().build_request(request.method, url, headers=asked, timeout=settings.relay_timeout)
    try:
        answer = await client().send(question, stream=True)
    except httpx.TimeoutException:
        raise HTTPException(504, "the upstream does not answer in time") from None
    except httpx.TransportError:
        raise HTTPException(502, "the upstream can't be reached") from None
    async with aclosing(answer):
        if answer.status_code not in (200, 206, 304, 404, 412, 416):  # its redirects and troubles are not the client's
            raise HTTPException(502, f"the upstream answered {answer.status_code}")
        yield answer


@router.head("/relay/{name}", include_in_schema=False)
@router.get("/relay/{name}")
async def relay(name: str, answer: Annotated[httpx.Response, Depends(ask)]) -> Response:
    """Send a file of the upstream as it comes; no more of it is here than the client is about to get."""
    told = {key: answer.headers[key] for key in TOLD if key in answer.headers}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, saved_as(name) | told)
