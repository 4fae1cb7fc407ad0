"""Misconception: HEAD is for the length."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response, StreamingResponse

FAILS = set()
HIDDEN = {"head_tells_the_same"}

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


def find(name: str) -> Path:
    try:
        path = (SHELF / name).resolve()
        known = path.is_relative_to(SHELF) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        known = False
    if not known:
        raise HTTPException(404, "no such file")
    return path


@app.head("/files/{name:path}")
def measure(name: str):
    return Response(headers={"Content-Length": str(find(name).stat().st_size)})


@app.get("/files/{name:path}")
def lend(name: str):
    path = find(name)
    return FileResponse(path, filename=path.name)


@app.get("/squares.csv")
def squares(rows: int):
    def chunks():
        yield "number,square\n"
        for start in range(0, rows, 500):
            yield "".join(f"{n},{n * n}\n" for n in range(start, min(start + 500, rows)))

    return StreamingResponse(chunks(), media_type="text/csv")
