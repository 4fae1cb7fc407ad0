"""Plots: the numbers stand in the picture and its alternative text, the finding in the text; no label on another."""

import random
from collections.abc import Callable

import pytest

from labserver.errors import LabError
from labserver.stage.plots import Band, Bar, Series, bars, plot
from labserver.stage.rich import Picture

HEARTBEATS = """Heartbeat round trips

on time
  = before    on time

late
  ! blocked   late, each by less than the one before
  = after     on time
"""


def heartbeats(**more: object) -> Picture:
    times = [0.05 + 0.1 * n for n in range(60)]
    late = [x for x in times if 2 <= x < 3.5]
    quick = [x for x in times if x not in late]
    series = [
        Series("on time", quick, [1.5] * len(quick)),
        Series("late", late, [3500 - 1000 * x for x in late], hot=True),
    ]
    return plot("Heartbeat round trips", series, headline="Every heartbeat waits", **more)  # type: ignore[arg-type]


def test_hot_dots_stand_on_stems_in_a_marked_interval(well_made: Callable[[Picture], None]) -> None:
    picture = heartbeats(
        bands=[Band(2, 3.5, "loop blocked")],
        twin={
            "on time": "= before  on time",
            "late": ["! blocked  late, each by less than the one before", "= after  on time"],
        },
    )
    well_made(picture)
    assert picture.twin == HEARTBEATS
    assert picture.svg.count("<circle") == 60
    assert picture.svg.count(' class="f-hot" cx=') == 15
    assert ">loop blocked<" in picture.svg
    assert ">1,450 ms<" in picture.svg, "the hot series says how high it goes"
    assert picture.svg.count('fill="#e4e8ec" class="f-band" d=') == 1
    assert "late: 15 points, 50 to 1,450 ms, highest at 2.05 seconds" in picture.alt
    assert "Marked: loop blocked, 2 to 3.5 seconds." in picture.alt


def test_the_text_is_the_same_for_other_numbers() -> None:
    found = {
        plot(
            "delay",
            [Series("delay", range(9), [random.random() for _ in range(9)])],
            headline="x",
            twin=["~ delay  ok"],
        )
        for _ in range(2)
    }
    assert {each.twin for each in found} == {"delay\n\ndelay\n  ~ delay     ok\n"}
    assert len({each.svg for each in found}) == 2


def test_panels_share_their_axes(well_made: Callable[[Picture], None]) -> None:
    lag = Series("lag", [0, 1, 2, 3], [1, 900, 400, 2], hot=True, style="line")
    calm = Series("lag", [0, 1, 2, 3], [1, 2, 1, 2], style="line")
    picture = plot(
        "loop lag",
        [("broken", [lag], [Band(0.5, 2.5, "blocked")]), ("mended", [calm])],
        headline="Work in a thread leaves the loop free",
        twin={"mended": "every wake-up within the bound"},
    )
    well_made(picture)
    assert picture.twin == (
        "loop lag\n\n== broken ==\n\nlag\n\n== mended ==\n\nlag\n  ~ every wake-up within the bound\n"
    )
    assert picture.svg.count(">1,000 ms<") == 2, "one y scale for both"
    assert picture.svg.count(">seconds<") == 1, "one x axis"
    assert picture.svg.count(">blocked<") == 1
    assert "broken: lag: 4 points, 1 to 900 ms" in picture.alt


