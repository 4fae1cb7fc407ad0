"""Misconception: a file is its bytes."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import StreamingResponse

FAILS = {"part"}

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


@app.head("/files/{name:path}")
@app.get("/files/{name:path}")
def lend(name: str):
    try:
        path = (SHELF / name).resolve()
        known = path.is_relative_to(SHELF) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        known = False
    if not known:
        raise HTTPException(404, "no such file")
    disposition = f"attachment; filename*=UTF-8''{quote(path.name)}"
    return Response(path.read_bytes(), headers={"Content-Disposition": disposition})


@app.get("/squares.csv")
def squares(rows: int):
    def chunks():
        yield "number,square\n"
        for start in range(0, rows, 500):
            yield "".join(f"{n},{n * n}\n" for n in range(start, min(start + 500, rows)))

    return StreamingResponse(chunks(), media_type="text/csv")
