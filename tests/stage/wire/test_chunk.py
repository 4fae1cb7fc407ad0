"""Chunks: framing that no client shows."""

from labserver.stage.wire import parse_chunks

GET = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


def test_chunks_are_exact_bytes(talk, answer) -> None:  # type: ignore[no-untyped-def]
    body = b'{"id": 1}\n{"id": 2}\n'
    raw = answer("application/x-ndjson", body, chunk=10)
    chunks = parse_chunks(talk(GET, raw))
    assert [chunk.data for chunk in chunks] == [body[:10], body[10:], b""]
    assert raw.endswith(b"".join(chunk.raw for chunk in chunks))
