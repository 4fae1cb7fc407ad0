"""The table of close codes: numbers that may be sent, reasons that fit."""

import pytest
from websockets.frames import Close

from labserver.realtime import codes
from labserver.realtime.codes import CODES, REASON_BYTES, Refused, may_reconnect, said

NAMED = {name: value for name, value in vars(codes).items() if name.isupper() and isinstance(value, int)}
NAMED.pop("REASON_BYTES")


def test_each_number_has_a_name_and_each_name_a_row() -> None:
    assert set(NAMED.values()) == set(CODES)
    assert all(number == code.number for number, code in CODES.items())


@pytest.mark.parametrize("number", [number for number in CODES if number != 1006])
def test_each_code_may_be_sent_and_its_reason_fits(number: int) -> None:
    close = Close(number, said(CODES[number].reason))
    assert Close.parse(close.serialize()) == close
    assert said(CODES[number].reason) == CODES[number].reason


@pytest.mark.parametrize("reason", ["x" * 200, "é" * 100, "a" + "\U0001f600" * 50, ""])
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    cut = said(reason)
    assert reason.startswith(cut)
    assert len(cut.encode()) <= REASON_BYTES
    assert len(reason.encode()) <= REASON_BYTES or len(cut.encode()) > REASON_BYTES - 4


def test_who_may_come_again() -> None:
    assert {number for number in CODES if may_reconnect(number)} == {
        1001, 1006, 1011, 1012, 1013, 4429, 4430,
    }  # fmt: skip


def test_a_refusal_has_the_reason_of_its_code_or_a_better_one() -> None:
    assert Refused(4403).reason == CODES[4403].reason
    assert str(Refused(4403, "not here")) == "not here"
