"""Each limit has a reason, and a rate counts."""

import pytest
from pydantic import ValidationError

from labserver.realtime import limits
from labserver.realtime.limits import Limits, Rate


@pytest.mark.parametrize("name", Limits.model_fields)
def test_each_limit_says_its_unit_and_its_reason(name: str) -> None:
    assert len(str(Limits.model_fields[name].description).split()) >= 8


def test_limits_do_not_change_and_refuse_what_would_be_none() -> None:
    with pytest.raises(ValidationError):
        Limits().outbox_bytes = 1  # type: ignore[misc]
    for name in ("outbox_bytes", "write_deadline", "history_messages", "ws_heartbeat"):
        with pytest.raises(ValidationError):
            Limits(**{name: 0})


def test_a_burst_is_allowed_and_then_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    rate = Rate(2, 5)
    assert [rate.allows() for _ in range(6)] == [True] * 5 + [False]
    now += 1
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    now += 1000
    assert [rate.allows() for _ in range(6)] == [True] * 5 + [False], "silence saves up no more than a burst"


def test_no_rate_is_no_limit() -> None:
    rate = Rate(float("inf"), 1)
    assert all(rate.allows() for _ in range(1000))
