"""The room as a web app: `POST /verdicts` for participants, the board's page and its feed for the instructor.

A key never stands in a path or a query, which land in logs. The participants' travels in a header; the board's stands
behind the # of its address, which no browser sends, and the page trades it for a cookie, since an EventSource can send
no header.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DatabaseError

from labserver.patterns.disconnects import TiedStream
from labserver.patterns.sse_resume import HEADERS, Cursor
from labserver.school.catalogue import exercise, exercise_ids
from labserver.school.pages import SIGNS
from labserver.school.room.feed import PAGES_MAX, Feed
from labserver.school.room.store import VERDICTS_MAX, Store
from labserver.school.room.verdict import Verdict
from labserver.service.app import refuse_bad_input
from labserver.settings import Settings, get_settings

__all__ = ["create_app"]

BODY_MAX = 16 << 10  # bytes of a verdict; one with twenty failed checks has 1 kB
KEY_MAX = 1024  # bytes of what trades a key for a cookie
SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
logger = logging.getLogger("uvicorn.error")
router = APIRouter()

Limits = Annotated[Settings, Depends(get_settings)]


class Room:
    """The room while it is served: what it keeps, who reads along, and who may."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.feed = Feed(store.epoch, store.verdicts())
        self.cookie = f"labserver_room_{store.epoch}"  # cookies know no ports: two rooms on one host need two names
        self.exercises = {id: exercise(id) for id in exercise_ids()}
        self._turn = asyncio.Lock()

    async def keep(self, verdict: Verdict) -> tuple[int, bool]:
        """Keep a verdict and, if it is new, tell the boards; return its number, and whether it is new.

        Numbers are given and told in one order, since each waits for its turn.

        Raises:
            DatabaseError: if it can't be written.
        """
        async with self._turn:
            number, new = await asyncio.to_thread(self.store.add, verdict)
            if new:
                self.feed.publish(number, verdict)
        return number, new

    def lesson(self) -> list[dict[str, Any]]:
        """Return what the board has to know of each exercise: titles, and the sentences to say."""
        return [
            {
                "id": known.id,
                "number": known.number,
                "title": known.title,
                "checks": {check.name: {"title": check.title, "hint": check.hint} for check in known.checks},
                "says": {name: mistake.says for name, mistake in known.misconceptions.items()},
            }
            for known in self.exercises.values()
        ]


def _room(request: Request) -> Room:
    room = request.app.state.room
    assert isinstance(room, Room)
    return room


TheRoom = Annotated[Room, Depends(_room)]


def _same(given: str, key: str) -> bool:
    return secrets.compare_digest(given.encode(), key.encode())


def _participant(room: TheRoom, authorization: Annotated[str, Header()] = "") -> None:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not _same(key.strip(), room.store.report_key):
        raise HTTPException(401, "this key is not that of the room", {"WWW-Authenticate": "Bearer"})


def _instructor(request: Request, room: TheRoom) -> None:
    if not _same(request.cookies.get(room.cookie, ""), room.store.board_key):
        raise HTTPException(401, "open the address of the board that `labserver room` printed")


async def _page_open(room: TheRoom) -> AsyncIterator[None]:
    """Count a board among the open ones, however its stream ends."""
    if room.feed.pages >= PAGES_MAX:
        raise HTTPException(503, "too many boards are open", {"Retry-After": "10"})
    room.feed.pages += 1
    try:
        yield
    finally:
        room.feed.pages -= 1


@router.get("/")
async def page() -> Response:
    """The board without anything on it: what it shows comes from the feed, for which it needs the key."""
    return _asset("board.html", "text/html")


@router.get("/board.js")
async def script() -> Response:
    """What the page does."""
    return _asset("board.js", "text/javascript")


@router.get("/board.css")
async def style() -> Response:
    """How the page looks."""
    return _asset("board.css", "text/css")


def _asset(name: str, kind: str) -> Response:
    return Response(Path(__file__).with_name(name).read_bytes(), media_type=kind, headers=SAFE)


@router.post("/verdicts", status_code=201, max_body_size=BODY_MAX, dependencies=[Depends(_participant)])
async def keep(verdict: Verdict, room: TheRoom, response: Response) -> dict[str, int]:
    """Keep a participant's verdict: 201, or 200 when it was here before; the answer says its number."""
    known = room.exercises.get(verdict.exercise)
    if known is None:
        raise HTTPException(422, "the room has no such exercise")
    if verdict.points > known.max_points:
        raise HTTPException(422, f"this exercise has {known.max_points} points")
    if len(room.feed) >= VERDICTS_MAX:
        raise HTTPException(503, "the room is full", {"Retry-After": "60"})
    try:
        number, new = await room.keep(verdict)
    except DatabaseError as error:
        logger.error("A verdict can't be kept: %s", error.orig)
        raise HTTPException(503, "the room can't keep this now", {"Retry-After": "10"}) from None
    if not new:
        response.status_code = 200
    return {"number": number}


@router.post("/key", status_code=204, max_body_size=KEY_MAX)
async def open_board(key: Annotated[str, Body(embed=True)], room: TheRoom, response: Response) -> None:
    """Trade the board's key for a cookie that scripts can't read and other sites can't use."""
    if not _same(key, room.store.board_key):
        raise HTTPException(401, "this key does not open the board")
    response.set_cookie(room.cookie, key, httponly=True, samesite="strict")


@router.get("/key", status_code=204, dependencies=[Depends(_instructor)])
async def may_read() -> None:
    """Say whether the cookie opens the board: an EventSource does not say why it was refused."""


@router.get("/feed", dependencies=[Depends(_instructor), Depends(_page_open)])
async def read_feed(cursor: Cursor, room: TheRoom, settings: Limits) -> TiedStream:
    """Every verdict since the one that the board saw last, then each as it comes."""
    how, seen = room.feed.begin(cursor)
    opening = {"how": how, "exercises": room.lesson(), "signs": SIGNS}
    return TiedStream(room.feed.after(seen, opening, settings), media_type="text/event-stream", headers=HEADERS)


def create_app(store: Store) -> FastAPI:
    """Make the app of a room.

    Args:
        store: what is kept; the app closes it when its lifespan ends.
    """
    room = Room(store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"drain": room.feed.end}  # for whoever stops the server
        store.close()

    app = FastAPI(title="labserver room", lifespan=lifespan, openapi_url=None)
    app.state.room = room
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, refuse_bad_input)
    return app
