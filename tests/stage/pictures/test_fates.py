"""Each mark of what became of what was published, and each line that tells it in the text."""

import re
from collections.abc import Callable, Sequence

import pytest

from labserver.stage.pictures import panels
from labserver.stage.rich import Picture
from labserver.stage.wire import Publication, WireEvent, lanes, trace

PUBLISHED = [Publication(0.4 * n, str(n)) for n in range(1, 7)]
RING = 'r="4.5" stroke-width="1.25" stroke-dasharray="2 2"'
REPLAY = 'class="f-card s-hot" cx='
Check = Callable[[Picture], None]

BROADCAST = """Broadcast

== An outbox per client ==

published
  > event     1..6

ana, ben (each)
  < event     1..6

cleo
  < event     1
  x cut       cut  (no last chunk)
  . lost      2..6

== One send after the other ==

published
  > event     1..6

ana, ben (each)
  < event     1..2
  < event     3..6  late

cleo
  < event     1
  x cut       cut  (no last chunk)
  . lost      2..6
"""

RESUME = """SSE reconnect

client
  > open      GET /events
  < event     1..3
  x cut       cut  (no last chunk)
  ~ measure   offline
  > open      Last-Event-ID: 3
  < event     id 3  (resume, event: resume)
  < replay    4..5
  < event     6

published
  > event     1..6
"""


def sse(numbers: Sequence[int], at: float | None = None) -> list[tuple[float, str]]:
    return [(at + 0.001 * n if at is not None else 0.4 * n + 0.002, f"id: {n}\ndata: x\n\n") for n in numbers]


def draw(*found: tuple[str, list[WireEvent]], name: str = "T", late: float | None = 0.3, **more: object) -> Picture:
    names = more.pop("names", None)
    counts = bool(more.pop("counts", True))
    published = more.pop("published", PUBLISHED)
    idle = more.pop("idle", None)
    told = [(head, trace(lanes(events, names), published, late)) for head, events in found]  # type: ignore[arg-type]
    return panels.picture(name, told, None, None, "auto", counts, "once", idle)  # type: ignore[arg-type]


def rings(picture: Picture) -> int:
    return picture.svg.count(RING)


def hot_dots(picture: Picture) -> int:
    return len(re.findall(r'class="f-hot" cx="[\d.]+" cy="[\d.]+" r="5"', picture.svg))


