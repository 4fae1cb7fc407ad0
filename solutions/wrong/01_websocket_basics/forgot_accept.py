"""Misconception: a WebSocket is open when my function starts."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {
    "one_sum",
    "many_sums",
    "clients_apart",
    "binary_closes_1003",
    "not_json_closes_1007",
    "wrong_shape_closes_1007",
    "only_whole_numbers",
    "online_after_close_and_hang_up",
    "online_after_wrong_messages",
}

app = FastAPI()
online = 0


@app.get("/online")
async def count_online():
    return {"online": online}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    global online
    online += 1
    try:
        while True:
            data = await websocket.receive_json()
            await websocket.send_json({"sum": data["a"] + data["b"]})
    except (KeyError, RuntimeError):
        await websocket.close(1003, "text only")
    except ValueError:
        await websocket.close(1007, "bad JSON")
    except WebSocketDisconnect:
        pass
    finally:
        online -= 1
