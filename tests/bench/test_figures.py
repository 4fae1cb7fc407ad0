"""What is computed from samples: medians of ratios, verdicts, what could not be measured, and the warnings."""

import json

import pytest
from rich.console import Console

from labserver.bench import view
from labserver.bench.figures import Found, Goal, Sample, figures, to_json
from labserver.bench.rounds import order
from labserver.bench.rows import OURS, ROWS, faster, slower
from labserver.errors import LabError


def found(*rounds: dict[str, Sample], goals: tuple[Goal, ...] = (), row: str = "fanout") -> Found:
    return Found(row, "Fan-out", "us", goals, (OURS,), list(rounds))


def costs(ours: float, peer: float) -> dict[str, Sample]:
    return {OURS: {"cost": ours}, "C": {"cost": peer}}


def test_a_figure_is_the_median_of_the_rounds_own_ratios() -> None:
    # in the second round the machine was ten times slower, which falls on both
    (figure,) = figures(found(costs(2, 1), costs(30, 10), costs(1, 1), goals=(slower("C", 2.5, 1.5),)))
    assert figure.values == (2, 3, 1)
    assert figure.value == 2
    assert figure.spread == (1, 3)


@pytest.mark.parametrize(
    ("goal", "ours", "verdict"),
    [
        (slower("C", 1.4, 1.2), 1.2, "aim reached"),
        (slower("C", 1.4, 1.2), 1.3, "reached"),
        (slower("C", 1.4, 1.2), 1.5, "missed"),
        (faster("C", 2, 4), 0.25, "aim reached"),
        (faster("C", 2, 4), 0.5, "reached"),
        (faster("C", 2, 4), 1.0, "missed"),
        (faster("C"), 1.0, "no goal"),
    ],
)
def test_a_verdict_says_which_bound_was_kept(goal: Goal, ours: float, verdict: str) -> None:
    assert figures(found(costs(ours, 1), goals=(goal,)))[0].verdict == verdict


def test_what_was_not_measured_has_no_value_and_a_reason() -> None:
    lacking = found({OURS: {"cost": 1.0}}, goals=(slower("C", 1.4, 1.2),))
    lacking.missing["C"] = "there is no C compiler"
    (figure,) = figures(lacking)
    assert (figure.values, figure.verdict, figure.why) == ((), "not measured", "C: there is no C compiler")
    assert "C was not measured: there is no C compiler." in " ".join(remarks(lacking))


def remarks(*every: Found, program: bool = True) -> list[str]:
    return view.remarks(every, quick=False, cores=True, program=program)


def test_the_load_generator_is_named_when_it_is_the_bottleneck() -> None:
    busy, idle = {"cost": 1.0, "load_busy": 0.97, "server_busy": 0.6}, {"cost": 1.0, "load_busy": 0.5, "server_busy": 1}
    both = {"cost": 1.0, "load_busy": 0.95, "server_busy": 0.99}
    slow = found({OURS: busy, "C": idle, "picows": both})
    assert slow.bottlenecks() == [OURS]
    assert remarks(slow) == [f"fanout: the load generator was the bottleneck beside {OURS}."]
    assert remarks(found({OURS: idle})) == []
    assert "in Python" in remarks(found(), program=False)[0]


def test_what_went_wrong_with_messages_is_said_of_every_server() -> None:
    bad = {"cost": 1.0, "lost": 2, "doubled": 0, "disordered": 1, "gone": 0}
    assert remarks(found({OURS: bad, "C": {"cost": 1.0}}, {OURS: bad})) == [f"fanout: {OURS}: 4 lost, 2 out of order."]


def test_the_last_row_counts_what_is_ours_alone() -> None:
    clean = {"cost": 1.0, "deliveries": 10.0, "lost": 0.0, "doubled": 0.0, "disordered": 0.0}
    row = order([found({OURS: {**clean, "lost": 3}, "C": {**clean, "doubled": 9}}), found(costs(1, 1))])
    assert {figure.goal.label: (figure.value, figure.verdict) for figure in figures(row)} == {
        "lost": (3, "missed"),
        "doubled": (0, "aim reached"),
        "disordered": (0, "aim reached"),
    }
    assert row.of(OURS, "deliveries") == [10]
    assert order([found(costs(1, 1))]).rounds == []


def test_json_holds_every_sample_and_every_verdict() -> None:
    said = json.loads(json.dumps(to_json([found(costs(1, 1), goals=(slower("C", 1.4, 1.2),))], rounds=1)))
    assert said["rounds"] == 1
    (row,) = said["rows"]
    assert row["rounds"] == [costs(1, 1)]
    assert row["medians"] == {OURS: 1, "C": 1}
    assert row["figures"][0]["verdict"] == "aim reached"


def test_tables_say_what_is_to_be_reached_and_what_was() -> None:
    every = [found(costs(3, 2), goals=(slower("C", 1.4, 1.2), faster("picows", 2, 3)))]
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(view.costs(every))
        console.print(view.summary(every))
    text = captured.get()
    for said in ("1.5 x", "<= 1.4", "<= 1.2", "missed", "not measured", OURS, "3 us"):
        assert said in text


def test_the_picture_compares_servers_and_says_so_in_words() -> None:
    picture = view.picture([found(costs(3, 6)), found(costs(1, 1), row="deflate")])
    assert "2 times as much" in picture.alt
    assert f"{OURS} 3 us" in picture.alt
    assert picture.svg.count("Fan-out") >= 1
    assert "prefers-color-scheme" in picture.svg
    with pytest.raises(LabError, match="nothing to plot"):
        view.picture([found(costs(1, 1), row="deflate")])


def test_every_goal_names_entries_of_its_row() -> None:
    for row in ROWS.values():
        labels = [entry.label for entry in row.entries]
        assert len(labels) == len(set(labels))
        for goal in row.goals:
            assert set(goal.needs) <= set(labels), (row.name, goal.label)
            assert goal.aim is None or goal.must is not None
