"""By Starlette's own folder of files, and lines that are sent one by one."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

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
shelf = StaticFiles(directory=SHELF)


@app.head("/files/{name:path}")
@app.get("/files/{name:path}")
def lend(name: str):
    try:
        path, found = shelf.lookup_path(name)
    except (OSError, ValueError, RuntimeError):
        raise HTTPException(404) from None
    if found is None or not Path(path).is_file():
        raise HTTPException(404)
    return FileResponse(path, stat_result=found, filename=Path(path).name)


@app.get("/squares.csv")
async def squares(rows: int):
    async def lines():
        yield b"number,square\r\n"
        for number in range(rows):
            yield b"%d,%d\r\n" % (number, number**2)

    return StreamingResponse(lines(), media_type="text/csv")
