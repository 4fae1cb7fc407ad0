"""What became of what was published: on time, late, sent again, missed; and who was to receive it at all."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from labserver.stage.wire import Lane, Publication, WireEvent, lanes, trace

PUBLISHED = [Publication(0.3 * n, str(n)) for n in range(1, 7)]


def sse(numbers: Sequence[int], at: float | None = None, data: str = "x") -> list[tuple[float, str]]:
    return [(at + 0.001 * n if at is not None else 0.3 * n + 0.002, f"id: {n}\ndata: {data}\n\n") for n in numbers]


def fates(lane: Lane) -> dict[str, str]:
    found = {event.label: event.fate for event in lane.events if event.due is not None}
    return found | {event.label: event.fate for event in lane.missed}


def traced(events: list[WireEvent], **more: object) -> Lane:
    return trace(lanes(events), PUBLISHED, **more)[0]  # type: ignore[arg-type]


def test_late_is_later_than_the_bound_after_its_publication(record) -> None:  # type: ignore[no-untyped-def]
    events = record.stream([*sse([1, 2]), *sse([3, 4], 1.6), *sse([5, 6])])
    assert fates(traced(events, late=0.3)) == {"1": "", "2": "", "3": "late", "4": "late", "5": "", "6": ""}
    assert set(fates(traced(events)).values()) == {""}
    assert [event.due for event in traced(events).events if event.due] == pytest.approx([0.3 * n for n in range(1, 7)])


def test_an_open_lane_missed_what_never_came(record) -> None:  # type: ignore[no-untyped-def]
    lane = traced(record.stream(sse([1, 2, 4, 5, 6])))
    assert fates(lane)["3"] == "missed"
    assert [(event.label, event.at) for event in lane.missed] == [("3", pytest.approx(0.9))]


def test_who_is_cut_misses_the_rest_and_who_leaves_does_not(record) -> None:  # type: ignore[no-untyped-def]
    ends = {"cut": ["3", "4", "5", "6"], "leaves": [], "clean": []}
    for how, missed in ends.items():
        lane = traced(record.stream(sse([1, 2]), (0.7, how)))
        assert [event.label for event in lane.missed] == missed, how


@pytest.mark.parametrize(("end", "missed"), [("1013 too slow", 4), ("4408", 4), ("1001", 0), ("close", 0), ("cut", 4)])
def test_a_socket_that_is_sent_away_misses_the_rest(record, end: str, missed: int) -> None:  # type: ignore[no-untyped-def]
    steps = [(0.302, "server", '{"n": "1"}'), (0.602, "server", "2")]
    assert len(traced(record.websocket(steps, end)).missed) == missed


def test_what_came_before_the_connection_is_not_expected(record) -> None:  # type: ignore[no-untyped-def]
    lane = traced(record.stream(sse([4, 5, 6]), start=1.0))
    assert fates(lane) == {"4": "", "5": "", "6": ""}


def test_a_reconnect_replays_or_loses(record) -> None:  # type: ignore[no-untyped-def]
    first = record.stream(sse([1, 2]), (0.7, "cut"))
    resume = (1.401, "id: 2\nevent: resume\ndata: resume\n\n")
    again = record.stream([resume, *sse([3, 4], 1.402), *sse([5, 6])], start=1.4, last="2")
    anew = record.stream(sse([5, 6]), start=1.4)
    assert fates(traced([*first, *again])) == {"1": "", "2": "", "3": "replay", "4": "replay", "5": "", "6": ""}
    assert fates(traced([*first, *anew]))["3"] == fates(traced([*first, *anew]))["4"] == "missed"
    left = record.stream(sse([1, 2]), (0.7, "leaves"))
    assert not traced([*left, *anew]).missed, "another client that joins later has missed nothing"


def test_what_is_sent_twice_is_a_replay_too(record) -> None:  # type: ignore[no-untyped-def]
    first = record.stream(sse([1, 2]), (0.7, "cut"))
    again = record.stream([*sse([2, 3, 4], 1.402), *sse([5, 6])], start=1.4, last="1")
    lane = traced([*first, *again])
    assert [event.label for event in lane.events if event.fate == "replay"] == ["2", "3", "4"]
    assert not lane.missed


def test_ids_words_and_a_match_of_ones_own(record) -> None:  # type: ignore[no-untyped-def]
    ids = traced(record.stream(sse([1, 2], data="3 and 4")))
    assert [event.label for event in ids.events if event.due is not None] == ["1", "2"], "an id counts, not a word"
    texts = ["m1", '{"text": "m2", "n": 10}', "say m3.", "m10", "xm4", "m5.5"]
    events = record.websocket([(0.1 * n, "server", text) for n, text in enumerate(texts, 1)], "open")
    published = [Publication(0.0, f"m{n}") for n in range(1, 6)]
    source, lane = reversed(trace(lanes(events), published))
    assert [event.label for event in lane.events if event.due is not None] == ["m1", "m2", "m3"]
    assert [event.label for event in source.published] == ["m1", "m2", "m3", "m4", "m5"]
    own = trace(lanes(events), published, match=lambda label, event: event.data == "x" + label)[0]
    assert [event.label for event in own.events if event.due is not None] == ["m4"]


def test_one_label_may_be_published_again_and_again(record) -> None:  # type: ignore[no-untyped-def]
    published = [Publication(0.3 * n, "tick") for n in range(1, 5)]
    events = record.websocket([(0.31, "server", "tick"), (1.4, "server", "tick")], "open")
    lane = trace(lanes(events), published, late=0.2)[0]
    assert [event.fate for event in lane.events if event.due is not None] == ["", "late"]
    assert [event.at for event in lane.missed] == pytest.approx([0.9, 1.2])


def test_a_publisher_is_no_listener(record) -> None:  # type: ignore[no-untyped-def]
    post = record.stream([(0.1, '{"receivers": 1}')], (2.0, "clean"), kind="application/json", path="/publish")
    assert not traced(post).missed
    assert not trace(lanes(post), PUBLISHED)[0].traced
    refused = record.stream([(0.1, "no")], (0.2, "clean"), status="503 Service Unavailable")
    assert not traced(refused).missed


def test_a_full_tape_does_not_know_what_is_missed(record) -> None:  # type: ignore[no-untyped-def]
    events = record.stream(sse([1, 2]))
    full = replace(events[-1], kind="full", label="tape full", sender="server")
    assert not traced([*events, full]).missed


def test_nothing_published_changes_nothing(record) -> None:  # type: ignore[no-untyped-def]
    found = lanes(record.stream(sse([1])))
    assert trace(found, []) == found


def test_the_source_is_first_among_several_and_last_beside_one(record) -> None:  # type: ignore[no-untyped-def]
    one = lanes(record.stream(sse([1])))
    assert [lane.name for lane in trace(one, PUBLISHED)] == ["client", "published"]
    two = [*one, replace(one[0], name="other")]
    assert [lane.name for lane in trace(two, PUBLISHED)] == ["published", "client", "other"]


# --- which exchanges, and whose


def test_paths_choose_exchanges_behind_a_twin_too(record) -> None:  # type: ignore[no-untyped-def]
    events = [
        *record.websocket([], "open", path="/ws/rooms/a"),
        *record.websocket([], "open", path="/broken/one_slow/ws/rooms/a", start=0.1),
        *record.stream([], path="/rooms/a/messages", start=0.2),
    ]
    assert [lane.exchanges[0].path for lane in lanes(events, paths=("/ws/rooms",))] == [
        "/ws/rooms/a",
        "/broken/one_slow/ws/rooms/a",
    ]
    assert len(lanes(events)) == 3
    assert lanes(events, ["ana", "ben"], ("/ws/",))[1].name == "ben"


def test_a_client_is_known_by_a_parameter_or_a_header(record) -> None:  # type: ignore[no-untyped-def]
    streams = [("ana", 0.0), ("ben", 0.1), ("ben", 1.5), ("ana", 1.6)]
    events = [
        event
        for who, start in streams
        for event in record.stream([], (start + 1.0, "cut"), path=f"/events?client={who}", start=start)
    ]
    found = lanes(events, by="client")
    assert [(lane.name, [each.start for each in lane.exchanges]) for lane in found] == [
        ("ana", [0.0, 1.6]),
        ("ben", [0.1, 1.5]),
    ]
    assert [lane.name for lane in lanes(events, ["one"], by="client")] == ["one", "ben"]
    resumed = [*record.stream([], last="7"), *record.stream([], last="8", start=0.1)]
    assert [lane.name for lane in lanes(resumed, by="Last-Event-Id")] == ["7", "8"]
    assert [lane.name for lane in lanes(resumed, by="missing")] == ["client"]
