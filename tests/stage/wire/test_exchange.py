"""Requests with what followed them, and the lanes of who sent them."""

from labserver.stage.wire import WireEvent, exchanges, is_keepalive, lanes

DATA = [(0.1, "id: 1\ndata: 1\n\n")]


def test_a_reconnect_continues_the_lane_of_its_path(record) -> None:  # type: ignore[no-untyped-def]
    lost = record.stream(DATA, (0.5, "cut"))
    again = record.stream(DATA, (1.0, "clean"), start=0.6, last="1")
    other = record.stream(DATA, (1.0, "clean"), start=0.6, path="/other")
    beside = record.stream(DATA, start=0.7)
    found = lanes([*lost, *again, *other, *beside])
    assert [(lane.name, [each.path for each in lane.exchanges]) for lane in found] == [
        ("client 1", ["/events", "/events"]),
        ("client 2", ["/other"]),
        ("client 3", ["/events"]),
    ]
    first, second = found[0].exchanges
    assert (first.torn, first.complete, first.resumed) == (True, False, "")
    assert (second.torn, second.complete, second.resumed) == (False, True, "Last-Event-ID: 1")
    assert found[2].exchanges[0].ending is None


def test_an_exchange_knows_what_it_became(record) -> None:  # type: ignore[no-untyped-def]
    (socket,) = exchanges(record.websocket([(0.1, "client", "hi")], "4401 no token"))
    assert (socket.upgrade, socket.websocket, socket.path, socket.torn) == (True, True, "/ws/echo", False)
    (missing,) = exchanges(record.stream([(0.1, "no")], (0.2, "clean"), kind="text/plain", status="404 Not Found"))
    assert (missing.failed, missing.stream) == (True, "body")


def test_names_are_given_in_order(record) -> None:  # type: ignore[no-untyped-def]
    found = [event for n in range(3) for event in record.stream(DATA, start=0.01 * n)]
    assert [lane.name for lane in lanes(found, ["ana"])] == ["ana", "client 2", "client 3"]
    assert [lane.name for lane in lanes(record.stream(DATA))] == ["client"]


def test_a_comment_that_says_something_is_no_keepalive() -> None:
    def comment(data: str) -> WireEvent:
        return WireEvent(0.0, 1, 1, "server", "comment", data=data)

    assert all(is_keepalive(comment(text)) for text in ("", "ping 12:01", "keep-alive", "Heartbeat"))
    assert not any(is_keepalive(comment(text)) for text in ("shopping", "note"))


def test_what_a_server_sends_to_a_client_that_is_gone_reaches_nobody(record) -> None:  # type: ignore[no-untyped-def]
    late = record.stream([*DATA, (0.7, "id: 2\ndata: 2\n\n")], (0.5, "leaves"))
    (left,) = exchanges(sorted(late, key=lambda event: event.at))
    assert [event.id for event in left.events if event.kind == "event"] == ["1"]
    assert left.events[-1].label == "client leaves"
    frames = record.websocket([(0.1, "server", "one"), (0.2, "client", "bye"), (0.3, "server", "two")], "gone")
    (gone,) = exchanges(sorted(frames, key=lambda event: event.at))
    assert [event.data for event in gone.events if event.kind == "text"] == ["one", "bye", "two"], "before it went"
    (closed,) = exchanges(record.websocket([(0.1, "server", "one")], "close"))
    assert [event.sender for event in closed.events if event.kind == "close"] == ["client", "server"]
