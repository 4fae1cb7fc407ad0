"""Connections straight on the transport, as subclasses of uvicorn's two protocols; `Config(**protocols(limits))`.

A protocol offers itself to the app as an extension of its scope. Server frames are not masked, so a message is the same
bytes for every WebSocket, and the same chunk for every event stream: the hub hands them to `transport.write`, and
`pause_writing`, `resume_writing` and `connection_lost` keep the connection's place. Ordinary sends share the transport,
so order holds. What this rests on inside uvicorn is listed in tests/realtime/test_uvicorn_contract.py.

Also here, for every response and socket of the server: a reader who does not read for `write_deadline` is cut off, and
a close never waits for one.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory

from .codes import said
from .connection import Connection, Goodbye, restart
from .limits import Limits
from .message import Forms, Kind, chunk
from .strict import StrictHttp, StrictWebSocket

__all__ = ["EXTENSION", "DirectHttp", "DirectWebSocket", "direct", "protocols"]

EXTENSION = "realtime.direct"
WINDOW_BITS = 12  # of a deflated socket: 4 KiB, more than a message needs that shares nothing with the one before


def direct(scope: Any) -> "Direct | None":
    """Return the connection that a request's server offers, if it offers one."""
    return cast("Direct | None", scope.get("extensions", {}).get(EXTENSION))


def protocols(limits: Limits | None = None) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that serve by direct connections under these limits."""
    chosen = limits or Limits()
    return {
        "http": type("DirectHttp", (DirectHttp,), {"limits": chosen}),
        "ws": type("DirectWebSocket", (DirectWebSocket,), {"limits": chosen}),
        "ws_max_size": chosen.message_max_bytes,
        "ws_per_message_deflate": False,
        "ws_ping_interval": chosen.ws_heartbeat,
        "ws_ping_timeout": chosen.ws_heartbeat,
    }


class Direct(Connection):
    """What both protocols share: the place in the hub follows the transport."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    connections: set[Any]
    deadline: asyncio.TimerHandle | None = None

    def write(self, burst: bytes) -> None:
        self.transport.write(burst)

    def cut(self) -> None:
        self.leave()
        self.transport.abort()  # close() would wait for a buffer that never drains

    def enter(self, fan: Any) -> None:
        if not self.transport.is_closing():
            cast(Any, self).write = self.transport.write  # no call of ours between hub and transport
            super().enter(fan)

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self.place(True)
        if self.deadline is None:
            self._watch()

    def resume_writing(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        self.place(False)
        for burst in self.waiting():
            self.transport.write(cast(bytes, burst))  # may pause again
        if not self.behind:
            super().resume_writing()  # type: ignore[misc]
        self.bury()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self.outbox = None
        self.__dict__.pop("write", None)
        if self.deadline is not None:
            self.deadline.cancel()
        if getattr(self, "scope", None) is not None:
            self.scope.get("extensions", {}).pop(EXTENSION, None)  # type: ignore[attr-defined]  # a reference cycle
        super().connection_lost(exc)  # type: ignore[misc]

    def _watch(self) -> None:
        """Cut off a reader who takes nothing for `write_deadline`, as nginx's send_timeout does; slow is no fault."""
        left = self.transport.get_write_buffer_size()
        self.deadline = self.loop.call_later(self.limits.write_deadline, self._judge, left)

    def _judge(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch()
        else:
            self.give_up()

    def give_up_in(self, seconds: float) -> None:
        """Cut off the reader, unless it reads on or is gone before; of two such limits the earlier one counts."""
        if self.deadline is not None:
            seconds = min(seconds, self.deadline.when() - self.loop.time())
            self.deadline.cancel()
        self.deadline = self.loop.call_later(seconds, self.give_up)

    def bury(self) -> None:
        """See to it that a transport that is closing ends also for a reader who takes nothing."""
        if self.transport.is_closing() and self in self.connections:
            self.leave()
            self.bound()

    def bound(self) -> None:
        """Give a reader who is to leave a last chance to read what waits for it."""
        self.give_up_in(self.limits.goodbye_timeout)


class Inbox:
    """What asyncio.Queue does here, for one reader, at a tenth of its 2 KiB."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._waiter: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        return not self._items

    def put_nowait(self, item: Any) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Any:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.pop(0)


class DirectWebSocket(Direct, StrictWebSocket):
    """uvicorn's WebSocket that the hub can write to."""

    kind: Kind = "ws"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.queue = cast(Any, Inbox())
        if self.config.ws_per_message_deflate:  # uvicorn's own keeps a window per socket: three times the CPU
            shared = ServerPerMessageDeflateFactory(
                server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=WINDOW_BITS
            )
            self.conn.available_extensions = [shared]

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)  # makes the scope; the app's task has not run yet
        if hasattr(self, "scope"):
            self.kind = _kind(self.conn.extensions)
            cast(dict[str, Any], self.scope["extensions"])[EXTENSION] = self

    def enter(self, fan: Any) -> None:
        if not self.close_sent:
            super().enter(fan)

    def tell(self, *said: Forms, cursor: str = "") -> None:
        if not (self.close_sent or self.transport.is_closing()):  # no data frame may follow a close frame
            super().tell(*said, cursor=cursor)

    async def send(self, message: Any) -> None:
        self.flush()
        if message["type"] == "websocket.close":
            self.leave()
        await super().send(message)
        if message["type"] == "websocket.accept":
            self.request = self.response = cast(Any, None)  # 3 KiB of headers, which the scope has as well
        self._bound_close()
        self.bury()

    def close(self, goodbye: Goodbye) -> None:
        self.flush()
        self.leave()
        if self.behind or self.transport.is_closing():
            self.cut()  # a close frame would not arrive
        elif not self.close_sent:
            self._say_close(goodbye[0], said(goodbye[1]))

    async def drained(self) -> None:
        await self.writable.wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.bury()  # the peer closed, or broke the protocol

    def keepalive_timeout(self) -> None:
        self.leave()
        super().keepalive_timeout()
        self.bury()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.bury()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.conn.parser.close()  # a generator that holds `conn`, which holds it

    def shutdown(self) -> None:
        if self.fans:
            self.close(restart(self.limits))
        super().shutdown()
        self.bury()

    def _say_close(self, code: int, reason: str) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(self.limits.goodbye_timeout, self.transport.abort)
        self.read_on()  # for the peer's answer

    def _bound_close(self) -> None:
        """Abort where uvicorn would close, if the peer does not answer the close frame."""
        if self.close_timer is not None and self.close_timer.when() - self.loop.time() > self.limits.goodbye_timeout:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.limits.goodbye_timeout, self.transport.abort)


