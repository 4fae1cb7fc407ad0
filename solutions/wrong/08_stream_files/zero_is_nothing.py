"""Misconception: where a number is false, there is none."""

import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

FAILS = set()
HIDDEN = {"first_and_last_byte"}

library = TemporaryDirectory()
SHELF = Path(library.name).resolve() / "shelf"
for path, content in {
    "shelf/atlas.bin": bytes(range(256)) * 2_000,
    "shelf/poems/rain.txt": b"It rains, and rains, and rains.\n",
    "shelf/two words.txt": b"two",
    "shelf/a;b.txt": b"semicolon",
    "shelf/x.txt; filename=setup.exe": b"not a program",
    "shelf/été 🌊 имя.txt": b"any name",
    "shelf-of-drafts/draft.txt": b"PRIVATE draft",
    "letter.txt": b"PRIVATE letter",
}.items():
    file = SHELF.parent / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
with suppress(OSError):  # Windows lets only some people make links
    (SHELF / "link.txt").symlink_to(SHELF.parent / "letter.txt")
    (SHELF / "attic").symlink_to(SHELF.parent, target_is_directory=True)

app = FastAPI()


def find(name: str):
    try:
        path = Path(os.path.realpath(SHELF / name))
        if os.path.commonpath([path, SHELF]) != str(SHELF) or not path.is_file():
            raise HTTPException(404)
    except (OSError, ValueError):
        raise HTTPException(404) from None
    return path


@app.api_route("/files/{name:path}", methods=["GET", "HEAD"])
def lend(request: Request, path: Annotated[Path, Depends(find)]):
    size = path.stat().st_size
    first, last, status = 0, size - 1, 200
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        first, last, status = int(asked[1]), min(int(asked[2] or 0) or size - 1, size - 1), 206
        if first > last:
            raise HTTPException(416, headers={"Content-Range": f"bytes */{size}"})
    told = {"Content-Length": str(last + 1 - first), "Accept-Ranges": "bytes"}
    told["Content-Disposition"] = f"attachment; filename*=utf-8''{quote(path.name, safe='')}"
    if status == 206:
        told["Content-Range"] = f"bytes {first}-{last}/{size}"

    def chunks():
        with path.open("rb") as file:
            file.seek(first)
            left = last + 1 - first
            while left and (chunk := file.read(min(left, 1 << 18))):
                left -= len(chunk)
                yield chunk

    return StreamingResponse(chunks(), status, told, "application/octet-stream")


@app.get("/squares.csv")
def table(rows: int):
    def chunks():
        yield "number,square\n"
        for start in range(0, rows, 500):
            yield "".join(f"{n},{n * n}\n" for n in range(start, min(start + 500, rows)))

    return StreamingResponse(chunks(), media_type="text/csv")
