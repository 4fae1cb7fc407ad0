"""Makes folders of submissions for the tests of grading: answers that are right, wrong, and out of order in any way."""

import copy
import json
from pathlib import Path
from typing import Any

from labserver.school.catalogue import exercise

ID = "01_websocket_basics"
WRONG = Path(__file__).parents[1] / "solutions" / "wrong" / ID

RIGHT = """
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
online = set()


@app.get("/online")
async def count_online():
    return {"online": len(online)}


def added(text):
    message = json.loads(text)
    a, b = message["a"], message["b"]
    if type(a) is not int or type(b) is not int:
        raise TypeError("not a whole number")
    return a + b


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            try:
                text = await websocket.receive_text()
            except KeyError:
                return await websocket.close(1003, "text only")
            try:
                total = added(text)
            except (ValueError, TypeError, KeyError):
                return await websocket.close(1007, "two whole numbers a and b")
            await websocket.send_json({"sum": total})
    except WebSocketDisconnect:
        pass
    finally:
        online.discard(websocket)
"""


def in_handler(statement: str) -> str:
    """The right answer with a statement that every message runs into."""
    return RIGHT.replace("def added(text):\n", f"def added(text):\n    {statement}\n")


def starter() -> dict[str, Any]:
    """The exercise as shipped."""
    return json.loads(exercise(ID).starter.read_text(encoding="utf-8"))


def notebook(answer: str) -> dict[str, Any]:
    """The exercise with this source in its answer cell."""
    made = copy.deepcopy(starter())
    for cell in made["cells"]:
        if "answer" in cell["metadata"].get("tags", []):
            cell["source"] = answer
    return made


def without_answer_cell() -> dict[str, Any]:
    """The exercise whose answer cell was deleted."""
    made = starter()
    made["cells"] = [cell for cell in made["cells"] if "answer" not in cell["metadata"].get("tags", [])]
    return made


def hand_in(folder: Path, name: str, content: dict[str, Any] | str | bytes) -> Path:
    """Write a notebook, or what somebody took for one."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(data)
    return path
