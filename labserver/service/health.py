"""For whoever runs the service: is it alive, is it ready, what does it count."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from labserver.realtime.metrics import CONTENT_TYPE_LATEST, exposition
from labserver.service.state import TheChannels

__all__ = ["router"]

router = APIRouter(tags=["operations"])

NO_STORE = {"Cache-Control": "no-store"}
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Send no new clients here.",
        "content": {"application/json": {"example": {"ready": False, "engine": "memory", "draining": True}}},
    }
}


@router.get("/healthz", responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}})
async def healthz(response: Response) -> dict[str, str]:
    """Say that this process answers; it looks at nothing else. For a probe's liveness check."""
    response.headers.update(NO_STORE)
    return {"status": "ok"}


@router.get("/readyz", responses=NOT_READY)
async def readyz(channels: TheChannels) -> JSONResponse:
    """Say whether new clients are welcome: the engine stores and delivers, and no drain has begun."""
    ready = channels.engine.ready and not channels.drain.begun
    body = {"ready": ready, "engine": channels.engine.name, "draining": channels.drain.begun}
    return JSONResponse(body, 200 if ready else 503, NO_STORE)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "realtime_connections 2.0\n"}}}},
)
async def metrics(channels: TheChannels) -> Response:
    """Connections, outboxes, drops, replays, gaps and drains of this process, for Prometheus."""
    return Response(exposition(channels), media_type=CONTENT_TYPE_LATEST, headers=NO_STORE)
