"""Notebooks made for one test: a picture, and a live panel that counts what its EventSource and WebSocket receive."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

__all__ = ["EVENTS_WANTED", "PANEL", "write_notebook"]

EVENTS_WANTED = 5

PICTURE = '''\
from labserver.stage import Picture

svg = """<svg xmlns="http://www.w3.org/2000/svg" width="840" height="96" class="tape">
<style>@media (prefers-color-scheme: dark) { .f-card { fill: #16191d } .f-ink { fill: #e6e9ec } }</style>
<rect class="f-card" width="840" height="96" fill="#fbfbfa"/>
<text class="f-ink" x="24" y="36" fill="#1f2429">one event left, one event arrived</text></svg>"""
Picture(svg, alt="One event left, one event arrived.", twin="one event\\n")
'''

SERVER = """\
import asyncio

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from labserver.stage import page, start

app = FastAPI()


@app.get("/events")
async def events():
    async def ticks():
        number = 0
        while True:
            yield f"data: {number}\\n\\n"
            number += 1
            await asyncio.sleep(0.05)

    return StreamingResponse(ticks(), media_type="text/event-stream")


@app.websocket("/ws")
async def echo(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


live = start(app)
"""

# Shows what arrives, and from where, so that a test (or a reader) can see it.
PANEL_CELL = '''\
html = """
<p><output id="events">0</output> events, <output id="frames">0</output> frames</p>
<script>
  const source = new EventSource("events");
  const socket = new WebSocket("ws");
  const count = id => { const output = document.getElementById(id); output.value = 1 + Number(output.value); };
  source.onmessage = () => count("events");
  socket.onopen = () => socket.send("again");
  socket.onmessage = () => { count("frames"); if (document.getElementById("frames").value < 3) socket.send("again"); };
  window.labAddresses = { events: source.url, frames: socket.url };
</script>
"""
page(html, live, title="A feed, live", picture=Picture(svg, alt="The feed, drawn.", twin="the feed\\n"))
'''

PANEL = (
    new_markdown_cell("# A live panel"),
    new_code_cell(PICTURE),
    new_code_cell(SERVER),
    new_code_cell(PANEL_CELL),
)


def write_notebook(file: Path, cells: tuple[nbformat.NotebookNode, ...] = PANEL) -> None:
    """Write a notebook of `cells`, without outputs, for the Python kernel that Jupyter finds."""
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    file.parent.mkdir(parents=True, exist_ok=True)
    own = [nbformat.from_dict(cell | {"id": f"cell-{number}"}) for number, cell in enumerate(cells)]
    nbformat.write(new_notebook(cells=own, metadata={"kernelspec": kernel}), file)
