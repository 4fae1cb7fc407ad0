"""By FastAPI's WebSocketException, and a context manager that counts."""

from contextlib import contextmanager

from fastapi import FastAPI, WebSocket, WebSocketDisconnect, WebSocketException
from pydantic import BaseModel, StrictInt, ValidationError


class Pair(BaseModel):
    a: StrictInt
    b: StrictInt


app = FastAPI()
app.state.online = 0


@contextmanager
def present():
    app.state.online += 1
    try:
        yield
    except WebSocketDisconnect:
        pass
    finally:
        app.state.online -= 1


@app.get("/online")
def count_online():
    return {"online": app.state.online}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    await websocket.accept()
    with present():
        while True:
            message = await websocket.receive()
            websocket._raise_on_disconnect(message)
            if not isinstance(message.get("text"), str):
                raise WebSocketException(1003, "binary")
            try:
                pair = Pair.model_validate_json(message["text"])
            except ValidationError as error:
                raise WebSocketException(1007, error.errors()[0]["msg"][:100]) from None
            await websocket.send_text(f'{{"sum":{pair.a + pair.b}}}')
