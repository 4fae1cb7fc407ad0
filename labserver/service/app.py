"""The service: one FastAPI app, made by `create_app`.

What it serves so far: `GET /healthz` and `WS /ws/echo`. Nothing here keeps state between connections, so any number of
worker processes may serve it.
"""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError

from labserver import __version__
from labserver.settings import Settings, get_settings

__all__ = ["create_app", "refuse_bad_input", "router"]

TOO_BIG = 1009  # RFC 6455, section 7.4.1: "a message that is too big for it to process"
UTF8_BYTES = 4  # the most that one character takes

router = APIRouter()


@router.get("/healthz")
async def healthz(response: Response) -> dict[str, str]:
    """Say that this process answers; it looks at nothing else. For a probe's liveness check."""
    response.headers["Cache-Control"] = "no-store"
    return {"status": "ok"}


@router.websocket("/ws/echo")
async def echo(socket: WebSocket, settings: Annotated[Settings, Depends(get_settings)]) -> None:
    """Send every message back as it came: text as text, binary as binary.

    One message is in flight at a time: a peer that sends without reading is not read from either, so it costs what the
    kernel and the transport's buffer hold and no more.

    Close codes: 1009 for a message above `message_max_bytes` (uvicorn closes so by itself where its `ws_max_size` is
    smaller or equal, as under `labserver serve`), 1007 for text that is not UTF-8 (always uvicorn).
    """
    await socket.accept()
    try:
        while (message := await socket.receive())["type"] == "websocket.receive":
            text: str | None = message.get("text")
            data: bytes = message.get("bytes") or b""
            if (too_big := _size(text, data, settings.message_max_bytes)) > settings.message_max_bytes:
                reason = f"{too_big} bytes, limit {settings.message_max_bytes}"
                await socket.close(TOO_BIG, reason)
                return
            await (socket.send_bytes(data) if text is None else socket.send_text(text))
    except WebSocketDisconnect:  # the peer left while we were sending: there is nobody to tell
        return


def _size(text: str | None, data: bytes, limit: int) -> int:
    """Return the bytes that a message has on the wire; text is only encoded when it may be above `limit`."""
    if text is None:
        return len(data)
    return len(text.encode()) if len(text) * UTF8_BYTES > limit else len(text)


async def refuse_bad_input(request: Request, error: Exception) -> Response:
    """Answer 422, and say what is wrong where.

    FastAPI's own handler repeats the input as well: a password goes back over the wire, and NaN or half a character (a
    lone surrogate) can't be written as JSON, so that the answer is a 500.
    """
    assert isinstance(error, RequestValidationError)
    detail = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")  # all of it ASCII


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make a service app of its own.

    Args:
        settings: what its endpoints see; by default the settings of the process.
    """
    app = FastAPI(title="labserver", version=__version__, docs_url=None, redoc_url=None)  # their pages need a CDN
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, refuse_bad_input)
    if settings is not None:
        app.dependency_overrides[get_settings] = lambda: settings
    return app
