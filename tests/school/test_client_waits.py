"""The judgement on waits that are drawn by chance: a right answer always passes it, a wrong one hardly ever does."""

from random import Random

import pytest

from labserver.school.catalogue import checks_module

checks = checks_module("15_reconnecting_client")
CEILINGS = [min(checks.CAP, checks.FIRST * 2**n) for n in range(checks.FAILURES)]
TRIALS = 1000


def crowd(draw, ceilings, late=0.0, random=None):
    """The waits of a crowd: one for each failure in a row, then one after an event; each late by up to so much."""
    random = random or Random(1)
    rows = range(checks.CROWD)
    return [[draw(random, top) + random.uniform(0, late) for top in [*ceilings, ceilings[0]]] for _ in rows]


def full(random, top):
    return random.uniform(0, top)


def failing(draw, ceilings, late=0.0, anew=None):
    """How many of the trials are judged wrong, and by which words."""
    random, seen = Random(7), []
    for _ in range(TRIALS):
        waits = crowd(draw, ceilings, late, random)
        for row in waits:
            row[-1] = row[-1] if anew is None else draw(random, anew)
        if (failed := checks.judged(waits)) is not None:
            seen.append(failed.seen)
    return len(seen), " ".join(sorted(set(seen)))


@pytest.mark.parametrize("late", [0.0, 0.05, 0.2], ids=["idle machine", "busy", "very busy"])
def test_full_jitter_is_never_judged_wrong(late):
    assert failing(full, CEILINGS, late) == (0, "")


def test_half_of_it_by_chance_will_do():
    assert failing(lambda random, top: top / 2 + random.uniform(0, top / 2), CEILINGS)[0] == 0


@pytest.mark.parametrize(
    ("draw", "ceilings", "anew", "says"),
    [
        (lambda random, top: top, CEILINGS, None, "clients that all wait"),
        (lambda random, top: top * random.uniform(0.9, 1.1), CEILINGS, None, "clients that all wait"),
        (lambda random, top: 0.0, CEILINGS, None, "on average"),
        (full, [checks.FIRST] * checks.FAILURES, None, "on average"),
        (full, [2 * checks.CAP] * checks.FAILURES, None, "as long as the sixth"),
        (full, [checks.FIRST * 2**n for n in range(checks.FAILURES)], None, "on average after 6"),
        (full, [checks.FIRST, 2 * checks.FIRST] * 3, None, "on average"),
        (full, CEILINGS, checks.CAP, "after an event, as before it"),
    ],
    ids=["no jitter", "a little", "no wait", "no growth", "always long", "no cap", "reset by a 200", "never reset"],
)
def test_what_is_wrong_is_seen(draw, ceilings, anew, says):
    count, seen = failing(draw, ceilings, late=0.02, anew=anew)
    assert count >= 0.95 * TRIALS
    assert says in seen
