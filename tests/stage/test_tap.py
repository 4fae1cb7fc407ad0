"""The tap changes nothing: bytes, half-closes, aborts and a reader's slowness go through as they came."""

import asyncio
import hashlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable

import pytest

from labserver.stage.tap import close_all
from labserver.stage.tape import Tape

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve(handler: Handler) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def until(condition: Callable[[], bool], deadline: float = 5.0) -> None:
    """Wait for a condition; fail when it is not true within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.005)


async def connect(tape: Tape) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(tape.url.rpartition(":")[2]))


async def test_bytes_and_half_closes_go_through() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # to the client's end, which must arrive while the answer is still to come
        writer.write(hashlib.sha256(data).hexdigest().encode())
        writer.close()

    server, port = await serve(swallow)
    data = os.urandom(3_000_000)
    async with server, Tape("127.0.0.1", port) as tape:
        reader, writer = await connect(tape)
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("who", ["client", "server"])
async def test_an_abort_arrives_as_an_abort(who: str) -> None:
    ends: list[BaseException | bytes] = []

    def abort(writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if who == "server":
            abort(writer)
            return
        writer.write(b"x")
        try:
            ends.append(await reader.read(1))
        except OSError as error:
            ends.append(error)
        writer.close()

    server, port = await serve(other)
    async with server, Tape("127.0.0.1", port) as tape:
        reader, writer = await connect(tape)
        writer.write(b"x")
        if who == "client":
            assert await reader.read(1) == b"x"
            abort(writer)
        else:
            try:
                ends.append(await asyncio.wait_for(reader.read(1), 5))
            except OSError as error:
                ends.append(error)
            writer.close()
        await until(lambda: bool(ends))
    assert isinstance(ends[0], ConnectionResetError)


async def test_a_reader_who_stops_is_felt_by_the_writer() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while sent < 200_000_000:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        except OSError:
            pass
        finally:
            writer.close()

    server, port = await serve(flood)
    async with server, Tape("127.0.0.1", port, max_bytes=1000) as tape:
        _, writer = await connect(tape)
        before = -1
        stalled = time.monotonic() + 5
        while sent != before:  # until nothing more is taken for a tenth of a second
            assert time.monotonic() < stalled
            before = sent
            await asyncio.sleep(0.1)
        assert 0 < sent < 40_000_000, "the tap took more than the kernel's buffers"
        assert tape.dropped > 0
        writer.close()


async def test_a_client_that_stopped_reading_is_hung_up_on() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        except OSError:
            writer.close()

    server, port = await serve(flood)
    async with server:
        async with Tape("127.0.0.1", port, max_bytes=1000) as tape:
            client = socket.create_connection(("127.0.0.1", int(tape.url.rpartition(":")[2])), timeout=2)
            await until(lambda: tape.dropped > 100_000)  # the tap itself holds little
        with client, pytest.raises(ConnectionResetError):
            await asyncio.to_thread(_read_to_the_end, client)


def _read_to_the_end(client: socket.socket) -> None:
    while client.recv(1 << 20):
        pass  # what was on its way


async def test_the_recording_is_bounded_and_says_so() -> None:
    body = b"x" * 50_000

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 50000\r\n\r\n" + body)
        writer.close()

    server, port = await serve(answer)
    async with server, Tape("127.0.0.1", port, "bounded", max_bytes=1000) as tape:
        reader, writer = await connect(tape)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert data.endswith(body), "all is forwarded"
    assert tape.dropped > 49_000
    assert tape.events[-1].kind == "full"
    assert "~ full      tape full" in tape.text()
    assert "tape full" in tape.show().svg
    assert tape.ended == "open"


async def test_a_hundred_connections_and_none_left() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server, port = await serve(echo)
    async with server, Tape("127.0.0.1", port) as tape:
        pairs = await asyncio.gather(*(connect(tape) for _ in range(100)))
        for number, (_, writer) in enumerate(pairs):
            writer.write(b"%03d" % number)
        got = await asyncio.gather(*(asyncio.wait_for(reader.readexactly(3), 5) for reader, _ in pairs))
        assert got == [b"%03d" % number for number in range(100)]
        assert tape.connections == 100
    # the block ended with all of them open: the tape ended them
    ends = await asyncio.gather(*(asyncio.wait_for(reader.read(), 5) for reader, _ in pairs), return_exceptions=True)
    assert all(end == b"" or isinstance(end, OSError) for end in ends)
    for _, writer in pairs:
        writer.close()
    with pytest.raises(OSError, match=r".*"):
        await connect(tape)


async def test_close_all_ends_forgotten_tapes() -> None:
    tape = Tape("127.0.0.1", 9).open()
    assert close_all() >= 1
    with pytest.raises(OSError, match=r".*"):
        await connect(tape)
    tape.close()