def _kind(extensions: Any) -> Kind:
    return next((each.local_max_window_bits for each in extensions if isinstance(each, PerMessageDeflate)), "ws")


class DirectHttp(Direct, StrictHttp):
    """uvicorn's HTTP/1, which takes a chunked response over from the app: no task, no scope and no parser stay."""

    kind: Kind = "sse"
    served: Any = None  # the request that is answered; `cycle` is the newest, which may wait behind it
    farewell: Callable[[Goodbye], bytes] | None = None  # of a response that was taken over
    ended: Callable[[], None] | None = None

    def on_headers_complete(self) -> None:
        cast(dict[str, Any], self.scope.setdefault("extensions", {}))[EXTENSION] = self
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.served = cycle
        super()._start_asgi_task(cycle, app)

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        cast(dict[str, Any], self.scope["extensions"]).clear()  # with the parser, the cycles that keep this one alive
        self.parser = None  # type: ignore[assignment]

    def streaming(self) -> bool:
        """Return whether the head of a chunked response is on its way: a middleware may hold it back."""
        cycle = self.served
        on_its_way = cycle.response_started and cycle.chunked_encoding is True
        return on_its_way and not cycle.response_complete and not cycle.disconnected

    def bound(self) -> None:
        """Wait for whoever reads on: the end of a download is as long as its pieces."""
        if self.deadline is None:
            self._watch()

    def take_over(self, farewell: Callable[[Goodbye], bytes], ended: Callable[[], None]) -> None:
        """Serve what follows of a response that is streaming; the app's call may return, or replay something first.

        A request that the client sent behind it is not answered: the connection ends with the response.

        Args:
            farewell: returns the last bytes of the body for a goodbye.
            ended: called once, when the response has ended or the reader is gone.
        """
        self.farewell, self.ended = farewell, ended
        self.served.response_complete = True  # to uvicorn
        self.served.scope = self.scope = cast(Any, {"extensions": {}})
        self.parser = None  # type: ignore[assignment]
        if self.transport.is_closing():
            self._end()

    def data_received(self, data: bytes) -> None:
        if self.farewell is None:
            super().data_received(data)

    def close(self, goodbye: Goodbye) -> None:
        self.flush()
        self.leave()
        if self.farewell is None or self.transport.is_closing():
            return
        last = self.farewell(goodbye)
        self.transport.write((chunk(last) if last else b"") + b"0\r\n\r\n")
        self.transport.close()
        self.give_up_in(self.limits.goodbye_timeout)
        self._end()

    async def drained(self) -> None:
        if self.flow.write_paused:
            await self.flow.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self.pipeline.clear()
        self.cycle = self.served  # uvicorn tells the newest request alone that the client has left
        if self.served is not None:
            self.served.scope["extensions"].pop(EXTENSION, None)
        super().connection_lost(exc)
        self._end()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.bury()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.bury()

    def shutdown(self) -> None:
        self.close(restart(self.limits))
        super().shutdown()
        self.bury()

    def _end(self) -> None:
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()
