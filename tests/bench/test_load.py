"""The load generator counts what really came: lost, doubled, out of order, sent away; in C and in Python alike."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bench.conftest import Deliver, to_all
from websockets.asyncio.server import ServerConnection

from labserver.bench.place import Place
from labserver.errors import LabError

READERS = 20
Load = Callable[..., dict[str, float]]


@pytest.fixture(params=["C", "Python"])
def load(request: pytest.FixtureRequest, here: Place, demand: Any) -> Load:
    python = request.param == "Python"
    if not python:
        demand("a C compiler", bool(here.compiler), "install gcc to run this test.")
        assert here.build("load")

    def run(way: str, port: int, *options: str) -> dict[str, float]:
        return here.load(way, f"port={port}", f"pid={os.getpid()}", *options, python=python)

    return run


def fanout(load: Load, port: int, *options: str) -> dict[str, float]:
    return load("fanout", port, f"readers={READERS}", "warmup=0", "seconds=0.2", "patience=1", *options)


def test_every_delivery_is_counted(load: Load, erring_server: Any) -> None:
    with erring_server(to_all) as port:
        found = fanout(load, port)
    assert found["messages"] > 0
    assert found["deliveries"] == found["messages"] * READERS
    assert (found["lost"], found["doubled"], found["disordered"], found["gone"]) == (0, 0, 0, 0)
    assert 0 < found["p50"] <= found["p99"]
    assert found["server"] > 0
    assert found["self"] > 0


@pytest.mark.parametrize("size", [60, 126, 3000])
def test_messages_of_any_size_are_found(load: Load, erring_server: Any, size: int) -> None:
    lengths: set[int] = set()

    async def deliver(readers: list[ServerConnection], number: int, text: str) -> None:
        lengths.add(len(text))
        await to_all(readers, number, text)

    with erring_server(deliver) as port:
        found = fanout(load, port, f"size={size}", "flight=3")
    assert lengths == {size}
    assert found["deliveries"] == found["messages"] * READERS


def faulty(fault: Callable[[int, str], list[str]]) -> Deliver:
    """Return a delivery in which the first reader gets what `fault` returns in place of each text."""

    async def deliver(readers: list[ServerConnection], number: int, text: str) -> None:
        for at, reader in enumerate(readers):
            for each in [text] if at else fault(number, text):
                await reader.send(each)

    return deliver


def test_a_lost_message_is_seen_and_does_not_stop_the_run(load: Load, erring_server: Any) -> None:
    with erring_server(faulty(lambda number, text: [] if number == 4 else [text])) as port:
        found = fanout(load, port, "flight=3")
    assert (found["lost"], found["doubled"], found["disordered"]) == (1, 0, 0)
    assert found["messages"] > 4


def test_a_doubled_message_is_seen(load: Load, erring_server: Any) -> None:
    with erring_server(faulty(lambda number, text: [text, text] if number == 4 else [text])) as port:
        found = fanout(load, port)
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 1, 0)


def test_swapped_messages_are_seen(load: Load, erring_server: Any) -> None:
    held: list[str] = []

    def swap(number: int, text: str) -> list[str]:
        if number == 4:
            held.append(text)
            return []
        return [text, held.pop()] if number == 5 else [text]

    with erring_server(faulty(swap)) as port:
        found = fanout(load, port, "flight=3")
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 1)


def test_a_server_that_falls_silent_ends_the_run_with_its_losses(load: Load, erring_server: Any) -> None:
    with erring_server(faulty(lambda number, text: [text] if number < 4 else [])) as port:
        found = fanout(load, port)
    assert found["lost"] == 1


def test_a_reader_that_is_sent_away_is_seen(load: Load, erring_server: Any) -> None:
    async def deliver(readers: list[ServerConnection], number: int, text: str) -> None:
        if number == 4:
            readers[0].transport.abort()
        await to_all(readers[1:] if number > 3 else readers, number, text)

    with erring_server(deliver) as port:
        assert fanout(load, port)["gone"] == 1


def test_readers_that_never_get_a_message_are_an_error(load: Load, erring_server: Any) -> None:
    async def deliver(readers: list[ServerConnection], number: int, text: str) -> None:
        await asyncio.sleep(0)

    with erring_server(deliver) as port, pytest.raises(LabError, match="some readers never get a message"):
        fanout(load, port, "patience=0.01")


@contextmanager
def answering(*pieces: bytes) -> Iterator[int]:
    """Yield the port of a server that sends these pieces to its one client, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client:
                while b"\r\n\r\n" not in client.recv(4096):
                    pass
                for piece in pieces:
                    client.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_lines_and_bytes_of_a_response_are_counted(load: Load) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", b'{"a":1}\n{"a":2}', b'\n{"a"', b":3}\n\r\n}") as port:
        found = load("get", port, "path=/items", "lines=1")
    assert found["lines"] == 3
    assert found["bytes"] == len(b'{"a":1}\n' * 3) + 3
    assert 0 < found["first"] <= found["elapsed"]


def test_a_refusal_is_a_sentence(load: Load) -> None:
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as port, pytest.raises(LabError, match=r"^the server refused"):
        load("get", port, "path=/items")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(LabError, match="does not accept a connection"):
        fanout(load, port)


def test_both_generators_print_the_same_fields(here: Place, erring_server: Any, demand: Any) -> None:
    demand("a C compiler", bool(here.compiler), "install gcc to run this test.")
    options = ["readers=2", "warmup=0", "seconds=0.05", f"pid={os.getpid()}"]
    with erring_server(to_all) as port:
        both = [here.load("fanout", f"port={port}", *options, python=python) for python in (True, False)]
    assert both[0].keys() == both[1].keys()
