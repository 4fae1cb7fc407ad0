"""`WS /ws/echo`: every message back as it came. What conformance suites and load generators talk to."""

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from labserver.realtime.codes import TOO_BIG, Refused
from labserver.service.state import TheAuth, TheSettings

__all__ = ["router"]

router = APIRouter()

UTF8_BYTES = 4  # the most that one character takes


@router.websocket("/ws/echo")
async def echo(socket: WebSocket, auth: TheAuth, settings: TheSettings) -> None:
    """Send every message back as it came: text as text, binary as binary. Needs no token, but no foreign page gets in.

    One message is in flight at a time: a peer that sends without reading is not read from either, so it costs what the
    kernel and the transport's buffer hold and no more.

    Close codes: 4403 for a foreign origin, 1009 for a message above `message_max_bytes` (uvicorn closes so by itself
    where its `ws_max_size` is smaller or equal, as under `labserver serve`), 1007 for text that is not UTF-8 (always
    uvicorn).
    """
    try:
        await auth.enter(socket, anonymous=True)
    except Refused:
        return
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