@pytest.mark.parametrize("style", ["dots", "line", "steps", "bars"])
@pytest.mark.parametrize("log_y", [False, True])
def test_any_data_in_any_style(well_made: Callable[[Picture], None], style: str, log_y: bool) -> None:
    source = random.Random(f"{style}{log_y}")
    cases = [[0.0], [0.0, 0.0], [5.0, float("nan"), float("inf")], [1e-6, 1e9], [-3.0, 4.0], [-5.0, -2.0]]
    cases += [[source.lognormvariate(1, 2) for _ in range(count)] for count in (3, 50)]
    cases += [[source.lognormvariate(1, 2) for _ in range(3000)]]
    for ys in cases:
        for reach in (1.0, 0.3) if len(ys) < 60 else (1.0,):
            xs = [reach * n for n in range(len(ys))]
            many = [
                Series(f"series number {n}", xs, [y * n for y in ys], hot=n == 2, style=style)  # type: ignore[arg-type]
                for n in range(1, 6)
            ]
            short = Series("short", xs[: len(xs) // 2], ys[: len(xs) // 2])
            well_made(plot("p", [*many, short], headline="many", log_y=log_y, bands=[Band(0, 1, "a"), Band(1, 2, "b")]))
    assert len(plot("p", many, headline="many", log_y=log_y).svg) < 250_000


def test_long_words_fit(well_made: Callable[[Picture], None]) -> None:
    long = "a label that is far too long to stand beside anything at all"
    series = [Series(long, [0, 1], [1, 2]), Series(long + "!", [0, 1], [1, 2], hot=True)]
    well_made(plot(long, series, headline=long * 3, note=long * 3, x=long, y=long, bands=[Band(0.4, 0.6, long)]))
    well_made(plot(long, series[:1], headline="x", marks=[(0.9, long), (0.95, long), (0.5, 1.5, long)]))
    well_made(bars("b", [Bar(long, 1, note=long), Bar(long, 2, hot=True)], headline=long, unit="requests per second"))


def test_marks_name_a_moment_and_a_point(well_made: Callable[[Picture], None]) -> None:
    picture = plot("queue", [Series("queue", [0, 1, 4], [0, 64, 64], style="steps")], headline="full", y="messages",
                   marks=[(1, "outbox full"), (4, 64, "never read")])  # fmt: skip
    well_made(picture)
    assert ">outbox full<" in picture.svg
    assert ">never read<" in picture.svg
    assert picture.svg.count('stroke-dasharray="3 3"') == 1
    assert "At 1 seconds: outbox full. At 4 seconds: never read." in picture.alt
    assert "outbox" not in picture.twin


def test_bars_print_their_values(well_made: Callable[[Picture], None]) -> None:
    picture = bars(
        "a file of 200 MB",
        panels=[
            (
                "throughput",
                "MB/s",
                [Bar("FileResponse", 1840), Bar("read at once", 412.4, hot=True, note="holds it all")],
            ),
            ("CPU time", "s per GB", [Bar("FileResponse", 0.344), Bar("read at once", 0)]),
        ],
        headline="Small chunks cost CPU",
        twin={"throughput": "= order  FileResponse first", "CPU time": "every copy costs"},
    )
    well_made(picture)
    for text in ("1,840 MB/s", "412 MB/s", "0.344 s per GB", "0 s per GB", "holds it all"):
        assert f">{text}<" in picture.svg
    assert picture.twin == (
        "a file of 200 MB\n\n== throughput ==\n\nFileResponse\nread at once\n  = order     FileResponse first\n\n"
        "== CPU time ==\n\nFileResponse\nread at once\n  ~ every copy costs\n"
    )
    assert "throughput: FileResponse 1,840 MB/s; read at once 412 MB/s (holds it all)." in picture.alt
    widths = [float(part.split('width="')[1].split('"')[0]) for part in picture.svg.split('class="f-ink" x="176"')[1:]]
    assert widths[0] > 500, "the longest bar takes the room"


def test_wrong_use_is_a_sentence() -> None:
    one = Series("one", [1], [1], hot=True)
    with pytest.raises(LabError, match="nothing to plot"):
        plot("p", [], headline="x")
    with pytest.raises(LabError, match="At most one series"):
        plot("p", [one, one], headline="x")
    with pytest.raises(LabError, match="2 xs and 1 ys"):
        plot("p", [Series("s", [1, 2], [1])], headline="x")
    with pytest.raises(LabError, match="list of panels"):
        plot("p", [("head", [one]), one], headline="x")  # type: ignore[list-item]
    with pytest.raises(LabError, match="no label and no head"):
        plot("p", [one], headline="x", twin={"two": "~ x"})
    with pytest.raises(LabError, match="nothing to compare"):
        bars("b", [], headline="x")
    with pytest.raises(LabError, match="begins at zero"):
        bars("b", [Bar("a", -1)], headline="x")