def test_a_broadcast_beside_its_twin(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    def clients(*streams: list[tuple[float, str]]) -> list[WireEvent]:
        found = [e for n, each in enumerate(streams) for e in record.stream(each, start=0.01 * n)]
        return [*found, *record.stream(sse([1]), (1.5, "cut"), start=0.02)]

    good = clients(sse(range(1, 7)), sse(range(1, 7)))
    bad = clients(*[[*sse([1, 2]), *sse([3, 4, 5, 6], 3.0)]] * 2)
    picture = draw(
        ("An outbox per client", good),
        ("One send after the other", bad),
        name="Broadcast",
        names=["ana", "ben", "cleo"],
    )
    well_made(picture)
    assert picture.twin == BROADCAST
    assert rings(picture) == 5 + 5 + 2 * 4, "lost ones, and due ones of the late"
    assert hot_dots(picture) == 2 * 4
    assert picture.svg.count(">published<") == 2
    assert picture.svg.count(">1.8 s late<") == 2
    assert picture.svg.count(">cut, 5 lost<") == 2
    assert picture.svg.count(">within 2 ms<") == 2
    assert "late: 4 (3 to 6) at 3.0 s, by up to 1.8 s" in picture.alt
    assert "never received: 5 (2 to 6) at 800 ms to 2.4 s" in picture.alt
    assert "published: 6 (1 to 6) at 400 ms to 2.4 s." in picture.alt


def resumed(record) -> list[WireEvent]:  # type: ignore[no-untyped-def]
    first = record.stream(sse([1, 2, 3]), (1.4, "cut"))
    opening = (2.201, "id: 3\nevent: resume\ndata: resume\n\n")
    return [*first, *record.stream([opening, *sse([4, 5], 2.202), *sse([6])], start=2.2, last="3")]


def test_a_reconnect_joins_replays_to_their_publication(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", resumed(record)), name="SSE reconnect")
    well_made(picture)
    assert picture.twin == RESUME
    assert picture.svg.count(REPLAY) == 2
    joins = re.findall(r'class="s-(hot|mute)" d="M([\d.]+) 132.0L([\d.]+) ', picture.svg)
    assert [role for role, _, _ in joins] == ["mute"] * 3 + ["hot"] * 2 + ["mute"]
    for role, x0, x1 in joins:
        assert (abs(float(x0) - float(x1)) > 20) == (role == "hot"), "a replay comes long after its publication"
    assert picture.svg.count(">5<") == 2, "named where it was published and where it came"
    assert "800 ms offline" in picture.svg
    assert rings(picture) == 0
    assert picture.alt.startswith("6 deliveries to the client: 2 replayed.")
    assert "replayed: 2 (4 to 5) at 2.2 s" in picture.alt


def test_two_clients_replay_on_their_own_lanes(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    other = [*record.stream(sse([1, 2, 3]), (1.45, "cut"), start=0.01), *record.stream(sse([6]), start=2.25)]
    picture = draw(("", [*resumed(record), *other]), names=["with", "without"])
    well_made(picture)
    assert picture.svg.count(REPLAY) == 2
    assert rings(picture) == 2 + 2
    assert ">2 replayed<" in picture.svg
    assert ">2 lost<" in picture.svg
    assert "with\n  < event     1..3\n  x cut" in picture.twin
    assert "  . lost      4..5\n  ~ measure   offline\n  > open      GET /events\n  < event     6\n" in picture.twin


def test_one_late_client_is_measured(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", record.stream([*sse([1]), *sse([2, 3], 2.6), *sse([4, 6])])))
    well_made(picture)
    assert ">1.8 s late<" in picture.svg
    assert hot_dots(picture) == 2
    assert rings(picture) == 3
    assert ">5 lost<" in picture.svg
    assert "  < event     2..3  late\n" in picture.twin
    assert "  . lost      5\n" in picture.twin


def test_lost_in_a_gap_are_rings_between_the_bands(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    both = [*record.stream(sse([1, 2, 3]), (1.3, "cut")), *record.stream(sse([6]), start=2.3)]
    picture = draw(("", both))
    well_made(picture)
    assert rings(picture) == 2
    assert hot_dots(picture) == 0
    words = re.search(r'y="([\d.]+)"[^>]*>1.0 s offline<', picture.svg)
    assert words, "it has no room beside the rings,"
    assert float(words.group(1)) > 132, "so it stands below the band"
    assert "~ measure   offline" in picture.twin


def test_lost_at_the_very_end_is_named(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", record.stream(sse(range(1, 6)), (2.2, "cut"))))
    well_made(picture)
    assert ">6 lost<" in picture.svg


def test_a_socket_sent_away(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    steps = [(0.4 * n + 0.001, "server", f"message {n}") for n in range(1, 7)]
    events = [
        *record.websocket(steps, "open"),
        *record.websocket(steps[:2], "1013 too slow", start=0.01),
        *record.websocket([], "open", start=0.02),
    ]
    picture = draw(("", events), names=["ana", "cleo", "dan"])
    well_made(picture)
    assert ">close 1013, 4 lost<" in picture.svg
    assert "cleo\n  < text      1..2\n  < close     close 1013 too slow" in picture.twin
    assert picture.twin.endswith("dan\n  . lost      1..6\n")
    assert "101 Switching" not in picture.twin


def test_counts_that_timing_decides(record) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", record.stream([*sse([1, 2]), *sse([3, 4], 2.6)])), counts=False)
    assert "  < event     3.. +  late\n" in picture.twin


@pytest.mark.parametrize("clients", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 30, 200])
def test_any_number_of_them_fits(record, well_made: Check, clients: int, count: int) -> None:  # type: ignore[no-untyped-def]
    published = [Publication(6.0 * n / count, f"event-{n}") for n in range(1, count + 1)]
    pieces = [(each.at + 0.001 + (each.at > 3) * 2, f"id: {each.label}\ndata: x\n\n") for each in published[::2]]
    events = [
        *(e for n in range(clients - 1) for e in record.stream(pieces, start=0.01 * n)),
        *record.stream(pieces[: len(pieces) // 2], (4.0, "cut"), start=0.5),
    ]
    names = ["a name that is much too long for its column", *"bcdefgh"]
    for idle in (None, 1.0):
        well_made(draw(("", events), published=published, idle=idle, names=names))
    head = "a head that is very long and says everything " * 3
    well_made(draw((head, events), (head, events[:5]), published=published))


def test_nothing_received_is_said(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    events = [*record.stream([], (0.1, "clean")), *record.stream([], (0.1, "clean"), start=0.01)]
    picture = draw(("", events))
    well_made(picture)
    assert picture.twin.endswith("client 1..2 (each)\n  (nothing)\n")


# --- the idle clock


def test_the_text_says_whether_silence_reaches_the_limit(record, well_made: Check) -> None:  # type: ignore[no-untyped-def]
    alive = record.stream([(0.5 * n, ": keepalive\n\n") for n in range(1, 6)], (2.6, "clean"))
    cut = record.stream(sse([1]), (1.41, "cut"))
    for events, words in ((alive, "stays below"), (cut, "reaches")):
        picture = draw(("", events), published=[], idle=1.0)
        well_made(picture)
        assert f"  ~ measure   silence {words} the limit\n" in picture.twin
        assert picture.twin.count("measure") == 1
    assert "silence" not in draw(("", record.stream(sse([1]), (0.6, "cut"))), published=[], idle=1.0).twin
    assert "goes beyond" in draw(("", record.stream(sse([1, 6]), (2.5, "clean"))), published=[], idle=1.0).twin
    assert "silence" not in draw(("", cut), published=[]).twin
