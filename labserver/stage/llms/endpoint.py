"""The server: reads a request, asks its source for the answer, spoils it where that is ordered, and keeps the ledger.

A source is the lab's own voice (`Fake`, here) or Anthropic (`relay.Relay`). The client's leaving is watched beside the
writing, so that a request is cancelled, and its source closed, at once and without the garbage collector.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from labserver.stage.llms import faults, words
from labserver.stage.llms.faults import REFUSALS, Fault, Orders
from labserver.stage.llms.ledger import Ledger, Line, LlmRequest
from labserver.stage.llms.wire import Ask, Frame, Refusal, error_body, frame, read
from labserver.stage.llms.words import Voice

__all__ = ["Answer", "Broken", "Endpoint", "Fake", "Source"]

RETRY_AFTER = {"retry-after": "1", "retry-after-ms": "50"}  # the SDK obeys the second, and a lesson is short
SAYS = ("content_block_start", "content_block_delta", "ping")  # after these an answer may break off
CLOSES = ("content_block_stop", "message_delta", "message_stop", "body")  # before these at the latest
LARGEST = 32 << 20  # bytes of a request, as at Anthropic
STREAM, JSON = "text/event-stream; charset=utf-8", "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source answers: status, headers, and the body as events; one that is no stream is one event, "body"."""

    frames: AsyncGenerator[Frame]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Broken(Exception):
    """Raised by a source whose answer broke off: the client's is cut in the same place."""


class Source(Protocol):
    """Where answers come from."""

    paid: bool

    def answer(self, ask: Ask) -> AbstractAsyncContextManager[Answer]:
        """Return the answer; leaving the block ends what produces it.

        Raises:
            Refusal: there is none; `Broken`, while its events are read, when there is no more of it.
        """
        ...

    async def close(self) -> None:
        """Free what it holds; its server ends."""
        ...


