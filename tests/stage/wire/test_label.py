"""Payloads in a few words."""

from labserver.stage.wire.label import counted, elide, hexed, preview


def test_elide_keeps_a_line_a_line() -> None:
    assert elide("a\nb\x00\u202ec", 20) == "a\\nb··c"
    assert elide("x" * 50, 10) == "x" * 9 + "…"


def test_a_preview_is_text_or_hex() -> None:
    assert preview(b'{"a": 1}\n') == '{"a": 1}\\n'
    assert preview(b"\x00\x01") == "00 01"
    assert preview(b"\xff" * 20) == "ff " * 15 + "ff …"
    assert preview("ä".encode() * 500, 9) == "ä" * 8 + "…", "its beginning may end inside a character"
    assert preview("日".encode() * 500, 10) == "日" * 9 + "…"


def test_numbers() -> None:
    assert [counted(number, "byte") for number in (0, 1, 1200)] == ["0 bytes", "1 byte", "1200 bytes"]
    assert hexed(b"\x00\xff\x7f", 2) == "00 ff …"
