"""Misconception: a name without `../` in it does not lead out."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, StreamingResponse

FAILS = set()
HIDDEN = {"dots_in_dots"}

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
    path = SHELF / name.replace("../", "").lstrip("/")
    here = [part for part in (path, *path.parents) if part.is_relative_to(SHELF)]
    if not path.is_file() or any(part.is_symlink() for part in here):
        raise HTTPException(404, "no such file")
    return FileResponse(path, filename=path.name)


@app.get("/squares.csv")
def squares(rows: int):
    def chunks():
        yield "number,square\n"
        for start in range(0, rows, 500):
            yield "".join(f"{n},{n * n}\n" for n in range(start, min(start + 500, rows)))

    return StreamingResponse(chunks(), media_type="text/csv")
