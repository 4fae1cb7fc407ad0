"""Rounds on real servers: each peer serves few readers, rounds are interleaved, what fails is a sentence."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from labserver.bench.figures import figures
from labserver.bench.measure import QUICK, Under, fanout
from labserver.bench.peers import Peer, find, packages
from labserver.bench.peers import picows as picows_peer
from labserver.bench.place import Place
from labserver.bench.rounds import measure_row
from labserver.bench.rows import OURS, ROWS, Entry, Row, slower
from labserver.errors import LabError

SIZE = replace(QUICK, readers=20, few=5, seconds=0.1, warmup=0.05, rows=500, file_bytes=3 << 20, tokens=30, questions=1)
CHEAP = "websockets_broadcast"  # starts in no time
ONE_EACH = [(row, entry) for row in ("fanout", "sse") for entry in ROWS[row].entries]


@pytest.fixture
def needed(demand: Any) -> Any:
    def check(peer: str) -> None:
        why = find(peer).missing()
        demand(find(peer).title, not why, why)

    return check


@pytest.fixture(autouse=True)
def all_ended(here: Place) -> Iterator[None]:
    yield
    here.stop()
    here.servers.clear()


@pytest.mark.parametrize(("row", "entry"), ONE_EACH, ids=lambda each: each if isinstance(each, str) else each.label)
def test_every_peer_delivers_every_message_once(row: str, entry: Entry, here: Place, needed: Any) -> None:
    needed(entry.peer)
    found = measure_row(here, replace(ROWS[row], entries=(entry,)), 1, SIZE)
    assert found.missing == {}
    (sample,) = (samples[entry.label] for samples in found.rounds)
    assert sample["deliveries"] == sample["messages"] * SIZE.readers > 0
    assert sample["cost"] == sample["server"] / sample["deliveries"] > 0
    assert found.wrong(entry.label) == {"lost": 0, "doubled": 0, "disordered": 0, "gone": 0}


@pytest.mark.parametrize("name", ["memory", "deflate", "ndjson", "download", "llm", "tokens"])
def test_every_other_row_gives_all_of_its_figures(name: str, here: Place, needed: Any) -> None:
    wanted = {label for goal in ROWS[name].goals for label in goal.needs}
    entries = tuple(entry for entry in ROWS[name].entries if entry.label in wanted)
    for entry in entries:
        needed(entry.peer)
    found = measure_row(here, replace(ROWS[name], entries=entries), 1, SIZE)
    assert found.missing == {}
    for figure in figures(found):
        assert len(figure.values) == 1
    assert found.entries == [entry.label for entry in entries]


def test_rounds_are_interleaved_and_nobody_is_always_first(here: Place) -> None:
    asked: list[str] = []

    def note(label: str) -> Any:
        def measure(under: Under) -> dict[str, float]:
            asked.append(label)
            return {"cost": float(len(asked))}

        return measure

    entries = tuple(Entry(label, CHEAP, note(label)) for label in (OURS, "C"))
    found = measure_row(here, Row("fanout", "", "us", entries, (slower("C", 1, 1),)), 3, SIZE)
    assert asked == [OURS, "C", "C", OURS, OURS, "C"]
    assert figures(found)[0].values == (1 / 2, 4 / 3, 5 / 6)
    assert [list(samples) for samples in found.rounds] == [[OURS, "C"]] * 3
    assert len(here.servers) == 2  # each serves all rounds
    assert all(server.process.poll() is not None for server in here.servers)


def test_a_peer_that_is_not_installed_is_a_sentence_and_no_figure(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picows_peer, "PEER", Peer("picows", packages("no_such_package")))
    entries = tuple(Entry(label, peer, fanout) for label, peer in ((OURS, CHEAP), ("picows", "picows")))
    found = measure_row(here, replace(ROWS["fanout"], entries=entries), 1, SIZE)
    assert found.missing == {"picows": 'no_such_package is not installed: run `pip install -e ".[lab,bench]"`'}
    assert found.entries == [OURS]
    assert {figure.goal.label: figure.verdict for figure in figures(found)}["against picows"] == "not measured"


def test_a_server_that_does_not_start_is_a_sentence(here: Place) -> None:
    with pytest.raises(LabError, match="the server of llm_endpoint did not start: KeyError: 'tokens'"):
        here.serve("llm_endpoint")
    assert all(server.process.poll() is not None for server in here.servers)


def test_without_a_compiler_the_bound_is_a_sentence_and_python_makes_the_load(here: Place) -> None:
    poor = replace(here, compiler="", _built={}, servers=[])
    entries = (Entry(OURS, CHEAP, fanout), *(entry for entry in ROWS["fanout"].entries if entry.label == "C"))
    found = measure_row(poor, replace(ROWS["fanout"], entries=entries), 1, SIZE)
    assert "compiler" in found.missing["C"]
    assert found.of(OURS, "deliveries")[0] > 0


def test_there_is_one_stalled_reader_all_the_time(here: Place) -> None:
    server = here.serve("ours")
    under = Under(here, server, find("ours"), replace(SIZE, seconds=1.2))
    sample = fanout(under, readers=5, size=20_000, flight=8, stalled=1)
    assert sample["returned"] > 0
    assert sample["deliveries"] == sample["messages"] * 5