class Fake:
    """The lab's own voice.

    Attributes:
        voice: how it answers; what is changed applies to requests that come after.
    """

    paid = False

    def __init__(self, voice: Voice) -> None:
        self.voice = voice

    @asynccontextmanager
    async def answer(self, ask: Ask) -> AsyncIterator[Answer]:
        frames = self._stream(ask) if ask.stream else self._whole(ask)
        async with aclosing(frames):
            yield Answer(frames, headers={"content-type": STREAM if ask.stream else JSON})

    async def close(self) -> None:
        pass

    async def _stream(self, ask: Ask) -> AsyncGenerator[Frame]:
        voice, said, stop_reason = self._say(ask)
        usage = {"input_tokens": words.count(ask.text), "output_tokens": 1}
        yield frame("message_start", message=self._message(ask, [], None, usage))
        yield frame("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield frame("ping")
        for at, token in enumerate(said):
            await asyncio.sleep(voice.delay if at else voice.first)
            yield frame("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
        yield frame("content_block_stop", index=0)
        end = {"stop_reason": stop_reason, "stop_sequence": None}
        yield frame("message_delta", delta=end, usage={"output_tokens": len(said)})
        yield frame("message_stop")

    async def _whole(self, ask: Ask) -> AsyncGenerator[Frame]:
        voice, said, stop_reason = self._say(ask)
        await asyncio.sleep(voice.first + voice.delay * (len(said) - 1))
        usage = {"input_tokens": words.count(ask.text), "output_tokens": len(said)}
        message = self._message(ask, [{"type": "text", "text": "".join(said)}], stop_reason, usage)
        yield Frame("body", json.dumps(message).encode())

    def _say(self, ask: Ask) -> tuple[Voice, list[str], str]:
        voice = self.voice
        said = words.tokens(voice, faults.without_order(ask.prompt))
        return voice, said[: ask.max_tokens], "end_turn" if len(said) <= ask.max_tokens else "max_tokens"

    def _message(self, ask: Ask, content: list[Any], stop_reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
        who = {"id": words.message_id(self.voice, ask.prompt), "type": "message", "role": "assistant"}
        ends = {"stop_reason": stop_reason, "stop_sequence": None, "usage": usage}
        return {**who, "model": ask.model, "content": content, **ends}


class Endpoint:
    """The server of a source, as an ASGI app.

    Attributes:
        source: where answers come from.
        orders: the faults of the answers to come.
        ledger: what was asked.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.orders = Orders()
        self.ledger = Ledger()
        self._ids = count(1)

    def app(self) -> Starlette:
        """Return the app; it serves one server at a time."""
        routes = [
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/requests", self._requests, methods=["GET"]),
            Route("/{path:path}", self._unknown, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
        ]

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            await self.source.close()

        return Starlette(routes=routes, lifespan=lifespan)

    async def _messages(self, request: Request) -> Response:
        raw = bytearray()
        try:
            async for piece in request.stream():
                raw += piece
                if len(raw) > LARGEST:
                    return JSONResponse(error_body("request_too_large", "Request exceeds the maximum size"), 413)
        except ClientDisconnect:
            return Response()
        return _Exchange(self, request.headers, bytes(raw), f"req_{next(self._ids):024d}")

    async def _requests(self, request: Request) -> Response:
        return JSONResponse(self.ledger.as_json())

    async def _unknown(self, request: Request) -> Response:
        if request.url.path == "/v1/messages":
            return JSONResponse(error_body("invalid_request_error", "Method Not Allowed"), 405)
        return JSONResponse(error_body("not_found_error", "Not Found"), 404)


class _Exchange(Response):
    """One request and its answer."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str], raw: bytes, request_id: str) -> None:
        self._endpoint, self._asked, self._raw, self._id = endpoint, headers, raw, request_id
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ask = read(self._asked, self._raw)
        except Refusal as refusal:
            self._endpoint.ledger.begin(LlmRequest("", "", False, 1)).end("failed")
            await self._refuse(send, refusal.status, refusal.kind, refusal.message)
            return
        paid = self._endpoint.source.paid
        line = self._endpoint.ledger.begin(LlmRequest(ask.prompt, ask.model, ask.stream, ask.attempt))
        fault = faults.by_prompt(ask.prompt, ask.attempt) or self._endpoint.orders.take()
        work = asyncio.create_task(self._answer(ask, line, fault, send, paid=paid))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                line.end("cancelled")  # said before anything is unwound
            for task in (work, gone):
                task.cancel()
            await asyncio.wait({work, gone})
            line.end("failed")
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _answer(self, ask: Ask, line: Line, fault: Fault | None, send: Send, *, paid: bool) -> None:
        if fault is not None and fault.name in REFUSALS:
            line.end("failed")
            await self._refuse(send, *REFUSALS[fault.name])
            return
        line.set(paid=paid)
        try:
            async with self._endpoint.source.answer(ask) as answer:
                await self._begin(send, answer.status, answer.headers)
                whole = await self._pass_on(answer, line, fault if answer.status == 200 else None, send)
        except Refusal as refusal:
            line.end("failed")
            await self._refuse(send, refusal.status, refusal.kind, refusal.message)
            return
        except Broken:
            whole = False
        if whole:
            line.end("done" if answer.status < 400 else "failed")
            await _body(send, b"", more=False)

    async def _pass_on(self, answer: Answer, line: Line, fault: Fault | None, send: Send) -> bool:
        """Send the events; return whether the body shall end as bodies do."""
        ended = False
        async for event in answer.frames:
            if fault is not None and event.name in CLOSES:
                return await self._spoil(fault, line, send)
            _note(event, line)
            ended = ended or event.name in ("message_stop", "body")
            await _body(send, event.raw)
            if fault is not None and event.name in SAYS and line.now.sent >= fault.after:
                return await self._spoil(fault, line, send)
        if not ended:
            line.end("failed")  # truncated by the source itself
        return True

    async def _spoil(self, fault: Fault, line: Line, send: Send) -> bool:
        """Break the answer off as ordered; return whether its body ends as bodies do."""
        if fault.name == "silent":
            await asyncio.Event().wait()  # until the client leaves or the server stops
        if fault.name == "error":
            await _body(send, frame("error", error={"type": "overloaded_error", "message": "Overloaded"}).raw)
        if line.now.stream or fault.name == "cut":
            line.end("failed")
        return fault.name != "cut" and line.now.stream

    async def _begin(self, send: Send, status: int, headers: Mapping[str, str]) -> None:
        pairs = {"request-id": self._id, "cache-control": "no-cache", **headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _refuse(self, send: Send, status: int, kind: str, message: str) -> None:
        body = json.dumps({**error_body(kind, message), "request_id": self._id}).encode()
        again = RETRY_AFTER if status in (429, 529) else {}
        await self._begin(send, status, {"content-type": JSON, "content-length": str(len(body)), **again})
        await _body(send, body, more=False)


def _note(event: Frame, line: Line) -> None:
    """Keep the ledger by what the wire says."""
    if event.name == "content_block_delta":
        line.token()
    elif event.name == "message_start":
        line.usage(event.data().get("message", {}).get("usage"))
    elif event.name == "message_delta":
        line.usage(event.data().get("usage"))
    elif event.name == "body":
        line.usage(Frame("body", b"data:" + event.raw.replace(b"\n", b" ")).data().get("usage"))
        line.set(sent=line.now.output_tokens)


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
