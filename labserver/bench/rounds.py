"""Rounds: every entry of a row once, then again, so that what the machine does meanwhile falls on all of them alike."""

from collections.abc import Callable, Iterable

from labserver.bench.figures import WRONG, Found, Goal, Samples
from labserver.bench.measure import Size, Under
from labserver.bench.peers import find
from labserver.bench.place import Place, Server
from labserver.bench.rows import OURS, Entry, Row
from labserver.errors import LabError

__all__ = ["ORDER", "Tell", "measure_row", "order"]

Tell = Callable[[str, str, int], None]
"""Told before each sample: row, entry, round."""

ORDER = "order"  # the row made of all others
OWN = ("ours", "service")  # the peers that are the lab's own


def measure_row(place: Place, row: Row, rounds: int, size: Size, tell: Tell = lambda *_: None) -> Found:
    """Return what `rounds` interleaved rounds of a row give; an entry that fails is left out, with its reason."""
    labels = [entry.label for entry in row.entries]
    ours = tuple(entry.label for entry in row.entries if entry.peer in OWN)
    found = Found(row.name, row.title, row.unit, row.goals, ours)
    servers: dict[str, Server] = {}
    try:
        for at in range(rounds):
            found.rounds.append({})
            turn = at % len(row.entries)
            for entry in (*row.entries[turn:], *row.entries[:turn]):  # nobody is always the first
                if entry.label not in found.missing:
                    tell(row.name, entry.label, at)
                    _sample(place, row, entry, size, servers, found)
    finally:
        _stop(servers, list(servers))
    found.rounds = [{each: samples[each] for each in labels if each in samples} for samples in found.rounds]
    return found


def _sample(place: Place, row: Row, entry: Entry, size: Size, servers: dict[str, Server], found: Found) -> None:
    peer = find(entry.peer)
    if why := peer.missing():
        found.missing[entry.label] = why
        return
    try:
        if entry.label not in servers:
            core = place.load_core if entry.beside else place.server_core
            servers[entry.label] = place.serve(entry.peer, entry.prepare(place, size), core=core)
        found.rounds[-1][entry.label] = entry.measure(Under(place, servers[entry.label], peer, size))
    except LabError as error:
        found.missing[entry.label] = str(error)
        _stop(servers, [entry.label])
    if row.fresh:
        _stop(servers, [entry.label])


def _stop(servers: dict[str, Server], labels: Iterable[str]) -> None:
    for label in labels:
        if label in servers:
            servers.pop(label).stop()


def order(every: Iterable[Found]) -> Found:
    """Return the row of what the lab's own machinery lost, doubled or swapped, over all other rows."""
    goals = tuple(Goal(name, (OURS,), _of(name), "messages", 0.0, 0.0) for name in WRONG)
    found = Found(ORDER, "Messages lost, doubled, out of order", "messages", goals, (OURS,))
    samples = [one[label] for each in every for one in each.rounds for label in each.ours if label in one]
    counted = [sample for sample in samples if "deliveries" in sample]
    if counted:
        total = {name: sum(sample[name] for sample in counted) for name in (*WRONG, "deliveries")}
        found.rounds = [{OURS: {**total, "cost": sum(total[name] for name in WRONG)}}]
    return found


def _of(name: str) -> Callable[[Samples], float]:
    return lambda samples: samples[OURS][name]
